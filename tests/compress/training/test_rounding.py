"""Training with rounded weights: the grid by hand, straight-through by autograd, what is left."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.compress.training.objective import label_objective
from edgekit.compress.training.rounding import Rounder, make_rounder, on_grid
from edgekit.compress.training.train import train
from edgekit.compress.training.update import NotFiniteError, Updater
from edgekit.core.errors import StepError
from edgekit.core.steps import Rounding, Train
from edgekit.core.strategy import Override
from tests.compress.benches import SILENT, TinyCnn, TinyTransformer, bench_of, cnn_bench, seeded

INT4 = Rounding(precision="int4")
CPU = torch.device("cpu")


def _rounder(bench, settings):
    return make_rounder(bench.model, settings, bench.call, bench.example())


# The grid.


def test_the_grid_is_that_of_arithmetic_by_hand():
    weight = torch.tensor([[0.7, -0.26, 0.05], [1.4, 0.1, -1.4]])
    found = on_grid(weight, axis=0, top=7)
    # Steps of 0.1 and 0.2; 0.5 of a step goes to the even neighbour.
    assert torch.allclose(found, torch.tensor([[0.7, -0.3, 0.0], [1.4, 0.0, -1.4]]), atol=1e-6)


def test_torchs_own_fake_quantization_gives_the_same():
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    scale = weight.abs().amax(dim=(1, 2, 3)) / 7
    expected = torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros(6, dtype=torch.int32), 0, -8, 7
    )
    assert torch.allclose(on_grid(weight, axis=0, top=7), expected, atol=1e-6)


def test_another_axis_is_the_same_grid_turned():
    weight = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))
    turned = on_grid(weight.transpose(0, 1), axis=0, top=7).transpose(0, 1)
    assert torch.equal(on_grid(weight, axis=1, top=7), turned)


def test_blocks_have_a_scale_each_and_odd_columns_one_for_the_row():
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
    blocks = weight.reshape(-1, 32).numpy()
    mantissa, exponent = np.frexp(np.abs(blocks).max(axis=1, keepdims=True) / np.float32(7))
    # A .tflite holds a block's scale with 8 significant bits.
    scales = np.ldexp(np.rint(mantissa * 256) / 256, exponent)
    expected = (np.rint(blocks / scales) * scales).reshape(weight.shape)
    assert np.array_equal(on_grid(weight, axis=0, top=7, block_size=32).numpy(), expected)
    assert torch.equal(
        on_grid(weight, axis=0, top=7, block_size=48), on_grid(weight, axis=0, top=7)
    )


def test_a_short_last_block_has_a_scale_of_its_own():
    weight = torch.randn(3, 44, generator=torch.Generator().manual_seed(2))
    found = on_grid(weight, axis=0, top=7, block_size=32, has_short_blocks=True)
    whole = on_grid(weight[:, :32], axis=0, top=7, block_size=32)
    rest = on_grid(weight[:, 32:], axis=0, top=7, block_size=12)
    assert torch.equal(found, torch.cat([whole, rest], dim=1))


def test_zeros_stay_zeros_and_a_rounded_weight_stays_what_it_is():
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))
    weight[0] = 0
    weight[1, ::2] = 0
    once = on_grid(weight, axis=0, top=7)
    assert not once[0].any()
    assert not once[1, ::2].any()
    assert torch.allclose(on_grid(once, axis=0, top=7), once, atol=1e-7)


# Which layer has how many bits.


def test_ends_and_depthwise_layers_have_8_bits_and_the_rest_4(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    bits = {layer.path: layer.bits for layer in _rounder(bench, INT4).layers}
    assert bits == {
        "stem": 8,
        "first": 4,
        "second": 4,
        "depthwise": 8,
        "pointwise": 4,
        "classifier": 8,
    }


def test_overrides_change_layers_and_the_last_one_counts(digits, tmp_path):
    settings = Rounding(
        precision="int4",
        keep_first_last_int8=False,
        overrides=(
            Override(pattern="first|second", precision="int8"),
            Override(pattern="second", precision="float"),
        ),
    )
    layers = _rounder(cnn_bench(digits, tmp_path), settings).layers
    bits = {layer.path: layer.bits for layer in layers}
    assert (bits["stem"], bits["first"], bits["classifier"]) == (4, 8, 4)
    assert "second" not in bits


def test_seven_bits_where_the_range_is_reduced(digits, tmp_path):
    settings = Rounding(precision="int8", is_range_reduced=True)
    assert {layer.top for layer in _rounder(cnn_bench(digits, tmp_path), settings).layers} == {64}


def test_a_pattern_that_matches_nothing_is_refused_with_near_names(digits, tmp_path):
    settings = Rounding(precision="int4", overrides=(Override(pattern="frist", precision="int8"),))
    with pytest.raises(StepError, match=r"'frist' matches no layer; the nearest .*'first'"):
        _rounder(cnn_bench(digits, tmp_path), settings)


def test_nothing_left_to_round_is_an_error(digits, tmp_path):
    settings = Rounding(precision="int8", overrides=(Override(pattern=".", precision="float"),))
    with pytest.raises(StepError, match="no convolution or linear layer is left to round"):
        _rounder(cnn_bench(digits, tmp_path), settings)


def test_a_precision_that_only_a_strategy_knows_is_refused(digits, tmp_path):
    with pytest.raises(StepError, match='needs "int8" or "int4"'):
        _rounder(cnn_bench(digits, tmp_path), Rounding())


def test_shared_weights_are_rounded_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.other.weight = self.one.weight

        def forward(self, x):
            return self.other(self.one(x))

    rounder = make_rounder(
        Tied(),
        Rounding(precision="int8"),
        lambda model, inputs: {"y": model(inputs["x"])},
        {"x": torch.zeros(1, 4)},
    )
    assert [layer.path for layer in rounder.layers] == ["one"]


# What training does with it.


def test_the_gradient_of_the_rounded_weights_moves_the_floats(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    model, by_hand = bench.model.train(), copy.deepcopy(bench.model).train()
    settings = Train(
        optimizer="sgd",
        learning_rate=0.1,
        momentum=0.0,
        weight_decay=0.0,
        clip_norm=0.0,
        schedule="constant",
        warmup_ratio=0.0,
    )
    rounder = _rounder(bench, INT4)
    image = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    labels = torch.arange(16) % 10

    def loss_of(module):
        return functional.cross_entropy(module(image), labels)

    floats = {name: value.detach().clone() for name, value in by_hand.named_parameters()}
    with torch.no_grad():
        for layer in rounder.layers:
            weight = by_hand.get_submodule(layer.path).weight
            weight.copy_(on_grid(weight, axis=0, top=layer.top))
    gradients = torch.autograd.grad(loss_of(by_hand), list(by_hand.parameters()))
    updater = Updater(model, settings, {}, device=CPU, steps=10, rounder=rounder)
    updater.step(lambda: loss_of(model), 0)
    for (name, value), gradient in zip(model.named_parameters(), gradients, strict=True):
        assert torch.allclose(value, floats[name] - 0.1 * gradient, atol=1e-6), name


def test_a_trained_model_ends_rounded_and_its_score_is_that_of_the_rounded_weights(
    digits, tmp_path
):
    bench = cnn_bench(digits, tmp_path)
    settings = Train(epochs=2, learning_rate=3e-3, rounding=INT4)
    trained = train(bench.model, label_objective(bench), bench, settings, SILENT)
    rounder = _rounder(bench, INT4)
    for layer in rounder.layers:
        rows = layer.weight.detach().flatten(1)
        steps = rows / rows.abs().amax(dim=1, keepdim=True) * layer.top
        assert torch.allclose(steps, steps.round(), atol=1e-3), layer.path
        assert len(steps[0].round().unique()) <= 2 * layer.top + 1
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    rounder.round_()
    for name, value in bench.model.state_dict().items():
        assert torch.allclose(value, before[name], atol=1e-6)
    rows = next(iter(bench.selection.batches(400, ["image", "target"])))
    with torch.no_grad():
        found = bench.model(torch.from_numpy(rows["image"])).argmax(dim=1).numpy()
    assert trained.score == pytest.approx(float(np.mean(found == rows["target"])))


def test_training_on_the_grid_beats_rounding_afterwards(digits, tmp_path):
    """At 4 bits everywhere, three epochs after the same start; rounded by hand in the end."""
    everywhere = Rounding(precision="int4", keep_first_last_int8=False)
    scores = {}
    for name, rounding in (("rounded", everywhere), ("float", None)):
        bench = bench_of(seeded(lambda: TinyCnn(width=4)), digits, tmp_path / name)
        settings = Train(epochs=6, learning_rate=1e-2, batch_size=64, rounding=rounding)
        train(bench.model, label_objective(bench), bench, settings, SILENT)
        _rounder(bench, everywhere).round_()
        rows = next(iter(bench.selection.batches(400, ["image", "target"])))
        with torch.no_grad():
            found = bench.model.eval()(torch.from_numpy(rows["image"])).argmax(dim=1).numpy()
        scores[name] = float(np.mean(found == rows["target"]))
    assert scores["rounded"] > scores["float"] + 0.02


def test_masked_weights_stay_zero(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    keeps = torch.rand(bench.model.first.weight.shape, generator=torch.Generator()) > 0.5
    settings = Train(epochs=1, rounding=INT4)
    masks = {"first.weight": keeps}
    train(bench.model, label_objective(bench), bench, settings, SILENT, masks=masks)
    assert not bench.model.first.weight[~keeps].any()


def test_frozen_weights_end_rounded_as_they_were_judged(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    bench.model.second.weight.requires_grad_(requires_grad=False)
    expected = on_grid(bench.model.second.weight.detach().clone(), axis=0, top=7)
    settings = Train(epochs=1, rounding=INT4)
    train(bench.model, label_objective(bench), bench, settings, SILENT)
    assert torch.allclose(bench.model.second.weight, expected, atol=1e-7)


def test_weights_that_are_computed_are_left_and_named(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    nn.utils.parametrizations.weight_norm(bench.model.second)
    rounder = _rounder(bench, INT4)
    assert "second" not in {layer.path for layer in rounder.layers}
    assert rounder.summary.endswith("as they are: second, whose weights are computed at each call")


def test_a_transformer_is_rounded_too(digits, tmp_path):
    bench = bench_of(seeded(TinyTransformer), digits, tmp_path)
    layers = _rounder(bench, Rounding(precision="int4", block_size=32)).layers
    assert {layer.bits for layer in layers} == {4, 8}
    assert all(layer.block_size == 32 for layer in layers if layer.bits == 4)


def test_an_error_in_between_leaves_the_floats(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    before = bench.model.first.weight.detach().clone()
    settings = Train(weight_decay=0.0)
    rounder = _rounder(bench, INT4)
    updater = Updater(bench.model, settings, {}, device=CPU, steps=10, rounder=rounder)
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        updater.step(lambda: bench.model.first.weight.sum() * torch.nan, 0)
    assert torch.equal(bench.model.first.weight, before)


def test_no_rounder_changes_nothing():
    model = seeded(TinyCnn)
    before = model.first.weight.detach().clone()
    with Rounder(()).showing():
        assert torch.equal(model.first.weight, before)


def test_a_loop_of_the_users_is_refused(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path, trainer=lambda *_: None)
    with pytest.raises(StepError, match="cannot be shown rounded weights"):
        train(bench.model, label_objective(bench), bench, Train(epochs=1, rounding=INT4), SILENT)
