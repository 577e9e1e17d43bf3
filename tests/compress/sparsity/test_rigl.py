"""Weights that move while a model trains: by hand, and in real trainings."""

import copy
import math

import pytest
import torch

from edgekit.compress.sparsity.rigl import RigL, drop_share, moved, plan_updates
from edgekit.compress.sparsity.sparse_layers import participants
from edgekit.compress.sparsity.sparse_round import magnitude_masks
from edgekit.compress.sparsity.sparsify import sparsify
from edgekit.compress.training.objective import label_objective
from edgekit.compress.training.train import train
from edgekit.core.errors import StepError
from edgekit.core.progress import Event, Reporter
from edgekit.core.steps import Sparsify, Train
from tests.compress.benches import SILENT, bench_of

SGD = Train(epochs=3, batch_size=64, optimizer="sgd", learning_rate=0.05, weight_decay=1e-2)


def test_the_share_that_moves_falls_along_half_a_cosine():
    assert drop_share(0, 100, 0.3) == pytest.approx(0.3)
    assert drop_share(50, 100, 0.3) == pytest.approx(0.15)
    assert drop_share(25, 100, 0.3) == pytest.approx(0.15 * (1 + math.sqrt(0.5)))
    assert drop_share(100, 100, 0.3) == pytest.approx(0.0)


def test_the_smallest_go_and_those_with_the_largest_gradient_come():
    weight = torch.tensor([[4.0, -0.1, 3.0, 0.2, 0.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0]]).bool()
    gradient = torch.tensor([[9.0, 0.0, 9.0, 0.0, 1.0, -5.0, 2.0, -3.0]])
    # half of four go: -0.1 and 0.2; the places with 5 and 3 come
    assert moved(weight, gradient, mask, 0.5).int().tolist() == [[1, 0, 1, 0, 0, 1, 0, 1]]


def test_what_was_dropped_may_come_back():
    weight, gradient = torch.tensor([[2.0, 0.1, 0.0]]), torch.tensor([[0.0, 7.0, 1.0]])
    mask = torch.tensor([[True, True, False]])
    assert moved(weight, gradient, mask, 0.5).tolist() == mask.tolist()


def test_nothing_comes_where_nothing_may_be():
    weight, gradient = torch.tensor([[2.0, 0.1, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 9.0, 1.0]])
    mask = torch.tensor([[True, True, False, False]])
    allowed = torch.tensor([[True, True, False, True]])
    assert moved(weight, gradient, mask, 0.5, allowed=allowed).int().tolist() == [[1, 0, 0, 1]]


@pytest.mark.parametrize("group", [0, 4])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_a_matrix_and_each_group_keep_their_number_of_weights(group, share):
    draws = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(2, 16, 24, generator=draws)
    mask = torch.zeros(96, 4, dtype=torch.bool)
    mask[:, :2] = True
    mask = mask.reshape(16, 24)
    new = moved(weight, gradient, mask, share, group=group)
    assert new.sum() == mask.sum()
    assert not torch.equal(new, mask)
    if group:
        assert (new.reshape(-1, 4).sum(dim=1) == 2).all()


def test_updates_come_at_their_interval_and_stop():
    settings = Sparsify(method="rigl", recover=Train(epochs=1), update_batches=10, stop_ratio=0.5)
    plan = plan_updates(settings, 100, 100)
    assert sorted(plan.steps) == [10, 20, 30, 40]
    assert plan.stop == 50


def test_no_update_falls_on_the_end_of_an_epoch():
    settings = Sparsify(method="rigl", recover=Train(epochs=4), update_batches=10, stop_ratio=1.0)
    assert sorted(plan_updates(settings, 80, 20).steps) == [10, 21, 30, 41, 50, 61, 70]


def test_short_trainings_get_about_ten_updates_and_long_ones_one_in_a_hundred():
    settings = Sparsify(method="rigl", recover=Train(epochs=1))
    assert len(plan_updates(settings, 40, 40).steps) == pytest.approx(10, abs=1)
    assert min(plan_updates(settings, 100_000, 10_000).steps) == 100


