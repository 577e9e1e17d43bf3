"""Learned steps of weights: grids that can be found again, masks, checkpoints, distillation."""

import itertools
import signal

import pytest
import torch
from torch import nn

from edgekit.compress.distillation.distil import distil
from edgekit.compress.training.grids import RoundedLayer, on_grid
from edgekit.compress.training.objective import label_objective
from edgekit.compress.training.rounding import make_rounder
from edgekit.compress.training.train import train
from edgekit.compress.training.update import NotFiniteError, Updater
from edgekit.compress.training.weight_steps import WeightSteps, best_steps
from edgekit.core.steps import Distil, Rounding, Train
from tests.compress.benches import (
    SILENT,
    TinyCnn,
    assert_same_state,
    bench_of,
    fit,
    mlp_bench,
    seeded,
    state_of,
)

LSQ = Rounding(precision="int4", activations="static", method="lsq")
CPU = torch.device("cpu")


def layer_of(weight, *, top=7, block_size=0, path="layer"):
    return RoundedLayer(
        path=path, weight=nn.Parameter(weight), axis=0, bits=4, top=top, block_size=block_size
    )


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_steps_begin_where_rounding_loses_least():
    rows = draws(5, 40)
    found = best_steps(rows, 7)
    full = rows.abs().amax(dim=1, keepdim=True) / 7

    def lost(steps):
        return (rows - (rows / steps).clamp(-7, 7).round() * steps).square().sum(dim=1)

    for share in torch.linspace(0.5, 1.0, 51):
        assert (lost(found) <= lost(full * share) + 1e-5).all()


def test_weights_that_are_on_a_grid_begin_on_it():
    rows = on_grid(draws(6, 30), axis=0, top=7)
    steps = WeightSteps([layer_of(rows)])
    assert torch.allclose(steps.rounded(0, rows), rows, atol=1e-6)


@pytest.mark.parametrize("ratio", [0.3, 0.8, 1.0, 1.7, 30.0])
@pytest.mark.parametrize(("top", "block_size"), [(7, 0), (7, 32), (127, 0), (64, 0)])
def test_the_largest_integer_is_reached_whatever_was_learned(ratio, top, block_size):
    weight = draws(8, 64)
    steps = WeightSteps([layer_of(weight, top=top, block_size=block_size)])
    with torch.no_grad():
        steps.ratios[0].fill_(ratio)
    rounded = steps.rounded(0, weight)
    # A reader that knows the rounded weights alone finds them again.
    found = on_grid(rounded, axis=0, top=top, block_size=block_size)
    assert torch.allclose(found, rounded, atol=1e-6)
    steps.settle_()
    assert torch.allclose(steps.rounded(0, weight), rounded, atol=1e-6)
    assert torch.allclose(steps.rounded(0, rounded), rounded, atol=1e-6)


def test_rows_of_zeros_stay_zeros():
    weight = draws(4, 10)
    weight[2] = 0
    steps = WeightSteps([layer_of(weight)])
    steps.settle_()
    rounded = steps.rounded(0, weight)
    assert not rounded[2].any()
    assert rounded.isfinite().all()
    assert not steps.collapsed()


def test_one_step_of_training_moves_weights_and_steps_by_their_gradients(digits, tmp_path):
    bench = mlp_bench(digits, tmp_path)
    settings = Train(
        optimizer="sgd",
        learning_rate=0.01,
        momentum=0.0,
        weight_decay=0.0,
        clip_norm=0.0,
        schedule="constant",
        warmup_ratio=0.0,
    )
    rounding = Rounding(precision="int4", method="lsq", keep_first_last_int8=False)
    rounder = make_rounder(bench.model, rounding, bench.call, bench.example())
    layer = rounder.layers[1]
    weight, start = layer.weight.detach().clone(), best_steps(layer.weight.detach(), 7)
    image = draws(8, 1, 8, 8, seed=4)
    with rounder.showing():
        loss = bench.model.train()(image).square().mean()
        (gradient,) = torch.autograd.grad(loss, layer.weight)
    updater = Updater(bench.model, settings, {}, device=CPU, steps=10, rounder=rounder)
    updater.step(lambda: bench.model(image).square().mean(), 0)
    whole = weight / start
    inside = (whole > -7) & (whole < 7)
    assert torch.allclose(layer.weight, weight - 0.01 * gradient * inside, atol=1e-7)
    share = torch.where(inside, whole.round() - whole, whole.clamp(-7, 7))
    of_steps = (gradient * share).sum(dim=1, keepdim=True) / (weight.shape[1] * 7) ** 0.5
    ratio = rounder.parameters["rounding:weights.ratios.1"]
    assert torch.allclose(start * ratio, start - 0.01 * of_steps, atol=1e-6)
    assert float((ratio - 1).abs().max().detach()) > 0


def test_weights_and_steps_are_clipped_apart(digits, tmp_path):
    """However large the gradient of one is, the other moves by as much as it may."""
    bench = mlp_bench(digits, tmp_path)
    settings = Train(
        optimizer="sgd",
        learning_rate=0.01,
        momentum=0.0,
        weight_decay=0.0,
        clip_norm=1e-3,
        schedule="constant",
        warmup_ratio=0.0,
    )
    rounder = make_rounder(bench.model, LSQ, bench.call, bench.example())
    before = [value.detach().clone() for value in bench.model.parameters()]
    updater = Updater(bench.model, settings, {}, device=CPU, steps=10, rounder=rounder)
    updater.step(lambda: bench.model(draws(8, 1, 8, 8)).square().mean(), 0)
    moved = [new - old for new, old in zip(bench.model.parameters(), before, strict=True)]
    steps = [value - 1 for value in rounder.parameters.values()]
    for group in (moved, steps):
        norm = torch.stack([item.detach().norm() for item in group]).norm()
        assert float(norm) == pytest.approx(0.01 * 1e-3, rel=0.02)


