"""The step "smooth" where nothing can take its scales: layers that multiply their own inputs."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.compress.quantization.smooth import smooth
from edgekit.compress.scaled_linear import MultipliedLinear
from edgekit.core.errors import NothingGainedError, StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps import Smooth
from tests.compress.benches import SIDE, SILENT, bench_of, seeded
from tests.compress.quantization.outliers import in_int8, scores_of

WIDTH = 16


class PostNorm(nn.Module):
    """Rows of a picture as tokens; a norm leads into two layers and a sum, as BERT's does.

    Two channels of the norm are far larger than the others, and GELU's are uneven behind it.
    """

    def __init__(self):
        super().__init__()
        self.tokens, self.norm = nn.Linear(SIDE, WIDTH), nn.LayerNorm(WIDTH)
        self.gate, self.fc1 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.fc2, self.scores = nn.Linear(2 * WIDTH, WIDTH), nn.Linear(WIDTH, 10)
        with torch.no_grad():
            self.norm.weight[::8].mul_(200)
            for layer in (self.gate, self.fc1):
                layer.weight[:, ::8].div_(200)
            self.scores.weight[:, ::8].div_(200)

    def forward(self, image):
        stream = self.norm(self.tokens(image.flatten(1, 2)))
        inside = functional.gelu(self.fc1(stream)) * torch.sigmoid(self.gate(stream))
        return self.scores((stream + self.fc2(inside)).mean(1))


@pytest.fixture
def post_norm():
    return seeded(PostNorm).eval()


def run(model, digits, checkpoints, **settings):
    settings = Smooth(has_multipliers=True, **settings)
    return smooth(settings, bench_of(model, digits, checkpoints), SILENT)


def inputs_of(model, digits, path):
    """What a layer reads of all calibration data. Shapes: (rows, channels)."""
    seen = []
    hook = model.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    rows = next(iter(digits.calibration.batches(digits.calibration.count)))
    with torch.no_grad():
        model(torch.from_numpy(rows["image"]))
    hook.remove()
    return seen[0].reshape(-1, seen[0].shape[-1])


def test_8_bits_hold_what_a_norm_before_a_sum_gives(post_norm, digits, checkpoints):
    wanted, bad = scores_of(post_norm, digits), in_int8(post_norm, digits)
    said = []
    bench = bench_of(post_norm, digits, checkpoints)
    reporter = Reporter(stage="t", listener=said.append)
    result = smooth(Smooth(has_multipliers=True), bench, reporter)
    torch.testing.assert_close(scores_of(result.model, digits), wanted, rtol=1e-4, atol=1e-4)
    good = multiplied_in_int8(result.model, digits)
    lost_bad, lost_good = ((item - wanted).square().mean() for item in (bad, good))
    assert lost_good < lost_bad / 10
    assert any("multiplied inputs, strength" in event.message for event in said)


def multiplied_in_int8(model, digits):
    """``in_int8`` of the same function with the factors as modules of their own."""
    changed = copy.deepcopy(model)
    for path, layer in list(changed.named_modules()):
        if isinstance(layer, MultipliedLinear):
            plain = nn.Linear(layer.in_features, layer.out_features)
            plain.weight, plain.bias = layer.weight, layer.bias
            changed.set_submodule(path, nn.Sequential(_Times(layer.factor), plain))
    return in_int8(changed, digits)


class _Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def test_layers_that_read_one_tensor_share_the_factors_of_the_paper(post_norm, digits, checkpoints):
    largest = inputs_of(post_norm, digits, "fc1").abs().amax(0)
    layers = (post_norm.gate, post_norm.fc1)
    columns = torch.stack([layer.weight.detach().abs().amax(0) for layer in layers]).amax(0)
    # Equation 4 of arXiv:2211.10438, and never less than a quarter of the median.
    scales = largest.pow(0.75) / columns.pow(0.25)
    scales = scales.clamp_min(scales.median() / 4)
    result = run(post_norm, digits, checkpoints, strength=0.75)
    for path in ("gate", "fc1"):
        torch.testing.assert_close(result.model.get_submodule(path).factor, 1 / scales)
    assert result.values["multiplied"]["fc1 + gate"]["strength"] == 0.75


def test_weights_keep_their_names_and_their_zeros(post_norm, digits, checkpoints):
    names = [name for name, _ in post_norm.named_parameters()]
    keeps = torch.rand(post_norm.fc1.weight.shape) < 0.5
    with torch.no_grad():
        post_norm.fc1.weight[~keeps] = 0
    result = run(post_norm, digits, checkpoints, strength=0.5)
    assert [name for name, _ in result.model.named_parameters()] == names
    assert torch.equal(result.model.fc1.weight == 0, ~keeps)


def test_a_net_whose_norms_lead_into_sums_is_told_of_multipliers(post_norm, digits, checkpoints):
    with pytest.raises(StepError, match=r"smooth: no norm .* set has_multipliers = true"):
        smooth(Smooth(), bench_of(post_norm, digits, checkpoints), SILENT)


class OwnLinear(nn.Module):
    """A layer that a model wrote itself: nothing is known of what reads its weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, SIDE * SIDE) * 0.1)

    def forward(self, image):
        return functional.linear(image.flatten(1), self.weight)


def test_a_net_of_layers_of_an_own_kind_gains_nothing(digits, checkpoints):
    with pytest.raises(NothingGainedError, match="smooth: no norm or layer gives its channels"):
        run(OwnLinear().eval(), digits, checkpoints)
