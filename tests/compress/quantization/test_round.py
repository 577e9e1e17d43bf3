"""The step "round" on real models and real digits."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compress.quantization.round import round_weights
from edgekit.compress.training.rounding import make_rounder
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps import AdaRound, Round, Rounding
from edgekit.core.strategy import Override
from edgekit.graph.grid import is_on_grid
from tests.compress.benches import (
    SILENT,
    TinyCnn,
    TinyMlp,
    TinyTransformer,
    assert_same_state,
    bench_of,
    fit,
    seeded,
)

INT4 = Rounding(precision="int4")
MODELS = [TinyCnn, TinyMlp, TinyTransformer]


# Enough for small layers.
HASTY = AdaRound(iterations=100, batch_size=64, sample_bytes=2**20)


def rounded(bench, method="gptq", rounding=INT4, reporter=SILENT, **given):
    learning = {"adaround": HASTY} if method == "adaround" else {}
    settings = Round(method=method, rounding=rounding, **learning, **given)
    return round_weights(settings, bench, reporter)


def outputs(model, bench):
    rows = next(iter(bench.selection.batches(bench.selection.count)))
    with torch.no_grad():
        return bench.call(model, {"image": torch.from_numpy(rows["image"])})["scores"]


def lost(model, bench):
    """Of the float model's scores, how much their squared error is."""
    wanted = outputs(bench.teacher, bench)
    return float((outputs(model, bench) - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("method", ["gptq", "adaround"])
@pytest.mark.parametrize("make", MODELS)
def test_outputs_are_nearer_than_with_plain_rounding(make, method, digits, tmp_path):
    model = fit(seeded(make), digits)
    bench = bench_of(copy.deepcopy(model), digits, tmp_path)
    plain = copy.deepcopy(model)
    make_rounder(plain, INT4, bench.call, bench.example()).round_()
    assert lost(rounded(bench, method).model, bench) < 0.6 * lost(plain, bench)


@pytest.mark.parametrize("method", ["gptq", "adaround", "nearest"])
@pytest.mark.parametrize("make", MODELS)
def test_every_layer_ends_on_the_grid_that_exporters_find(make, method, digits, tmp_path):
    bench = bench_of(seeded(make), digits, tmp_path)
    result = rounded(bench, method, is_bias_corrected=True)
    bits = result.values["bits"]
    assert set(bits.values()) == {4, 8}
    for path, size in bits.items():
        assert is_on_grid(result.model.get_submodule(path).weight.detach().numpy(), size), path


def test_the_model_is_judged_as_it_came_rounded_simply_and_as_it_leaves(digits, tmp_path):
    bench = bench_of(fit(seeded(TinyCnn), digits), digits, tmp_path)
    simplest = copy.deepcopy(bench.model)
    points = {point.name: point.score for point in rounded(bench).points}
    assert list(points) == ["as it came", "each weight by itself", "rounded"]
    other = bench_of(simplest, digits, tmp_path)
    nearest = rounded(other, "nearest", is_bias_corrected=False).model
    labels = next(iter(bench.selection.batches(bench.selection.count)))["target"]
    for name, model in (("rounded", bench.model), ("each weight by itself", nearest)):
        right = outputs(model, bench).argmax(dim=1).numpy() == labels
        assert points[name] == pytest.approx(np.mean(right)), name


@pytest.mark.parametrize(("method", "share"), [("gptq", 0.5), ("adaround", 0.9)])
def test_the_errors_of_both_ways_are_told(method, share, digits, tmp_path):
    bench = bench_of(fit(seeded(TinyCnn), digits), digits, tmp_path)
    errors = rounded(bench, method).values["output_errors"]
    assert all(item["rounded"] <= item["nearest"] for item in errors.values())
    assert errors["first"]["rounded"] < share * errors["first"]["nearest"]


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_zeros_of_a_mask_stay_zeros(method, digits, tmp_path):
    model = fit(seeded(TinyCnn), digits)
    keep = model.first.weight.abs() > model.first.weight.abs().median()
    with torch.no_grad():
        model.first.weight *= keep
    bench = bench_of(model, digits, tmp_path, masks={"first.weight": keep.float()})
    result = rounded(bench, method)
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


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_layers_whose_inputs_say_too_little_are_rounded_by_themselves_and_named(
    method, digits, tmp_path
):
    result = rounded(bench_of(seeded(Shared), digits, tmp_path), method)
    errors = result.values["output_errors"]
    assert "shared with 'other'" in errors["one"]["why_nearest"]
    assert errors["last"]["why_nearest"] == ""
    assert is_on_grid(result.model.one.weight.detach().numpy(), 4)
    turned = result.model.up.weight.detach().transpose(0, 1).numpy()
    assert is_on_grid(np.ascontiguousarray(turned), 8)


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_two_runs_give_the_same_weights(method, digits, tmp_path):
    model = fit(seeded(TinyCnn), digits)
    one, other = (
        rounded(bench_of(copy.deepcopy(model), digits, tmp_path / run), method)
        for run in ("one", "other")
    )
    assert_same_state(one.model.state_dict(), other.model.state_dict())


class Stopped(Exception):
    """A user's Ctrl-C, in the middle of the work."""


def stop_before(path):
    """A reporter that stops the work when it comes to a layer."""

    def listen(event):
        if event.message == f"rounding {path}":
            raise Stopped

    return Reporter(stage="test", listener=listen)


def test_a_stopped_run_goes_on_behind_the_layers_that_are_done(digits, tmp_path):
    model = fit(seeded(TinyCnn), digits)
    given = {"method": "adaround", "is_bias_corrected": True}
    whole = rounded(bench_of(copy.deepcopy(model), digits, tmp_path / "whole"), **given).model
    folder = tmp_path / "stopped"
    with pytest.raises(Stopped):
        rounded(
            bench_of(copy.deepcopy(model), digits, folder), **given, reporter=stop_before("second")
        )
    done = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert len(done) == 2  # stem and first
    resumed = rounded(bench_of(copy.deepcopy(model), digits, folder), **given).model
    assert all(file.stat().st_mtime_ns == written for file, written in done.items())
    assert_same_state(resumed.state_dict(), whole.state_dict())


def distance(outputs, targets):
    """A metric that finds far from right better: what rounds worse wins."""
    return np.abs(outputs - np.eye(10)[targets]).mean(axis=1)


def test_a_score_worse_than_that_of_the_simplest_way_is_said(digits, tmp_path):
    model, events = fit(seeded(TinyCnn), digits), []
    told = Reporter(stage="test", listener=events.append)
    bench = bench_of(model, digits, tmp_path, metric=distance)
    rounded(bench, reporter=told, is_bias_corrected=False)
    warnings = [event.message for event in events if event.kind == "warning"]
    assert len(warnings) == 1
    assert "gptq scores" in warnings[0]
    assert 'try method = "nearest"' in warnings[0]


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
        ({"adaround": HASTY}, "method is 'gptq', which uses none of them"),
        ({"rounding": Rounding(precision="none")}, "which rounds nothing"),
        ({"rounding": Rounding(method="lsq")}, 'round: rounding.method is "lsq", which is about'),
        ({"rounding": Rounding(activations="static")}, 'round: rounding.activations is "static"'),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(StepError, match=words):
        Round(**settings)
