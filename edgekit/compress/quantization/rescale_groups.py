"""Pairs whose readers are layers that can be looked at: what smoothing and AWQ choose scales for.

A reader must be a linear layer or a convolution of torch's own kind, so that what comes into it is
what its weight is multiplied with.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from edgekit.compress.quantization.rescale import Pair
from edgekit.compress.quantization.rescale_pairs import Found
from edgekit.compress.sparsity.sparse_layers import SparseWeight, known_weights

# Weights that are scaled by more than this lose digits of float32 for nothing.
MOST = 1e5
# Scales that are this near to 1 (by their logarithm) change no integer of 8 bits.
STILL = 1e-3
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A pair, and the layers of its readers in the same order."""

    pair: Pair
    layers: tuple[SparseWeight, ...]

    def by_input(self, values: Tensor) -> list[Tensor]:
        """Values of the channels as each layer has its inputs; 1 where they may not be scaled.

        Shapes: (channels,) -> (inputs,) a layer.
        """
        if self.pair.free is not None:
            is_free = self.pair.free.to(values.device)
            values = torch.where(is_free, values, torch.ones_like(values))
        places = (reader.places(self.pair.channels) for reader in self.pair.readers)
        return [values[place.to(values.device)] for place in places]

    def by_channel(self, values: Sequence[Tensor], reduce: Literal["amax", "mean"]) -> Tensor:
        """Values of the layers' inputs as one for each channel.

        Shapes: (inputs,) a layer -> (channels,).
        """
        readers, channels = self.pair.readers, self.pair.channels
        places = torch.cat([reader.places(channels) for reader in readers])
        joined = torch.cat([item.double() for item in values])
        start = joined.new_zeros(channels)
        return start.scatter_reduce(
            0, places.to(joined.device), joined, reduce, include_self=reduce == "amax"
        )


def groups_of(found: Found, model: nn.Module) -> tuple[list[Group], dict[str, str]]:
    """The groups, and by name the weights that no group scales, with the reason."""
    layers = {id(item.parameter): item for item in known_weights(model).weights}
    groups, unscaled = [], dict(found.unscaled)
    for pair in found.pairs:
        items = [layers.get(id(reader.weight)) for reader in pair.readers]
        why = next((_why_not(item) for item in items if _why_not(item)), "")
        if why:
            unscaled |= dict.fromkeys((reader.name for reader in pair.readers), why)
        else:
            groups.append(Group(pair=pair, layers=tuple(item for item in items if item)))
    return groups, unscaled


def _why_not(item: SparseWeight | None) -> str:
    if item is None:
        return "what comes into a layer beside it is not known"
    return item.why_unmapped


class Layered(Protocol):
    """What has layers."""

    @property
    def layers(self) -> tuple[SparseWeight, ...]:
        """The layers of a group."""
        ...


AnyGroup = TypeVar("AnyGroup", bound=Layered)


def in_batches(
    groups: Sequence[AnyGroup], bytes_of: Callable[[SparseWeight], int], limit_bytes: int
) -> Iterator[list[AnyGroup]]:
    """Groups that are looked at together, as many as fit; a large one goes alone."""
    batch: list[AnyGroup] = []
    filled = 0
    for group in groups:
        needed = sum(bytes_of(item) for item in group.layers)
        if batch and filled + needed > limit_bytes:
            yield batch
            batch, filled = [], 0
        batch.append(group)
        filled += needed
    if batch:
        yield batch


def row_bytes(item: SparseWeight, rows: int) -> int:
    """What so many vectors of a layer's inputs take."""
    return _FLOAT_BYTES * rows * item.groups * item.matrix(item.parameter).shape[1]


def moves(scales: Tensor) -> bool:
    """Whether scales change anything."""
    return bool(scales.log().abs().max() > STILL)


def told_unscaled(layers: Mapping[str, str]) -> str:
    """The first few weights that no group scales, with the reason each, for a note."""
    named = [f"{name} ({why})" for name, why in list(layers.items())[:3]]
    more = len(layers) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more > 0 else "")
