"""The step "equalize": the same outputs from ranges that one grid holds."""

import copy

import pytest
import torch
from torch import nn

from edgekit.compress.quantization.equalize import equalize
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps import Equalize
from tests.compress.benches import SILENT, bench_of, seeded
from tests.compress.networks import TinyResNet


@torch.no_grad()
def _worsen(model):
    """Channels between the convolutions a thousand times apart; the outputs stay."""
    scales = 10.0 ** torch.linspace(-1.5, 1.5, model.first.out_channels)
    model.first_norm.weight.mul_(scales)
    model.first_norm.bias.mul_(scales)
    model.second.weight.div_(scales.reshape(1, -1, 1, 1))


def _on_one_grid(model):
    """Every convolution rounded to 8 bits with one scale for all of it."""
    rounded = copy.deepcopy(model)
    for module in rounded.modules():
        if isinstance(module, nn.Conv2d):
            step = module.weight.detach().abs().max() / 127
            module.weight.data.div_(step).round_().mul_(step)
    return rounded


def _scores(model, data):
    rows = next(iter(data.batches(data.count)))
    with torch.no_grad():
        return model.eval()(torch.from_numpy(rows["image"]))


def test_one_grid_for_a_layer_holds_what_was_badly_scaled(fitted_cnn, digits, checkpoints):
    before = _scores(fitted_cnn, digits.selection)
    _worsen(fitted_cnn)
    torch.testing.assert_close(_scores(fitted_cnn, digits.selection), before, rtol=1e-3, atol=1e-3)
    bad = _scores(_on_one_grid(fitted_cnn), digits.selection)
    said = []
    bench = bench_of(fitted_cnn, digits, checkpoints)
    result = equalize(Equalize(), bench, Reporter(stage="t", listener=said.append))
    after = _scores(result.model, digits.selection)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
    good = _scores(_on_one_grid(result.model), digits.selection)
    error_bad, error_good = ((item - before).square().mean() for item in (bad, good))
    assert error_good < error_bad / 20
    first, last = result.points
    assert first.score == last.score
    precision = result.values["channel_precision"]["first"]
    assert precision["before"] < 0.5 < precision["after"]
    assert any("pairs of layers" in event.message for event in said)


def test_a_second_time_there_is_nothing_to_do(fitted_cnn, digits, checkpoints):
    _worsen(fitted_cnn)
    equalize(Equalize(), bench_of(fitted_cnn, digits, checkpoints), SILENT)
    with pytest.raises(StepError, match=r"equalize: .* have the same ranges already"):
        equalize(Equalize(), bench_of(fitted_cnn, digits, checkpoints), SILENT)


def test_zeros_stay_zero(fitted_cnn, digits, checkpoints):
    _worsen(fitted_cnn)
    keeps = torch.rand(fitted_cnn.second.weight.shape) < 0.5
    with torch.no_grad():
        fitted_cnn.second.weight[~keeps] = 0
    bench = bench_of(fitted_cnn, digits, checkpoints, masks={"second.weight": keeps})
    result = equalize(Equalize(), bench, SILENT)
    weight = result.model.second.weight
    assert torch.equal(weight == 0, ~keeps)
    assert torch.equal(result.masks["second.weight"], keeps)


def test_residual_sums_are_left_and_named(digits, checkpoints):
    said = []
    bench = bench_of(seeded(TinyResNet), digits, checkpoints)
    result = equalize(Equalize(), bench, Reporter(stage="t", listener=said.append))
    assert any("stay as they are" in event.message for event in said)
    assert any("add stands between" in why for why in result.values["left"].values())


def test_a_net_without_such_layers_is_refused(digits, checkpoints):
    bend = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10))
    bench = bench_of(bend, digits, checkpoints)
    with pytest.raises(StepError, match=r"equalize: no two layers have only functions"):
        equalize(Equalize(), bench, SILENT)


def test_sweeps_below_one_are_refused():
    with pytest.raises(StepError, match="sweeps is 0; it must be 1 or more"):
        Equalize(sweeps=0)