def test_a_training_too_short_for_any_update_is_refused():
    settings = Sparsify(method="rigl", recover=Train(epochs=1), update_batches=100)
    with pytest.raises(StepError, match=r"every 100 batches and stop after 15 of 20"):
        plan_updates(settings, 20, 20)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_weights_move_at_constant_density_and_grow_from_zero(
    digits, fitted_mlp, checkpoints, ema_decay
):
    bench = bench_of(fitted_mlp, digits, checkpoints)
    weights = participants(bench.model).weights
    settings = Sparsify(method="rigl", sparsity_ratio=0.8, recover=SGD, update_batches=5)
    masks = magnitude_masks(weights, settings, 0.8, {})
    wanted = {name: int(keeps.sum()) for name, keeps in masks.items()}
    rigl = RigL(weights, masks, {}, plan_updates(settings, 57, 19), SILENT, first_share=0.3)
    changes = []

    def after_batch(done):
        before = copy.deepcopy(masks)
        for item in weights:
            assert not item.parameter[~masks[item.name]].any()
        rigl.after_batch(done)
        assert {name: int(keeps.sum()) for name, keeps in masks.items()} == wanted
        new = {name: masks[name] & ~before[name] for name in masks}
        assert not any(item.parameter[new[item.name]].any() for item in weights)
        changes.append(sum(int(places.sum()) for places in new.values()))

    trained = SGD if not ema_decay else Train(**{**plain(SGD), "ema_decay": ema_decay})
    objective = label_objective(bench)
    train(bench.model, objective, bench, trained, SILENT, masks=masks, after_batch=after_batch)
    moving = [step for step, count in enumerate(changes, start=1) if count]
    assert moving
    assert set(moving) <= plan_updates(settings, 57, 19).steps
    for item in weights:
        assert not item.parameter[~masks[item.name]].any()
        # All but weights whose inputs are always zero, and those that have only just grown.
        assert int((item.parameter != 0).sum()) > 0.9 * wanted[item.name]


def plain(settings):
    return {name: getattr(settings, name) for name in Train.__dataclass_fields__}


@pytest.mark.parametrize(("ratio", "pattern"), [(0.8, ""), (None, "1:4")])
def test_the_step_leaves_as_many_zeros_as_it_began_with(
    digits, fitted_mlp, checkpoints, ratio, pattern
):
    settings = Sparsify(method="rigl", sparsity_ratio=ratio, pattern=pattern, recover=SGD)
    result = sparsify(settings, bench_of(fitted_mlp, digits, checkpoints), SILENT)
    for name, keeps in result.masks.items():
        weight = result.model.get_parameter(name)
        assert int((~keeps).sum()) == round(settings.ratio * weight.numel())
        assert not weight[~keeps].any()
        if pattern:
            assert (keeps.reshape(-1, 4).sum(dim=1) == 1).all()
    assert result.values["moved"] > 0
    assert [point.name for point in result.points][2:] == [f"rigl epoch {i}" for i in (1, 2, 3)]


def test_zeros_of_before_are_never_grown(digits, fitted_mlp, checkpoints):
    keeps = torch.ones(48, 64, dtype=torch.bool)
    keeps[:, 20:30] = False
    bench = bench_of(fitted_mlp, digits, checkpoints, masks={"layers.1.weight": keeps})
    settings = Sparsify(method="rigl", sparsity_ratio=0.6, recover=SGD)
    result = sparsify(settings, bench, SILENT)
    assert not result.masks["layers.1.weight"][:, 20:30].any()
    assert not result.model.get_parameter("layers.1.weight")[:, 20:30].any()


def test_a_training_that_was_done_before_gives_the_same_masks(digits, fitted_mlp, checkpoints):
    settings = Sparsify(method="rigl", sparsity_ratio=0.8, recover=SGD)
    first, again = (
        sparsify(settings, bench_of(copy.deepcopy(fitted_mlp), digits, checkpoints), SILENT)
        for _ in range(2)
    )
    assert first.points[1:] != ()
    for name, keeps in first.masks.items():
        assert torch.equal(keeps, again.masks[name])
        assert torch.equal(first.model.get_parameter(name), again.model.get_parameter(name))


def test_frozen_weights_are_refused_before_training(digits, fitted_mlp, checkpoints):
    fitted_mlp.layers[3].weight.requires_grad_(requires_grad=False)
    settings = Sparsify(method="rigl", recover=SGD)
    with pytest.raises(StepError, match=r"1 take none \('layers\.3\.weight'"):
        sparsify(settings, bench_of(fitted_mlp, digits, checkpoints), SILENT)


def test_a_layer_outside_the_loss_stays_where_it_is_and_is_named(digits, fitted_mlp, checkpoints):
    fitted_mlp.spare = torch.nn.Linear(8, 8)
    settings = Sparsify(method="rigl", recover=SGD)
    said: list[Event] = []
    reporter = Reporter(stage="sparsify", listener=said.append)
    before = magnitude_masks(participants(fitted_mlp).weights, settings, 0.5, {})
    result = sparsify(settings, bench_of(fitted_mlp, digits, checkpoints), reporter)
    assert torch.equal(result.masks["spare.weight"], before["spare.weight"])
    assert result.values["moved"] > 0
    assert sum(event.message.startswith("spare.weight: ") for event in said) == 1


def test_a_loop_of_the_users_that_clears_gradients_too_early_is_refused(
    digits, fitted_mlp, checkpoints
):
    def trainer(model, batches, loss_of):
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(3):
            for batch in batches:
                loss_of(model, batch).backward()
                optimizer.step()
                optimizer.zero_grad()

    bench = bench_of(fitted_mlp, digits, checkpoints, trainer=trainer)
    with pytest.raises(StepError, match="no weight has a gradient"):
        sparsify(Sparsify(method="rigl", recover=SGD), bench, SILENT)
