"""The step "awq" on real models and real digits."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compress.quantization.awq import awq
from edgekit.compress.quantization.round import round_weights
from edgekit.compress.training.rounding import make_rounder
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps import Awq, Round, Rounding
from edgekit.core.strategy import Override
from edgekit.graph.grid import is_on_grid
from tests.compress.architectures import ALL
from tests.compress.benches import SILENT, TinyCnn, TinyMlp, TinyTransformer, bench_of, fit, seeded
from tests.compress.quantization.architecture_benches import (
    assert_same_outputs,
    bench_of_architecture,
)
from tests.compress.quantization.outliers import scores_of, with_outliers

INT4 = Rounding(precision="int4", keep_first_last_int8=False)
MODELS = [TinyCnn, TinyMlp, TinyTransformer]
SCALED = Awq(rounding=INT4, is_rounded=False)


def lost(model, reference, data):
    """Of the float model's scores, how much their squared error is."""
    wanted = scores_of(reference, data)
    return float((scores_of(model, data) - wanted).square().sum() / wanted.square().sum())


def test_weights_behind_outliers_are_saved(fitted_transformer, digits, checkpoints):
    outlying = with_outliers(fitted_transformer)
    plain = copy.deepcopy(outlying)
    bench = bench_of(outlying, digits, checkpoints)
    make_rounder(plain, INT4, bench.call, bench.example()).round_()
    said = []
    result = awq(Awq(rounding=INT4), bench, Reporter(stage="t", listener=said.append))
    reference = bench.teacher
    assert lost(result.model, reference, digits) < lost(plain, reference, digits) / 10
    group = result.values["groups"]["layers.0.attention_norm"]
    assert group["exponent"] > 0
    query = "layers.0.attention.query"
    assert group["after"][query] < group["before"][query] / 3
    assert any("groups of layers scaled" in event.message for event in said)


@pytest.mark.parametrize("make", MODELS)
def test_outputs_are_nearer_than_with_plain_rounding(make, digits, checkpoints):
    model = fit(seeded(make), digits, epochs=3)
    bench = bench_of(copy.deepcopy(model), digits, checkpoints)
    plain = copy.deepcopy(model)
    make_rounder(plain, INT4, bench.call, bench.example()).round_()
    result = awq(Awq(rounding=INT4), bench, SILENT)
    assert lost(result.model, model, digits) < 0.7 * lost(plain, model, digits)


@pytest.mark.parametrize("block_size", [0, 16])
@pytest.mark.parametrize("make", MODELS)
def test_every_layer_ends_on_the_grid_that_exporters_find(make, block_size, digits, checkpoints):
    rounding = Rounding(precision="int4", block_size=block_size)
    bench = bench_of(seeded(make), digits, checkpoints)
    result = awq(Awq(rounding=rounding), bench, SILENT)
    bits = result.values["bits"]
    assert set(bits.values()) == {4, 8}
    for path, size in bits.items():
        module = result.model.get_submodule(path)
        weight = module.weight.detach().numpy()
        if block_size and size == 4 and isinstance(module, nn.Linear):
            blocks = weight.reshape(len(weight), -1, block_size)
            steps = np.abs(blocks).max(axis=2, keepdims=True) / 7
            whole = blocks / np.where(steps > 0, steps, 1)
            np.testing.assert_allclose(whole, np.rint(whole), atol=2e-3)
        else:
            assert is_on_grid(weight, size), path


@pytest.mark.parametrize("name", ["depthwise", "grouped, few", "fused qkv", "split qkv", "llama"])
def test_scaling_alone_gives_what_the_model_gave(name, tmp_path):
    bench = bench_of_architecture(name, tmp_path)
    result = awq(SCALED, bench, SILENT)
    assert_same_outputs(bench, result.model)
    assert any(group["exponent"] for group in result.values["groups"].values())
    assert result.values["output_errors"] == {}


def test_gptq_may_follow_scaling(fitted_transformer, digits, checkpoints):
    outlying = with_outliers(fitted_transformer)
    bench = bench_of(outlying, digits, checkpoints)
    scaled = awq(SCALED, bench, SILENT)
    again = bench_of(scaled.model, digits, checkpoints, teacher=bench.teacher)
    both = round_weights(Round(rounding=INT4), again, SILENT)
    alone = awq(
        Awq(rounding=INT4), bench_of(with_outliers(fitted_transformer), digits, checkpoints), SILENT
    )
    reference = bench.teacher
    assert lost(both.model, reference, digits) < lost(alone.model, reference, digits)


