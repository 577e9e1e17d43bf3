"""Adapters that are chosen at run time: one base model, and each adapter one vector of numbers.

Chosen linear layers compute x W^T + (x A^T) B^T, where A and B are cut out of one more input of
the model, ``adapter``: a row of float32 for each sample. All zeros is the base model. So one
artifact, quantized once, serves every adapter, and a new one needs no new build: ``pack`` makes its
row. Applied after the last module step and before capture, as the result is no plain model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Call
from edgekit.compress.low_rank.adapter_files import Adapter
from edgekit.compress.thin_layers import is_transposed, matrix_of, replace_module
from edgekit.core.errors import StepError

ADAPTER = "adapter"


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
                    f"{adapter.folder}: layer '{path}' is a {type(layer).__name__}; an adapter "
                    "that is chosen at run time can only change linear layers: merge this one"
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

    The scale goes into B; a smaller rank than the layout's is filled up with zeros.
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
        down[: factor.rank] = factor.down
        up[:, : factor.rank] = factor.scale * factor.up
    return row


def with_adapter_input(
    model: nn.Module, layout: Layout, call: Call, inputs: Sequence[str]
) -> nn.Module:
    """A model with one more input, last by position: ``adapter``, a row of the layout a sample.

    The model is changed in place, and then part of the one that comes back. inputs: the names of
    its own inputs in order, as ``call`` takes them.
    Raises: StepError when the model has an input of that name already.
    """
    if ADAPTER in inputs:
        raise StepError(f"the model has an input '{ADAPTER}' of its own; rename it")
    row = _Row()
    for place in layout.places:
        layer = model.get_submodule(place.path)
        model = replace_module(model, place.path, _AdaptedLinear(layer, place, row))
    return _WithAdapterInput(model, call, tuple(inputs), row)


class _Row:
    """The adapter of the call that is under way; modules hold it in common."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Tensor | None = None


class _AdaptedLinear(nn.Module):
    """A linear layer and the product of two factors from the row."""

    def __init__(self, layer: nn.Module, place: Place, row: _Row) -> None:
        super().__init__()
        self.layer = layer
        self._place, self._row = place, row

    def forward(self, value: Tensor) -> Tensor:
        """The layer, and its change. Shapes: (batch, ..., in) -> (batch, ..., out)."""
        row = self._row.value
        if row is None:
            raise AssertionError(self._place.path)  # only _WithAdapterInput calls the model
        place, batch = self._place, row.shape[0]
        down, up = _parts(place, row)
        # Models fold other axes into the first, but the batch stays outermost.
        rows = value.reshape(batch, -1, place.in_size)
        change = (rows @ down.transpose(1, 2)) @ up.transpose(1, 2)
        result: Tensor = self.layer(value)
        return result + change.reshape(result.shape)


class _WithAdapterInput(nn.Module):
    """Calls the model while the row lies ready for its layers."""

    def __init__(self, model: nn.Module, call: Call, inputs: tuple[str, ...], row: _Row) -> None:
        super().__init__()
        self.model = model
        self._call, self._inputs, self._row = call, inputs, row

    def forward(self, *values: Tensor) -> Mapping[str, Tensor]:
        """Outputs by name. Shapes: the inputs in order, then (batch, size of the layout)."""
        *given, row = values
        self._row.value = row
        try:
            return self._call(self.model, dict(zip(self._inputs, given, strict=True)))
        finally:
            self._row.value = None


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
