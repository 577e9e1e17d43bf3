"""The step "spread": even output channels of linear layers, and the same outputs to the bit."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.compress.quantization.spread import channel_scales, spread
from edgekit.compress.scaled_linear import SpreadLinear
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps import Spread
from tests.compress.benches import SIDE, SILENT, bench_of, seeded

WIDTH = 16


class Block(nn.Module):
    """A feed-forward part that is normalized after its sum, as BERT's is."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens):
        return self.norm(tokens + self.fc2(functional.gelu(self.fc1(tokens))))


class PostNorm(nn.Module):
    """Reads the rows of a picture as tokens; one channel of fc2 is far larger than the others."""

    def __init__(self, times=100.0):
        super().__init__()
        self.tokens, self.block = nn.Linear(SIDE, WIDTH), Block()
        self.scores = nn.Linear(WIDTH, 10)
        with torch.no_grad():
            self.block.fc2.weight[3].mul_(times)
            self.block.fc2.bias[3].mul_(times)

    def forward(self, image):
        return self.scores(self.block(self.tokens(image.flatten(1, 2))).mean(1))


def post_norm(times=100.0):
    return seeded(lambda: PostNorm(times))


def run(model, digits, checkpoints, reporter=SILENT, **settings):
    return spread(Spread(**settings), bench_of(model, digits, checkpoints), reporter)


def pictures(digits):
    rows = next(iter(digits.calibration.batches(digits.calibration.count)))
    return torch.from_numpy(rows["image"])


def test_scales_are_powers_of_two_next_to_ranges_over_their_median():
    # Ratios to the median 2: 0 -> stays, 0.005 -> 2^-4 at most, 1, 1, 1.5 -> 2^0.58, 100 -> 2^6.64.
    largest = torch.tensor([0.0, 0.01, 2.0, 2.0, 3.0, 200.0])
    assert channel_scales(largest).tolist() == [1.0, 1 / 16, 1.0, 1.0, 2.0, 128.0]


@torch.no_grad()
def test_the_uneven_layer_alone_changes_and_the_outputs_keep_every_bit(digits, checkpoints):
    model, said = post_norm(), []
    original, x = copy.deepcopy(model), pictures(digits)
    result = run(model, digits, checkpoints, Reporter(stage="t", listener=said.append))
    changed = [path for path, it in result.model.named_modules() if isinstance(it, SpreadLinear)]
    assert changed == ["block.fc2"] == list(result.values["layers"])
    assert torch.equal(result.model(x), original(x))
    assert [name for name, _ in result.model.named_parameters()] == [
        name for name, _ in original.named_parameters()
    ]
    assert any("1 of 4 linear layers" in event.message for event in said)


@torch.no_grad()
def test_figures_are_those_of_the_layers_own_outputs(digits, checkpoints):
    model, seen = post_norm(), []
    hook = model.block.fc2.register_forward_hook(lambda _, __, output: seen.append(output))
    model(pictures(digits))
    hook.remove()
    largest = seen[0].abs().amax((0, 1))
    result = run(model, digits, checkpoints)
    found = result.values["layers"]["block.fc2"]
    assert found["before"] == pytest.approx(float(largest.max() / largest.median()), rel=1e-5)
    # Nearest powers of two leave sqrt(2) on each side of the median.
    assert found["after"] <= 2.0
    first, last = result.points
    assert first.score == last.score
    assert (first.parameters, first.macs) == (last.parameters, last.macs)


def test_even_layers_are_an_error_that_names_the_least_even_one(digits, checkpoints):
    with pytest.raises(StepError, match=r"spread: of 4 linear layers none .* more than 8 times"):
        run(post_norm(times=1.0), digits, checkpoints)
    with pytest.raises(StepError, match=r"of 3 linear layers none"):
        run(post_norm(), digits, checkpoints, ignore=("fc2",))
    with pytest.raises(StepError, match=r"spread: ignore: 'fc3' matches no layer"):
        run(post_norm(), digits, checkpoints, ignore=("fc3",))


def test_a_model_without_linear_layers_is_refused(digits, checkpoints):
    model = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()).eval()
    with pytest.raises(StepError, match="the model calls no linear layer whose weight is its own"):
        run(model, digits, checkpoints)


class ReadsWeights(PostNorm):
    """Uses the weight of a layer that it also calls."""

    def forward(self, image):
        return super().forward(image) + self.block.fc2.weight.sum()


def test_a_layer_whose_weight_is_read_in_another_way_is_refused(digits, checkpoints):
    with pytest.raises(StepError, match=r"are not the same any more with block\.fc2 rewritten"):
        run(seeded(ReadsWeights), digits, checkpoints)


def test_a_layer_that_gives_infinity_is_named(digits, checkpoints):
    model = post_norm()
    model.block.fc1.weight.data[0] = float("inf")
    with pytest.raises(StepError, match=r"layer 'block\.fc1' gives NaN or infinity"):
        run(model, digits, checkpoints)


def test_a_layer_that_shares_its_weight_stays_as_it_is(digits, checkpoints):
    model = post_norm()
    model.twin = model.block.fc2.weight
    with pytest.raises(StepError, match="of 3 linear layers none"):
        run(model, digits, checkpoints)


def test_layers_whose_weights_torch_reads_itself_stay_as_they_are(digits, checkpoints):
    model = post_norm()
    fused = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, batch_first=True)
    fused.linear2 = model.block.fc2
    model.block = fused
    with pytest.raises(StepError, match="of 2 linear layers none"):
        run(model.eval(), digits, checkpoints)
