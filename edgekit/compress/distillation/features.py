"""Which layer of a student learns from which layer of its teacher, and the projections between.

By default layers of like size (pixels, tokens) are paired by depth: the repeated blocks of a model
where it has some, else the last layer of every size. Of vectors it is the hidden linear layers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.distillation.taps import Layer
from edgekit.core.codec import nearest
from edgekit.core.errors import StepError

T = TypeVar("T")

# Of one size; a projection each is trained along.
MAX_PAIRS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A layer of the student and the one of the teacher that it learns from."""

    student: Layer
    teacher: Layer


def pair_layers(
    student: Sequence[Layer], teacher: Sequence[Layer], asked: Mapping[str, str]
) -> tuple[Pair, ...]:
    """The pairs that are asked for by path, else the default ones.

    Raises: StepError for a path that is not there, and where no two layers go together.
    """
    if not asked:
        return default_pairs(student, teacher)
    return tuple(
        _fitting(
            Pair(
                student=_layer(student, ours, "student"), teacher=_layer(teacher, theirs, "teacher")
            )
        )
        for ours, theirs in asked.items()
    )


def default_pairs(student: Sequence[Layer], teacher: Sequence[Layer]) -> tuple[Pair, ...]:
    """Layers of like size, evenly spaced in depth; the last of each size is always among them.

    Raises: StepError when no size is in both.
    """
    ours, theirs = by_size(student), by_size(teacher)
    if not ours.keys() & theirs.keys():
        # Blocks in one model only, or of other sizes: single layers may still agree.
        ours, theirs = _layers_by_size(student), _layers_by_size(teacher)
    pairs = [
        Pair(student=one, teacher=other)
        for size in ours
        if size in theirs
        for one, other in _evenly(ours[size], theirs[size])
    ]
    if not pairs:
        raise StepError(
            f"distil: no layer of the student is as large as one of the teacher: {_sizes(ours)} "
            f"against {_sizes(theirs)}; name some in 'pairs' (student's module path to teacher's)"
        )
    return tuple(pairs)


def by_size(layers: Sequence[Layer]) -> dict[tuple[int, ...], list[Layer]]:
    """The layers of a model that features are taken from, in order, by their size."""
    inner = blocks(layers)
    if len(inner) < 2:
        return _layers_by_size(layers)
    return _grouped(inner)


def blocks(layers: Sequence[Layer]) -> list[Layer]:
    """The repeated blocks of a model: what has parts and stands in a list; the outermost ones."""
    return _outermost(
        [item for item in layers if item.is_listed and item.size and list(item.module.children())]
    )


class Projection(nn.Module):
    """A linear map from the student's channels to the teacher's, trained along and thrown away.

    On pictures it is a 1x1 convolution. Equal widths begin as they are.
    Source: Romero et al. 2015, arXiv:1412.6550 (the regressor of FitNets).
    """

    def __init__(self, channels: int, wanted: int, generator: torch.Generator) -> None:
        super().__init__()
        start = torch.eye(wanted) if channels == wanted else torch.empty(wanted, channels)
        if channels != wanted:
            bound = 1 / math.sqrt(channels)
            start.uniform_(-bound, bound, generator=generator)
        self.weight, self.bias = nn.Parameter(start), nn.Parameter(torch.zeros(wanted))

    def forward(self, features: Tensor) -> Tensor:
        """Shapes: (n, ..., channels) -> (n, ..., wanted)."""
        return functional.linear(features, self.weight, self.bias)


def sized_alike(features: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Features of both at the smaller of their sizes, the larger ones averaged down.

    Shapes: (n, ..., channels) each -> the same positions.
    """
    ours, theirs = features.shape[1:-1], wanted.shape[1:-1]
    if ours == theirs:
        return features, wanted
    size = tuple(min(pair) for pair in zip(ours, theirs, strict=True))
    return _pooled(features, size), _pooled(wanted, size)


def _pooled(features: Tensor, size: tuple[int, ...]) -> Tensor:
    pool = functional.adaptive_avg_pool2d if len(size) == 2 else functional.adaptive_avg_pool1d
    return pool(features.movedim(-1, 1), size).movedim(1, -1)  # type: ignore[arg-type]


def _evenly(ours: list[Layer], theirs: list[Layer]) -> list[tuple[Layer, Layer]]:
    """The k-th of n pairs takes the layer at k / n of each depth, rounded up."""
    count = min(len(ours), len(theirs), MAX_PAIRS)
    return [
        (at_depth(ours, number, count), at_depth(theirs, number, count))
        for number in range(1, count + 1)
    ]


def at_depth(layers: Sequence[T], number: int, count: int) -> T:
    """The one at ``number`` / ``count`` of the depth, counted from 1."""
    return layers[-(-number * len(layers) // count) - 1]


def _layers_by_size(layers: Sequence[Layer]) -> dict[tuple[int, ...], list[Layer]]:
    """Single layers with weights: the last of every size, and all hidden linear ones of vectors."""
    weighted = [
        layer
        for layer in layers
        if not layer.is_last and list(layer.module.parameters(recurse=False))
    ]
    found = {size: group[-1:] for size, group in _grouped(weighted).items() if size}
    hidden = [layer for layer in weighted if isinstance(layer.module, nn.Linear) and not layer.size]
    return found | ({(): hidden} if hidden else {})


def _grouped(layers: Sequence[Layer]) -> dict[tuple[int, ...], list[Layer]]:
    found: dict[tuple[int, ...], list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.size, []).append(layer)
    return found


def _outermost(inner: Sequence[Layer]) -> list[Layer]:
    found = [item for item in inner if not any(_is_inside(item, other) for other in inner)]
    if len(found) != 1:
        return found
    # One alone is the whole body, in a list beside a head: the blocks within it are meant.
    return _outermost([item for item in inner if item is not found[0]]) or found


def _is_inside(layer: Layer, other: Layer) -> bool:
    return layer.path.startswith(f"{other.path}.")


def _layer(layers: Sequence[Layer], path: str, whose: str) -> Layer:
    found = next((layer for layer in layers if layer.path == path), None)
    if found is None:
        raise StepError(
            f"distil: pairs: the {whose} has no layer '{path}' that gives features"
            f"{nearest(path, [layer.path for layer in layers])}"
        )
    return found


def _fitting(pair: Pair) -> Pair:
    ours, theirs = pair.student, pair.teacher
    is_sequence = len(ours.size) == 1
    if len(ours.size) != len(theirs.size) or (is_sequence and ours.size != theirs.size):
        raise StepError(
            f"distil: pairs: '{ours.path}' gives {list(ours.shape)} and '{theirs.path}' "
            f"{list(theirs.shape)} (two samples); pair pictures with pictures, and sequences with "
            "sequences of the same length"
        )
    return pair


def _sizes(groups: Mapping[tuple[int, ...], Sequence[Layer]]) -> str:
    return ", ".join("x".join(map(str, size)) or "vectors" for size in groups) or "none"