def test_layers_that_nothing_can_scale_are_clipped_and_named(digits, checkpoints):
    bend = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10))
    said = []
    bench = bench_of(fit(bend, digits, epochs=2), digits, checkpoints)
    result = awq(Awq(rounding=INT4), bench, Reporter(stage="t", listener=said.append))
    values = result.values
    assert values["groups"] == {}
    assert set(values["unscaled"]) == {"1", "3"}
    assert all(item["rounded"] < item["nearest"] for item in values["output_errors"].values())
    assert any("2 layers have no scales: 1 (no layer gives" in event.message for event in said)


def test_biases_take_back_what_rounding_moves_means_by(digits, checkpoints):
    model = fit(seeded(TinyMlp), digits, epochs=2)
    means = []
    for is_corrected in (False, True):
        settings = Awq(rounding=INT4, is_bias_corrected=is_corrected)
        bench = bench_of(copy.deepcopy(model), digits, checkpoints)
        found = awq(settings, bench, SILENT).model
        rows = torch.from_numpy(next(iter(digits.calibration.batches(64)))["image"])
        with torch.no_grad():
            means.append((found(rows) - model(rows)).mean(0).abs().max())
    assert means[1] < 1e-3 * means[0]


def test_zeros_of_a_mask_stay_zeros(digits, checkpoints):
    model = fit(seeded(TinyCnn), digits, epochs=2)
    keep = model.second.weight.abs() > model.second.weight.abs().median()
    with torch.no_grad():
        model.second.weight *= keep
    bench = bench_of(model, digits, checkpoints, masks={"second.weight": keep.float()})
    result = awq(Awq(rounding=INT4), bench, SILENT)
    assert result.values["groups"]["first"]["exponent"] is not None
    assert not result.model.second.weight[~keep].any()
    assert set(result.masks) == {"second.weight"}


def test_two_runs_give_the_same_weights(fitted_transformer, digits, checkpoints):
    one, other = (
        awq(
            Awq(rounding=INT4),
            bench_of(copy.deepcopy(fitted_transformer), digits, checkpoints),
            SILENT,
        )
        for _ in range(2)
    )
    again = other.model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in one.model.state_dict().items())


def test_scaling_that_helps_nothing_is_an_error(digits, checkpoints):
    bend = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10))
    with pytest.raises(StepError, match="awq: no group of layers loses less"):
        awq(SCALED, bench_of(bend, digits, checkpoints), SILENT)


def test_a_pattern_that_matches_nothing_is_refused(digits, checkpoints):
    rounding = Rounding(precision="int4", overrides=(Override(pattern="frist", precision="int8"),))
    with pytest.raises(StepError, match="'frist' matches no layer"):
        awq(Awq(rounding=rounding), bench_of(seeded(TinyCnn), digits, checkpoints), SILENT)


def test_rounding_nothing_is_refused():
    with pytest.raises(StepError, match='precision is "none", and scales are chosen'):
        Awq(rounding=Rounding(precision="none"))


def test_learned_steps_are_refused_because_nothing_is_trained():
    with pytest.raises(StepError, match=r'awq: rounding\.method is "lsq", which is about training'):
        Awq(rounding=Rounding(method="lsq"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_architecture_can_be_rounded(name, tmp_path):
    bench = bench_of_architecture(name, tmp_path)
    if name == "gpt2":
        with pytest.raises(StepError, match="no convolution or linear layer is left"):
            awq(Awq(rounding=Rounding(precision="int4", overrides=_HEAD)), bench, SILENT)
        return
    result = awq(Awq(rounding=Rounding(precision="int8")), bench, SILENT)
    example = bench.example()
    with torch.no_grad():
        wanted, found = bench.call(bench.teacher, example), bench.call(result.model, example)
    for key, value in wanted.items():
        assert float((found[key] - value).square().sum() / value.square().sum()) < 1e-2


_HEAD = (Override(pattern="lm_head", precision="float"),)
