"""The step "round" on real models and real digits."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compress.quantization.round import round_weights
from edgekit.compress.training.rounding import make_rounder
from edgekit.core.errors import StepError
from edgekit.core.steps import Round, Rounding
from edgekit.core.strategy import Override
from edgekit.graph.grid import is_on_grid
from tests.compress.benches import SILENT, TinyCnn, TinyMlp, TinyTransformer, bench_of, fit, seeded

INT4 = Rounding(precision="int4")
MODELS = [TinyCnn, TinyMlp, TinyTransformer]


def rounded(bench, method="gptq", rounding=INT4):
    return round_weights(Round(method=method, rounding=rounding), bench, SILENT)


def outputs(model, bench):
    rows = next(iter(bench.selection.batches(bench.selection.count)))
    with torch.no_grad():
        return bench.call(model, {"image": torch.from_numpy(rows["image"])})["scores"]


def lost(model, bench):
    """Of the float model's scores, how much their squared error is."""
    wanted = outputs(bench.teacher, bench)
    return float((outputs(model, bench) - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("make", MODELS)
def test_outputs_are_nearer_than_with_plain_rounding(make, digits, tmp_path):
    model = fit(seeded(make), digits)
    bench = bench_of(copy.deepcopy(model), digits, tmp_path)
    plain = copy.deepcopy(model)
    make_rounder(plain, INT4, bench.call, bench.example()).round_()
    assert lost(rounded(bench).model, bench) < 0.6 * lost(plain, bench)


@pytest.mark.parametrize("make", MODELS)
def test_every_layer_ends_on_the_grid_that_exporters_find(make, digits, tmp_path):
    bench = bench_of(seeded(make), digits, tmp_path)
    result = rounded(bench)
    bits = result.values["bits"]
    assert set(bits.values()) == {4, 8}
    for path, size in bits.items():
        assert is_on_grid(result.model.get_submodule(path).weight.detach().numpy(), size), path


def test_steps_are_judged_before_and_after(digits, tmp_path):
    bench = bench_of(fit(seeded(TinyCnn), digits), digits, tmp_path)
    before, after = rounded(bench).points
    assert (before.name, after.name) == ("as it came", "rounded")
    rows = next(iter(bench.selection.batches(bench.selection.count)))
    labels = rows["target"]
    right = outputs(bench.model, bench).argmax(dim=1).numpy() == labels
    assert after.score == pytest.approx(np.mean(right))


def test_the_errors_of_both_ways_are_told(digits, tmp_path):
    bench = bench_of(fit(seeded(TinyCnn), digits), digits, tmp_path)
    errors = rounded(bench).values["output_errors"]
    assert all(item["rounded"] <= item["nearest"] for item in errors.values())
    assert errors["first"]["rounded"] < 0.5 * errors["first"]["nearest"]


def test_zeros_of_a_mask_stay_zeros(digits, tmp_path):
    model = fit(seeded(TinyCnn), digits)
    keep = model.first.weight.abs() > model.first.weight.abs().median()
    with torch.no_grad():
        model.first.weight *= keep
    bench = bench_of(model, digits, tmp_path, masks={"first.weight": keep.float()})
    result = rounded(bench)
    assert not result.model.first.weight[~keep].any()
    assert set(result.masks) == {"first.weight"}


class Shared(nn.Module):
    """Two layers with one weight, one that is never called, and a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(1, 4, 2)
        self.one, self.other = nn.Linear(81 * 4, 81 * 4), nn.Linear(81 * 4, 81 * 4)
        self.other.weight = self.one.weight
        self.last = nn.Linear(81 * 4, 10)

    def forward(self, image):
        inner = self.up(image.reshape(-1, 1, 8, 8)).flatten(1)
        return self.last(self.other(torch.relu(self.one(inner))))


def test_layers_whose_inputs_say_too_little_are_rounded_by_themselves_and_named(digits, tmp_path):
    result = rounded(bench_of(seeded(Shared), digits, tmp_path))
    errors = result.values["output_errors"]
    assert "shared with 'other'" in errors["one"]["why_nearest"]
    assert errors["last"]["why_nearest"] == ""
    assert is_on_grid(result.model.one.weight.detach().numpy(), 4)
    turned = result.model.up.weight.detach().transpose(0, 1).numpy()
    assert is_on_grid(np.ascontiguousarray(turned), 8)


def test_two_runs_give_the_same_weights(digits, tmp_path):
    model = fit(seeded(TinyCnn), digits)
    one, other = (
        rounded(bench_of(copy.deepcopy(model), digits, tmp_path)).model.state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_weights_on_their_grid_already_are_an_error(digits, tmp_path):
    bench = bench_of(seeded(TinyMlp), digits, tmp_path)
    again = bench_of(rounded(bench).model, digits, tmp_path)
    with pytest.raises(StepError, match="on its grid already"):
        rounded(again)


def test_a_pattern_that_matches_nothing_is_refused(digits, tmp_path):
    settings = Rounding(precision="int4", overrides=(Override(pattern="frist", precision="int8"),))
    with pytest.raises(StepError, match="'frist' matches no layer"):
        rounded(bench_of(seeded(TinyCnn), digits, tmp_path), rounding=settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "gtpq"}, "method is 'gtpq'.*gptq"),
        ({"rounding": Rounding(precision="none")}, "which rounds nothing"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(StepError, match=words):
        Round(**settings)