def test_a_step_that_falls_to_nothing_is_refused_with_its_layer(digits, tmp_path):
    bench = mlp_bench(digits, tmp_path)
    rounder = make_rounder(bench.model, LSQ, bench.call, bench.example())
    updater = Updater(bench.model, Train(), {}, device=CPU, steps=10, rounder=rounder)
    with torch.no_grad():
        rounder.parameters["rounding:weights.ratios.1"][0] = -0.1
    with pytest.raises(NotFiniteError, match=r"a step of layer 'layers.3' fell to -0\.1"):
        updater.step(lambda: bench.model(torch.ones(2, 1, 8, 8)).mean(), 0)


def test_steps_are_not_decayed(digits, tmp_path):
    bench = mlp_bench(digits, tmp_path)
    rounder = make_rounder(bench.model, LSQ, bench.call, bench.example())
    settings = Train(weight_decay=1.0, learning_rate=1e-3)
    updater = Updater(bench.model, settings, {}, device=CPU, steps=10, rounder=rounder)
    updater.step(lambda: sum(value.sum() * 0 for value in bench.model.parameters()), 0)
    assert all((value == 1).all() for value in rounder.parameters.values())


def assert_on_grid(model, *paths):
    for path in paths:
        rows = model.get_submodule(path).weight.detach().flatten(1)
        steps = rows / rows.abs().amax(dim=1, keepdim=True) * 7
        assert torch.allclose(steps, steps.round(), atol=1e-3), path


def masks_of(model):
    return {"first.weight": draws(*model.first.weight.shape, seed=5) > 0}


def small_bench(digits, folder):
    """Enough for steps and ranges to move."""
    return bench_of(seeded(lambda: TinyCnn(4)), digits, folder)


def run(digits, folder, **changes):
    """A training with masks and learned steps."""
    bench = small_bench(digits, folder)
    settings = Train(**{"epochs": 2, "learning_rate": 3e-3, "rounding": LSQ, **changes})
    masks = masks_of(bench.model)
    trained = train(bench.model, label_objective(bench), bench, settings, SILENT, masks=masks)
    return bench, trained


def test_masked_weights_stay_zero_and_the_rest_is_on_the_grid(digits, tmp_path):
    bench, _ = run(digits, tmp_path)
    keeps = masks_of(bench.model)["first.weight"]
    assert not bench.model.first.weight[~keeps].any()
    assert bench.model.first.weight[keeps].any()
    assert_on_grid(bench.model, "first", "second", "pointwise")


def test_a_student_learns_with_rounded_weights_and_activations(digits, tmp_path):
    student = fit(seeded(lambda: TinyCnn(8)), digits, epochs=2)
    bench = bench_of(student, digits, tmp_path, teacher=fit(seeded(TinyCnn), digits, epochs=2))
    settings = Distil(
        feature_weight=0.1,
        train=Train(epochs=2, learning_rate=3e-3, rounding=LSQ),
    )
    result = distil(settings, bench, SILENT)
    assert_on_grid(result.model, "first", "second", "pointwise")
    assert len(result.ranges) == 9
    assert result.values["score"] > 0.5


def test_the_same_seed_gives_the_same_bits(digits, tmp_path):
    one, first = run(digits, tmp_path / "one", epochs=1)
    other, second = run(digits, tmp_path / "other", epochs=1)
    assert_same_state(state_of(one.model), state_of(other.model))
    assert first.ranges == second.ranges


def test_an_average_has_steps_of_its_own(digits, tmp_path):
    bench, trained = run(digits, tmp_path, ema_decay=0.9, learning_rate=0.03)
    assert_on_grid(bench.model, "first", "second")
    assert trained.score > trained.points[0].score


@pytest.mark.parametrize("method", ["lsq", "straight_through"])
def test_a_training_that_was_interrupted_ends_with_the_same_bits(method, digits, tmp_path):
    """Interrupted in the middle of an epoch, where ranges and steps have moved."""
    rounding = Rounding(precision="int4", activations="static", method=method)
    whole, expected = run(digits, tmp_path / "whole", rounding=rounding)
    bench = small_bench(digits, tmp_path / "killed")
    inner = label_objective(bench)
    numbers = itertools.count()

    def stopping(model, batch):
        if model.training and next(numbers) == 13:
            signal.raise_signal(signal.SIGINT)
        return inner(model, batch)

    settings = Train(epochs=2, learning_rate=3e-3, rounding=rounding)
    masks = masks_of(bench.model)
    with pytest.raises(KeyboardInterrupt):
        train(bench.model, stopping, bench, settings, SILENT, masks=masks)
    again = small_bench(digits, tmp_path / "killed")
    found = train(again.model, label_objective(again), again, settings, SILENT, masks=masks)
    assert_same_state(state_of(again.model), state_of(whole.model))
    assert found.ranges == expected.ranges
    # And once more, from what a finished training keeps.
    last = small_bench(digits, tmp_path / "killed")
    kept = train(last.model, label_objective(last), last, settings, SILENT, masks=masks)
    assert_same_state(state_of(last.model), state_of(whole.model))
    assert kept.ranges == expected.ranges
