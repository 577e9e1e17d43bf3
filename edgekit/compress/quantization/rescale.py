"""Channels that may be made smaller in one layer and larger in the next, with the same outputs.

Between the two stand only functions with f(s x) = s f(x) for s > 0, so dividing what a layer gives
and multiplying what its readers take by the same positive number for each channel changes nothing
but the ranges. Equalization and smoothing choose these numbers; ``rescale_pairs`` finds the pairs.
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

    columns: the channel of each of its inputs, None for all of them in order. Heads that share a
    value, or pixels that were laid flat, give several inputs to one channel. groups: of a
    convolution. is_turned: a transposed convolution, whose first axis takes them.
    """

    name: str
    weight: Tensor
    columns: Tensor | None = None
    groups: int = 1
    is_turned: bool = False

    def places(self, channels: int) -> Tensor:
        """The channel of each input. Shapes: -> (inputs,)."""
        return torch.arange(channels) if self.columns is None else self.columns.long()

    def ranges(self, channels: int) -> Tensor:
        """The largest absolute weight of each channel. Shapes: -> (channels,)."""
        found = self._by_input().detach().abs().amax(dim=(1, 3)).flatten()
        return by_channel(found, self.places(channels), channels)

    @torch.no_grad()
    def multiply_(self, scales: Tensor) -> None:
        """Multiply what each channel meets. Shapes: scales (channels,)."""
        apart = self._by_input()
        shaped = scales[self.places(len(scales)).to(scales.device)].to(self.weight)
        factors = shaped.reshape(len(apart), 1, -1, 1)
        self.weight.copy_((apart * factors).reshape(self.weight.shape))

    def _by_input(self) -> Tensor:
        """The weight with its inputs apart: a view (groups, outputs, inputs, rest)."""
        weight = self.weight
        if self.is_turned:
            return weight.reshape(1, 1, len(weight), -1)
        return weight.reshape(self.groups, len(weight) // self.groups, weight.shape[1], -1)


def by_channel(values: Tensor, places: Tensor, channels: int) -> Tensor:
    """The largest value of all inputs of each channel; 0 for one without any.

    Shapes: values, places (inputs,) -> (channels,).
    """
    places = places.to(values.device)
    return values.new_zeros(channels).scatter_reduce(0, places, values, "amax")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What gives some channels, and all that take them.

    path: of the layer that gives them. weight: its own weights, None where a norm gives them.
    norm: a batch norm's weight, variance and epsilon between the weights and what is divided.
    divided: what is divided to make the channels smaller. free: channels that may be scaled, None
    for all; of a fused projection the rest goes elsewhere.
    """

    path: str
    channels: int
    weight: Slot | None
    norm: tuple[Tensor, Tensor, float] | None
    divided: tuple[Slot, ...]
    readers: tuple[Reader, ...]
    free: Tensor | None = None

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
        """Make the free channels smaller by these positive numbers. Shapes: scales (channels,)."""
        if self.free is not None:
            is_free = self.free.to(scales.device)
            scales = torch.where(is_free, scales, torch.ones_like(scales))
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
            if pair.free is not None:
                is_open &= pair.free.to(is_open.device)
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
