"""Bias correction, against means of outputs taken by hooks of torch and by hand.

Nagel et al. 2019, arXiv:1906.04721, section 4.2.
"""

import copy

import pytest
import torch
from torch import nn

from edgekit.compress.quantization.bias import BiasCorrector
from edgekit.compress.quantization.readers import find_behind
from edgekit.compress.quantization.round import round_weights
from edgekit.compress.state import load_state, save_state
from edgekit.compress.training.rounding import make_rounder
from edgekit.core.steps import Round, Rounding
from tests.compress.benches import SILENT, TinyCnn, TinyMlp, assert_same_state, bench_of, seeded

INT4 = Rounding(precision="int4")


def corrected(bench, rounding=INT4):
    """Round the model on the bench to nearest in place, then correct it; what was done."""
    reference = copy.deepcopy(bench.model)
    rounder = make_rounder(bench.model, rounding, bench.call, bench.example())
    weights = {layer.path: layer.weight for layer in rounder.layers}
    behind = find_behind(bench.model, weights, bench.call, bench.example())
    rounder.round_()
    corrector = BiasCorrector(bench, reference, behind, list(weights))
    for path in weights:
        corrector.correct(path)
    return corrector.corrections


def means(model, bench, paths):
    """The mean of each output channel of each module."""
    rows = next(iter(bench.calibration.batches(bench.calibration.count)))
    seen = {}
    hooks = [
        model.get_submodule(path).register_forward_hook(
            lambda *given, path=path: seen.update({path: given[2]})
        )
        for path in paths
    ]
    with torch.no_grad():
        model(torch.from_numpy(rows["image"]))
    for hook in hooks:
        hook.remove()
    return {path: value.movedim(1, 0).flatten(1).double().mean(1) for path, value in seen.items()}


# Where a norm takes the correction it is the norm's output that has the float model's mean.
CNN = ["stem_norm", "first_norm", "second_norm", "depthwise", "pointwise", "classifier"]
MLP = ["layers.1", "layers.3", "layers.5"]


@pytest.mark.parametrize(("make", "paths"), [(TinyCnn, CNN), (TinyMlp, MLP)])
@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_the_mean_error_of_every_output_channel_vanishes(make, paths, precision, digits, tmp_path):
    bench = bench_of(seeded(make), digits, tmp_path)
    before = copy.deepcopy(bench.model)
    make_rounder(before, Rounding(precision=precision), bench.call, bench.example()).round_()
    corrected(bench, Rounding(precision=precision))
    wanted, found, plain = (
        means(model, bench, paths) for model in (bench.teacher, bench.model, before)
    )
    for path in paths:
        error, without = ((item[path] - wanted[path]).abs().max() for item in (found, plain))
        # what is left is float32's rounding of sums over thousands of places
        assert error < 2e-6, path
        assert without > 1e-4, path


def test_the_bias_moves_by_the_weights_error_times_the_mean_input(digits, tmp_path):
    bench = bench_of(seeded(TinyMlp), digits, tmp_path)
    layer, old = bench.model.layers[1], bench.teacher.layers[1]
    corrected(bench)
    rows = next(iter(bench.calibration.batches(bench.calibration.count)))
    mean = torch.from_numpy(rows["image"]).flatten(1).mean(0)
    expected = (old.weight - layer.weight) @ mean
    assert torch.allclose(layer.bias - old.bias, expected, atol=1e-6)


def test_each_layer_says_where_its_correction_went(digits, tmp_path):
    bench = bench_of(seeded(TinyCnn), digits, tmp_path)
    found = corrected(bench)
    assert {path: item.place for path, item in found.items()} == {
        **dict.fromkeys(("stem", "first", "second"), "batch norm"),
        "depthwise": "new bias",
        **dict.fromkeys(("pointwise", "classifier"), "bias"),
    }
    assert all(0 < item.moved_ratio < 0.5 and not item.why_left for item in found.values())


class Bare(nn.Module):
    """Linear layers of which the first has no bias."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 32, bias=False), nn.Linear(32, 10)

    def forward(self, image):
        return self.two(torch.tanh(self.one(image.flatten(1))))


def test_a_linear_layer_without_a_bias_is_left_and_named(digits, tmp_path):
    bench = bench_of(seeded(Bare), digits, tmp_path)
    found = corrected(bench)
    assert found["one"].place == ""
    assert found["one"].why_left == "it has no bias, and no batch norm alone reads it"
    assert bench.model.one.bias is None
    wanted, ours = (means(model, bench, ["two"])["two"] for model in (bench.teacher, bench.model))
    assert torch.allclose(ours, wanted, atol=1e-6)  # the next layer takes over what is left


def test_a_bias_that_is_zero_for_good_stays_zero(digits, tmp_path):
    model = seeded(TinyMlp)
    keep = torch.ones(48)
    keep[:5] = 0
    with torch.no_grad():
        model.layers[3].bias *= keep
    bench = bench_of(model, digits, tmp_path, masks={"layers.3.bias": keep})
    corrected(bench)
    assert not model.layers[3].bias[:5].any()
    assert model.layers[3].bias[5:].all()


def test_the_step_tells_it_and_does_nothing_of_it_when_it_is_off(digits, tmp_path):
    model = seeded(TinyCnn)
    bench = bench_of(copy.deepcopy(model), digits, tmp_path)
    settings = Round(method="nearest", is_bias_corrected=False, rounding=INT4)
    result = round_weights(settings, bench, SILENT)
    assert result.values["bias_corrections"] == {}
    assert torch.equal(result.model.first_norm.running_mean, model.first_norm.running_mean)
    assert result.model.depthwise.bias is None


def test_a_new_bias_is_written_down_with_the_model(digits, tmp_path):
    model = seeded(TinyCnn)
    bench = bench_of(copy.deepcopy(model), digits, tmp_path)
    settings = Round(method="nearest", is_bias_corrected=True, rounding=INT4)
    result = round_weights(settings, bench, SILENT)
    (tmp_path / "state").mkdir()
    save_state(result.model, model, tmp_path / "state")
    loaded = load_state(model, tmp_path / "state").model
    assert loaded.depthwise.bias.any()
    assert_same_state(loaded.state_dict(), result.model.state_dict())
