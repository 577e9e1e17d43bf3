"""Adapters that are chosen at run time: one base model, and each adapter one vector of numbers.

Chosen linear layers compute x W^T + (x A^T) B^T, where A and B are cut out of one more input of
the model: a row of float32 for each sample. All zeros is the base model. So one artifact, quantized
once, serves every adapter. Applied right before capture, as the result is no plain model.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from edgekit.compress.low_rank.adapter_files import Adapter
from edgekit.compress.thin_layers import is_transposed, matrix_of
from edgekit.core.errors import StepError

Base = TypeVar("Base", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the factors of one layer are in a row: A (rank, in) from ``start`` on, then B."""

    path: str
    rank: int
    in_size: int
    out_size: int
    start: int

    @property
    def size(self) -> int:
        """Numbers of both factors."""
        return self.rank * (self.in_size + self.out_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where everything is in the row of an adapter."""

    places: tuple[Place, ...]

    @property
    def size(self) -> int:
        """Numbers of one adapter; four bytes each."""
        return sum(place.size for place in self.places)


def layout_of(model: nn.Module, adapters: Sequence[Adapter]) -> Layout:
    """Room for the factors of several adapters that were fitted to a model.

    A layer that any of them changes has the largest of their ranks.
    Raises: StepError for an adapter that changes anything but linear layers.
    """
    ranks: dict[str, int] = {}
    for adapter in adapters:
        if adapter.replaced:
            raise StepError(
                f"{adapter.folder}: it replaces '{min(adapter.replaced)}' (modules_to_save); an "
                "adapter that is chosen at run time can only add products to linear layers: merge "
                "it, or train it without modules_to_save"
            )
        for path, factor in adapter.factors.items():
            layer = model.get_submodule(path)
            if not isinstance(layer, nn.Linear) and not is_transposed(layer):
                raise StepError(
                    f"{adapter.folder}: layer '{path}' is of class {type(layer).__name__}; an "
                    "adapter that is chosen at run time can only change linear layers: merge this "
                    "one"
                )
            ranks[path] = max(ranks.get(path, 0), factor.rank)
    places, start = [], 0
    for path in sorted(ranks):
        out_size, in_size = matrix_of(model.get_submodule(path)).shape
        place = Place(path=path, rank=ranks[path], in_size=in_size, out_size=out_size, start=start)
        places.append(place)
        start += place.size
    if not places:
        raise StepError("no adapter changes any layer; give one that does")
    return Layout(places=tuple(places))


def pack(adapter: Adapter, layout: Layout) -> Tensor:
    """An adapter as a row for the input; what it does not change is zero.

    The scale goes into B, and each row of A and column of B share their size, so that one grid of
    integers suits both. A smaller rank than the layout's is filled up with zeros.
    Shapes: (layout.size,), float32.
    Raises: StepError for an adapter that has no room in the layout.
    """
    row = torch.zeros(layout.size)
    places = {place.path: place for place in layout.places}
    for path, factor in adapter.factors.items():
        place = places.get(path)
        if place is None or factor.rank > place.rank:
            room = "none" if place is None else f"rank {place.rank}"
            raise StepError(
                f"{adapter.folder}: layer '{path}' has rank {factor.rank}, and the model was built "
                f"with room for {room} there; build it again with this adapter among the others"
            )
        down, up = _parts(place, row)
        first, second = factor.down.float(), factor.scale * factor.up.float()
        balance = _balance(first, second)
        down[: factor.rank] = first * balance[:, None]
        up[:, : factor.rank] = second / balance
    return row


def _balance(down: Tensor, up: Tensor) -> Tensor:
    """What takes both factors to the same largest value, rank by rank; 1 where one is all zeros.

    Shapes: (rank, in), (out, rank) -> (rank,).
    """
    ratio = up.abs().amax(0) / down.abs().amax(1)
    is_sound = torch.isfinite(ratio) & (ratio > 0)
    return torch.where(is_sound, ratio, torch.ones_like(ratio)).sqrt()


def with_adapter_input(model: nn.Module, layout: Layout) -> nn.Module:
    """A model with one more input, last by position: a row of the layout a sample.

    The model takes its own inputs by position. Its layers are changed in place and only work
    within the result, a shallow copy of the model: paths and weights stay what they were, also for
    code that reads a layer's weight.
    """
    row = _Row()
    for place in layout.places:
        _adapt_(model.get_submodule(place.path), place, row)
    with_input = copy.copy(model)
    _derive_(with_input, _TakesRow).edgekit_row = row
    return with_input


class _Row:
    """The adapter of the call that is under way; modules hold it in common."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Tensor | None = None


def _adapt_(layer: nn.Module, place: Place, row: _Row) -> None:
    derived = _derive_(layer, _AddsProduct)
    derived.edgekit_place, derived.edgekit_row = place, row


def _derive_(module: nn.Module, base: type[Base]) -> Base:
    """Put a class before the module's own; it keeps the name, which names tensors in a .tflite."""
    kind = type(module)
    module.__class__ = type(kind.__name__, (base, kind), {"__module__": kind.__module__})
    return cast(Base, module)


class _AddsProduct(nn.Module):
    """Stands before the class of a linear layer, and adds the product of two factors."""

    edgekit_place: Place
    edgekit_row: _Row

    def forward(self, value: Tensor) -> Tensor:
        """The layer, and its change. Shapes: (batch, ..., in) -> (batch, ..., out)."""
        row, place = self.edgekit_row.value, self.edgekit_place
        if row is None:
            raise AssertionError(place.path)  # only _TakesRow calls the model
        down, up = _parts(place, row)
        # Models fold other axes into the first, but the batch stays outermost.
        is_plain = value.dim() == 3 and value.shape[0] == row.shape[0]
        rows = value if is_plain else value.reshape(row.shape[0], -1, place.in_size)
        change = (rows @ down.transpose(1, 2)) @ up.transpose(1, 2)
        result: Tensor = super().forward(value)
        return result + (change if is_plain else change.reshape(result.shape))


class _TakesRow(nn.Module):
    """Stands before the class of a model, and has the row ready for its layers."""

    edgekit_row: _Row

    def forward(self, *values: Tensor) -> Any:
        """What the model gives. Shapes: the inputs in order, then (batch, size of the layout)."""
        *given, row = values
        self.edgekit_row.value = row
        try:
            return super().forward(*given)
        finally:
            self.edgekit_row.value = None


def _parts(place: Place, row: Tensor) -> tuple[Tensor, Tensor]:
    """A and B as they lie in a row, or in each row of a batch.

    Shapes: (..., size) -> (..., rank, in), (..., out, rank).
    """
    middle = place.start + place.rank * place.in_size
    down = row[..., place.start : middle]
    up = row[..., middle : place.start + place.size]
    shape = row.shape[:-1]
    return (
        down.reshape(*shape, place.rank, place.in_size),
        up.reshape(*shape, place.out_size, place.rank),
    )
