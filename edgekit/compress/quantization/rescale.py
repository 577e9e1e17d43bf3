"""Channels that may be made smaller in one layer and larger in the next, with the same outputs.

Between the two stand only functions with f(s x) = s f(x) for s > 0, so dividing what a layer gives
and multiplying what its readers take by the same positive number for each channel changes nothing
but the ranges. Equalization and smoothing choose these numbers; ``rescale_trace`` finds the pairs.
Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A dimension of a parameter or buffer that has one place a channel."""

    name: str
    value: Tensor
    axis: int = 0

    @torch.no_grad()
    def divide_(self, scales: Tensor) -> None:
        """Divide each channel. Shapes: scales (channels,)."""
        shape = [-1 if index == self.axis else 1 for index in range(self.value.ndim)]
        self.value.div_(scales.to(self.value).reshape(shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A weight that takes the channels in.

    groups: of a convolution. repeat: columns of a matrix that belong to one channel, where its
    pixels were laid flat. is_turned: a transposed convolution, whose first axis takes them.
    """

    name: str
    weight: Tensor
    groups: int = 1
    repeat: int = 1
    is_turned: bool = False

    def by_channel(self, channels: int) -> Tensor:
        """The weight with its input channels apart: a view (groups, outputs, channels, rest)."""
        weight = self.weight
        if self.is_turned:
            return weight.reshape(1, 1, channels, -1)
        inner = channels // self.groups
        return weight.reshape(self.groups, len(weight) // self.groups, inner, -1)

    def ranges(self, channels: int) -> Tensor:
        """The largest absolute weight of each channel. Shapes: -> (channels,)."""
        return self.by_channel(channels).detach().abs().amax(dim=(1, 3)).flatten()

    @torch.no_grad()
    def multiply_(self, scales: Tensor) -> None:
        """Multiply what each channel meets. Shapes: scales (channels,)."""
        shaped = scales.to(self.weight).reshape(1 if self.is_turned else self.groups, 1, -1, 1)
        self.weight.copy_((self.by_channel(len(scales)) * shaped).reshape(self.weight.shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What gives some channels, and all that take them.

    path: of the layer that gives them. weight: its own weights, None where a norm gives them.
    norm: a batch norm's weight, variance and epsilon between the weights and what is divided.
    divided: what is divided to make the channels smaller.
    """

    path: str
    channels: int
    weight: Slot | None
    norm: tuple[Tensor, Tensor, float] | None
    divided: tuple[Slot, ...]
    readers: tuple[Reader, ...]

    def ranges(self) -> Tensor:
        """The largest absolute weight of each channel, as an exporter folds the norm into it."""
        if self.weight is None:
            raise ValueError(f"{self.path} gives its channels without weights")
        rows = self.weight.value.detach().movedim(self.weight.axis, 0).flatten(1)
        found = rows.abs().amax(dim=1)
        if self.norm is not None:
            weight, variance, epsilon = self.norm
            found = found * weight.detach().abs() / (variance + epsilon).sqrt()
        return found

    def reader_ranges(self) -> Tensor:
        """The largest absolute weight that each channel meets in any reader."""
        return torch.stack([item.ranges(self.channels) for item in self.readers]).amax(dim=0)

    def scale_(self, scales: Tensor) -> None:
        """Make the channels smaller by these positive numbers. Shapes: scales (channels,)."""
        for slot in self.divided:
            slot.divide_(scales)
        for reader in self.readers:
            reader.multiply_(scales)

    @property
    def values(self) -> tuple[Tensor, ...]:
        """All that ``scale_`` changes."""
        return (*(slot.value for slot in self.divided), *(item.weight for item in self.readers))


def equalize_(pairs: Sequence[Pair], sweeps: int, tolerance: float) -> int:
    """Give each channel the same range on both sides, pair by pair, until nothing moves any more.

    s = sqrt(r1 / r2) for ranges r1 of what gives a channel and r2 of what takes it, so that both
    become sqrt(r1 r2). Channels that are zero on one side stay, and those whose s is nearer to 1
    than ``tolerance`` (by its logarithm). Gives in how many sweeps something moved.
    Source: Nagel et al. 2019, arXiv:1906.04721, equation 11.
    """
    for sweep in range(sweeps):
        has_moved = False
        for pair in pairs:
            first, second = pair.ranges().double(), pair.reader_ranges().double()
            is_open = (first > 0) & (second > 0)
            scales = torch.where(is_open, (first / second).sqrt(), torch.ones_like(first))
            is_off = scales.log().abs() > tolerance
            if is_off.any():
                pair.scale_(torch.where(is_off, scales, torch.ones_like(scales)))
                has_moved = True
        if not has_moved:
            return sweep
    return sweeps


def precision_of(ranges: Tensor) -> float:
    """How much of one grid for the whole layer its channels use: the mean of r_i / max r, 0 to 1.

    Shapes: ranges (channels,). 1 for a layer of zeros.
    Source: Nagel et al. 2019, arXiv:1906.04721, equation 7, averaged over channels.
    """
    top = ranges.max()
    return float((ranges / top).mean()) if top > 0 else 1.0
