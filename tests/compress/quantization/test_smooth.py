"""The step "smooth": outliers of activations move into weights, and the outputs stay."""

import pytest
import torch
from torch import nn

from edgekit.compress.quantization.smooth import smooth
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps import Smooth
from tests.compress.architectures import ALL
from tests.compress.benches import SILENT, bench_of
from tests.compress.quantization.architecture_benches import (
    assert_same_outputs,
    bench_of_architecture,
)
from tests.compress.quantization.outliers import in_int8, scores_of, with_outliers


@pytest.fixture
def outlying(fitted_transformer):
    """A trained transformer with outliers in a few channels of its activations."""
    return with_outliers(fitted_transformer)


def test_outliers_are_moved_where_8_bits_hold_them(outlying, digits, checkpoints):
    before = scores_of(outlying, digits)
    bad = in_int8(outlying, digits)
    said = []
    bench = bench_of(outlying, digits, checkpoints)
    result = smooth(Smooth(), bench, Reporter(stage="t", listener=said.append))
    torch.testing.assert_close(scores_of(result.model, digits), before, rtol=1e-3, atol=1e-3)
    good = in_int8(result.model, digits)
    lost_bad, lost_good = ((item - before).square().mean() for item in (bad, good))
    assert lost_good < lost_bad / 20
    assert any("groups of layers, strength" in event.message for event in said)


def test_errors_and_strengths_are_told_by_layer(outlying, digits, checkpoints):
    values = smooth(Smooth(), bench_of(outlying, digits, checkpoints), SILENT).values
    group = values["groups"]["layers.0.attention_norm"]
    assert 0 < group["strength"] <= 1
    paths = [f"layers.0.attention.{name}" for name in ("query", "key", "value")]
    assert list(group["before"]) == list(group["after"]) == paths
    assert all(group["after"][path] < group["before"][path] / 10 for path in paths)
    assert values["unscaled"] == {}


def test_a_stated_strength_gives_the_ranges_of_the_paper(outlying, digits, checkpoints):
    norm, wide = outlying.layers[0].ffn_norm, outlying.layers[0].ffn_in
    seen = []
    hook = wide.register_forward_pre_hook(lambda _, args: seen.append(args[0].abs().amax((0, 1))))
    rows = next(iter(digits.calibration.batches(64)))
    with torch.no_grad():
        outlying(torch.from_numpy(rows["image"]))
    hook.remove()
    weight, columns = norm.weight.detach().clone(), wide.weight.detach().abs().amax(0)
    scales = seen[0].pow(0.75) / columns.pow(0.25)
    result = smooth(Smooth(strength=0.75), bench_of(outlying, digits, checkpoints), SILENT)
    found = result.model.layers[0].ffn_norm.weight.detach()
    torch.testing.assert_close(found, weight / scales, rtol=1e-4, atol=0)


def test_what_is_best_as_it_is_stays_and_is_an_error(digits, checkpoints):
    # Channels of one range on both sides: there is nothing to move.
    norm, scores = nn.LayerNorm(64), nn.Linear(64, 10, bias=False)
    with torch.no_grad():
        # So no value stands in the middle between two integers.
        norm.bias.fill_(0.3)
        signs = torch.rand(10, 64, generator=torch.Generator().manual_seed(0)) < 0.5
        scores.weight.copy_(torch.where(signs, -0.1, 0.1))
    model = nn.Sequential(nn.Flatten(), _Signs(), norm, scores)
    with pytest.raises(StepError, match="smooth: none of 1 groups of layers loses less in INT8"):
        smooth(Smooth(), bench_of(model.eval(), digits, checkpoints), SILENT)


class _Signs(nn.Module):
    """One half of each sample's values -1, the other 1, any of them: a norm keeps them so."""

    def forward(self, x):
        places = torch.arange(1, x.shape[-1] + 1)
        ranks = torch.sin(1000 * x.sum(-1, keepdim=True) * places).argsort(-1).argsort(-1)
        return torch.where(ranks < x.shape[-1] // 2, -1.0, 1.0)


def test_a_net_without_such_layers_is_refused(digits, checkpoints):
    bend = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10))
    with pytest.raises(StepError, match="smooth: no norm or layer gives its channels"):
        smooth(Smooth(), bench_of(bend, digits, checkpoints), SILENT)


def test_zeros_stay_zero(outlying, digits, checkpoints):
    weight = outlying.layers[1].ffn_in.weight
    keeps = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    with torch.no_grad():
        weight[~keeps] = 0
    masks = {"layers.1.ffn_in.weight": keeps}
    bench = bench_of(outlying, digits, checkpoints, masks=masks)
    result = smooth(Smooth(strength=0.5), bench, SILENT)
    assert torch.equal(result.model.layers[1].ffn_in.weight == 0, ~keeps)
    assert result.masks is masks


@pytest.mark.parametrize("strength", [-0.1, 1.5, "much", True])
def test_strengths_outside_of_their_range_are_refused(strength):
    with pytest.raises(StepError, match=r"strength is .*; it must be a number from 0 to 1"):
        Smooth(strength=strength)


# Its layers are no nn.Linear, and its last norm leads to a weight that is shared.
REFUSED = {"gpt2"}


@pytest.mark.parametrize("name", ALL)
def test_every_architecture_gives_what_it_gave(name, tmp_path):
    bench = bench_of_architecture(name, tmp_path)
    if name in REFUSED:
        with pytest.raises(StepError, match="smooth: no norm or layer gives its channels"):
            smooth(Smooth(strength=0.5), bench, SILENT)
        return
    result = smooth(Smooth(strength=0.5), bench, SILENT)
    assert_same_outputs(bench, result.model)
    before = bench.teacher.state_dict()
    assert any(not torch.equal(it, before[key]) for key, it in result.model.state_dict().items())
