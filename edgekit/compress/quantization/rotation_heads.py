"""Heads whose values are rotated: the layer that gives them, and those that read their outputs."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgekit.compress.quantization.hadamard import spreading_rotation
from edgekit.compress.quantization.rotation_flow import Leaf
from edgekit.compress.quantization.rotation_merge import turn_


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A weight that reads what heads give. columns: the channel of each of its inputs."""

    leaf: Leaf
    axis: int
    columns: Tensor


@dataclass(slots=True, kw_only=True)
class Giver:
    """A layer that gives values, and other channels beside them where it is fused.

    heads: the channels of each head's values. held: channels that somebody else reads.
    """

    weight: Leaf
    axis: int
    bias: Leaf | None
    heads: set[tuple[int, ...]] = field(default_factory=set)
    readers: list[Reader] = field(default_factory=list)
    held: set[int] = field(default_factory=set)
    why_not: str = ""

    def block(self, why: str, labels: Tensor) -> None:
        """These channels cannot be rotated."""
        self.held |= set(labels.flatten().tolist())
        if self.heads:
            self.why_not = self.why_not or why

    @property
    def free(self) -> list[tuple[int, ...]]:
        """The heads that can be rotated: of no channel that another head has too."""
        counts = Counter(channel for head in self.heads for channel in head)
        return sorted(
            head
            for head in self.heads
            if len(head) > 1
            and all(counts[channel] == 1 and channel not in self.held for channel in head)
        )

    @property
    def leaves(self) -> list[Leaf]:
        """All parameters that are changed."""
        own = [self.weight] if self.bias is None else [self.weight, self.bias]
        return own + [item.leaf for item in self.readers]


@torch.no_grad()
def rotate_values_(givers: Iterable[Giver], generator: torch.Generator) -> None:
    """Rotate the values of each layer's heads, all by one matrix of that layer."""
    for giver in givers:
        heads = giver.free
        rotations = {
            size: spreading_rotation(size, generator) for size in sorted({*map(len, heads)})
        }
        for head in heads:
            places, matrix = torch.tensor(head), rotations[len(head)]
            _turn_part_(giver.weight.value, giver.axis, places, matrix)
            if giver.bias is not None:
                _turn_part_(giver.bias.value, 0, places, matrix)
            for reader in giver.readers:
                for inputs in _copies(reader.columns, head):
                    _turn_part_(reader.leaf.value, reader.axis, inputs, matrix)


def _turn_part_(value: Tensor, axis: int, places: Tensor, matrix: Tensor) -> None:
    """Rotate some places of an axis in place."""
    part = value.index_select(axis, places.to(value.device))
    turn_(part, axis, matrix)
    value.index_copy_(axis, places.to(value.device), part)


def _copies(columns: Tensor, head: tuple[int, ...]) -> list[Tensor]:
    """The inputs of a reader that have a head's channels in order, one tensor for each copy."""
    rows = columns.reshape(-1, len(head))
    places = torch.arange(len(columns)).reshape(-1, len(head))
    return list(places[(rows == torch.tensor(head)).all(dim=1)])
