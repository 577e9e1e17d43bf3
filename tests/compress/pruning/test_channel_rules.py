"""Each operator couples the channels that it really mixes: what is left gives the same."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.compress.example import as_example
from edgekit.compress.pruning.prunable import cut, find_prunable
from edgekit.core.errors import StepError

INPUTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Around(nn.Module):
    """A convolution to 16 channels, an operation, and a convolution of what comes of it."""

    def __init__(self, operation, width):
        super().__init__()
        self.first, self.operation = nn.Conv2d(3, 16, 3, padding=1), operation
        self.last = nn.Conv2d(width, 4, 1)

    def forward(self, x):
        return self.last(self.operation(torch.relu(self.first(x))))


def units_around(operation, width):
    """How many units may go of the first convolution; half of them must go without a trace."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = Around(operation, width).eval()
    try:
        found = find_prunable(model, as_example(INPUTS), ("channels", "heads"))
    except StepError:
        return 0
    roots = [root for group in found.groups for root in group.units[::2]]
    wanted = model(INPUTS).shape
    assert cut(found, roots).model(INPUTS).shape == wanted
    return sum(len(group.units) for group in found.groups if group.path == "first")


@pytest.mark.parametrize(
    ("operation", "width", "units"),
    [
        (lambda x: functional.silu(x) + 1, 16, 16),
        (functional.hardswish, 16, 16),
        (nn.Hardswish(inplace=True), 16, 16),
        (functional.logsigmoid, 16, 16),
        (functional.rrelu, 16, 16),
        (lambda x: functional.glu(x, 1), 8, 8),
        (lambda x: x * x.mean((2, 3), keepdim=True), 16, 16),
        (lambda x: torch.cat([x, x * 2], 1), 32, 16),
        (lambda x: torch.cat([x, -x[:, :8]], 1), 24, 16),
        (lambda x: x[:, 4:12], 8, 8),
        (lambda x: x.chunk(2, 1)[0] * torch.sigmoid(x.chunk(2, 1)[1]), 8, 8),
        (lambda x: x.split([4, 12], 1)[1], 12, 12),
        (lambda x: functional.pixel_shuffle(x, 2), 4, 4),
        (lambda x: functional.pixel_unshuffle(x, 2), 64, 16),
        (lambda x: functional.channel_shuffle(x, 4), 16, 4),
        (lambda x: x.flip(1), 16, 16),
        (lambda x: x.flip(2), 16, 16),
        (lambda x: x.repeat(1, 2, 1, 1), 32, 16),
        (lambda x: x.repeat_interleave(2, 1), 32, 16),
        (lambda x: torch.stack([x, x + 1], 2).flatten(1, 2), 32, 16),
        (lambda x: x.view(2, 4, 4, 8, 8).sum(1), 4, 4),
        (lambda x: x.view(2, 4, 4, 8, 8).amax(2), 4, 4),
        (lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect"), 16, 16),
        (lambda x: functional.pad(x, (0, 0, 0, 0, 3, 5)), 24, 16),
        (lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"), 16, 16),
        (lambda x: functional.interpolate(x, scale_factor=2), 16, 16),
        (lambda x: functional.max_pool2d(x, 2), 16, 16),
        (lambda x: functional.adaptive_avg_pool2d(x, 3), 16, 16),
        (lambda x: functional.adaptive_max_pool2d(x, 3), 16, 16),
        (lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, (8, 8)), 16, 16),
        (lambda x: x.unsqueeze(1).squeeze(1), 16, 16),
        (lambda x: functional.normalize(x, dim=1), 16, 16),
        (lambda x: functional.layer_norm(x.movedim(1, -1), (16,)).movedim(-1, 1), 16, 16),
        (lambda x: functional.group_norm(x, 4), 16, 4),
        (functional.instance_norm, 16, 16),
        (lambda x: torch.einsum("bchw,bchw->bchw", x, x), 16, 16),
        (lambda x: x.max(3, keepdim=True).values, 16, 16),
        (lambda x: torch.where(x > 0.1, x, torch.zeros_like(x)), 16, 16),
        (lambda x: x.index_select(2, torch.tensor([0, 3])), 16, 16),
        (lambda x: x[:, :, torch.tensor([0, 3])], 16, 16),
    ],
)  # fmt: skip
def test_what_an_operator_moves_is_followed(operation, width, units):
    assert units_around(operation, width) == units


@pytest.mark.parametrize(
    ("operation", "width"),
    [
        (lambda x: x.softmax(1), 16),
        (lambda x: x.cumsum(1), 16),
        (lambda x: x.sort(1).values, 16),
        (lambda x: x.roll(1, 1), 16),
        (lambda x: x.argmax(1, keepdim=True).float(), 1),
        (lambda x: x.index_select(1, torch.tensor([5, 2, 1])), 3),
        (lambda x: x[:, torch.tensor([5, 2, 1])], 3),
        (lambda x: x[:, 3:4] + x[:, 5:6] * 0 + x[:, 2][:, None], 1),
        (lambda x: torch.fft.fft(x, dim=1).real, 16),
    ],
)
def test_what_hangs_on_the_number_of_a_channel_is_fixed(operation, width):
    assert units_around(operation, width) <= 2


def test_sums_over_channels_are_of_those_that_stay():
    assert units_around(lambda x: x.sum(1, keepdim=True), 1) == 0  # nothing reads its channels
    assert units_around(lambda x: x * x.mean(1, keepdim=True), 16) == 16
    assert units_around(lambda x: x / x.norm(dim=1, keepdim=True), 16) == 16
    assert units_around(lambda x: (x - x.mean(1, keepdim=True)) * x.std(1, keepdim=True), 16) == 16
