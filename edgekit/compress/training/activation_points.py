"""Where an artifact of static integers rounds activations: found in one run of the torch model.

Inputs of the model, what functions with integer forms give, and what they read. A value that is
fused away (a convolution's before its batch norm, a sum's before its ReLU) is none of them, nor is
one that was only moved (reshaped, sliced, the largest of a window): it has its source's grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from edgekit.compress.bench import Call
from edgekit.compress.judge import restore_modes, training_modes
from edgekit.compress.moments import fast_path_off
from edgekit.compress.training.function_calls import INPUT, FunctionCalls, Given, Place
from edgekit.compress.training.function_rules import (
    ARITHMETIC,
    DIVISIONS,
    INTEGER,
    MOVES,
    SAME,
    WIDE,
    is_fused,
)


@dataclass(slots=True, kw_only=True, eq=False)
class _Call:
    """One call of a function. stays_float: in artifacts, whatever the function is."""

    function: str
    read: list["_Value"] = field(default_factory=list)
    given: list["_Value"] = field(default_factory=list)
    stays_float: bool = False

    @property
    def is_integer(self) -> bool:
        return self.function in INTEGER and not self.stays_float

    @property
    def is_wide(self) -> bool:
        """A division by a number is a product; one by a tensor spans orders of magnitude."""
        return self.function in WIDE or (self.function in DIVISIONS and len(self.read) > 1)


@dataclass(slots=True, kw_only=True, eq=False)
class _Value:
    """One tensor on its way. place: None where nothing can be put in its place.

    source: what it was moved from. readers: calls that read it, and whether as it is.
    """

    place: Place | None
    giver: _Call
    is_float: bool
    source: "_Value | None" = None
    readers: list[tuple[_Call, bool]] = field(default_factory=list)
    is_output: bool = False
    is_read_stale: bool = False

    @property
    def root(self) -> "_Value":
        """The value that it was moved from first."""
        return self if self.source is None else self.source.root


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPoints:
    """Places in the order in which the model passes them. left: those whose value cannot be seen.

    calls: how often each module of a place calls the function of that place.
    """

    places: tuple[Place, ...]
    left: tuple[Place, ...]
    calls: Mapping[tuple[str, str], int]


def find_points(
    part: nn.Module, model: nn.Module, call: Call, example: Mapping[str, Tensor]
) -> FoundPoints:
    """The points of ``part``, which ``call`` of the model runs."""
    trace = _Trace(part)
    modes = training_modes(model)
    model.eval()
    try:
        with torch.no_grad(), fast_path_off(), trace.following():
            call(model, example)
    finally:
        restore_modes(modes)
    _leave_islands_float(trace.calls_made)
    chosen = [value for value in trace.values if _is_point(value)]
    places = [value.place for value in chosen if value.place and not value.is_read_stale]
    left = [value.place for value in chosen if value.place and value.is_read_stale]
    counted = {(place.path, place.function) for place in places if place.function != INPUT}
    return FoundPoints(
        places=tuple(places),
        left=tuple(left),
        calls={key: trace.last_calls[key] for key in sorted(counted)},
    )


def _is_point(value: _Value) -> bool:
    if not value.is_float or value.source is not None or value.place is None:
        return False
    giver = value.giver
    if not (giver.is_integer or any(reader.is_integer for reader, _ in value.readers)):
        return False
    is_alone = len(value.readers) == 1 and not value.is_output
    if not is_alone:
        return True
    reader, is_direct = value.readers[0]
    return not (is_direct and is_fused(giver.function, reader.function))


def _leave_islands_float(calls: Sequence[_Call]) -> None:
    """Arithmetic before and after functions of wide ranges stays float, up to other functions."""

    def before(call: _Call) -> list[_Call]:
        return [value.root.giver for value in call.read]

    def after(call: _Call) -> list[_Call]:
        return [reader for value in call.given for reader, _ in value.root.readers]

    for step in (before, after):
        waiting = [call for call in calls if call.is_wide]
        seen = {id(call) for call in waiting}
        while waiting:
            call = waiting.pop()
            call.stays_float = True
            for item in step(call):
                if item.function in ARITHMETIC and id(item) not in seen:
                    seen.add(id(item))
                    waiting.append(item)


class _Trace(FunctionCalls):
    """Notes which values come from the model's inputs, what gives them and what reads them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.values: list[_Value] = []
        self.calls_made: list[_Call] = []
        self.last_calls: dict[tuple[str, str], int] = {}

    def enter(self) -> None:
        """Begin anew."""
        self.values, self.calls_made = [], []
        self._of: dict[int, _Value] = {}
        self._stale: set[int] = set()
        self._kept: list[Tensor] = []

    def leave(self, output: Any) -> None:
        """What the model gives is read by whoever called it."""
        for item in tree_leaves(output):
            if isinstance(item, Tensor) and (value := self._of.get(id(item))):
                value.root.is_output = True
        self.last_calls = dict(self.calls)
        self._kept = []

    def see(self, place: Place, given: Given, result: Any) -> Any:
        """Follow what was read to what was given."""
        if place.function == INPUT:
            self._add(result, place, _Call(function=INPUT))
            return result
        read = [self._of[id(item)] for item in given.tensors if id(item) in self._of]
        results = [item for item in tree_leaves(result) if isinstance(item, Tensor)]
        if not read or not (results or result is None):
            return result
        for item in given.tensors:
            if id(item) in self._stale:
                self._of[id(item)].is_read_stale = True
        if place.function in SAME | MOVES and results:
            return self._moved(place, read, result)
        call = _Call(function=place.function, read=read)
        self.calls_made.append(call)
        for value in read:
            value.root.readers.append((call, value.source is None))
        if result is None and given.tensors:
            # Something was written into the first of them.
            self._add(given.tensors[0], None, call)
        return self._given(place, call, given, result)

    def _given(self, place: Place, call: _Call, given: Given, result: Any) -> Any:
        if isinstance(result, Tensor):
            return self._one(place, call, given, result)
        if type(result) in (tuple, list):
            for number, item in enumerate(result):
                if isinstance(item, Tensor):
                    self._add(item, Place(place.path, place.function, place.call, number), call)
        else:
            for item in tree_leaves(result):
                if isinstance(item, Tensor):
                    self._add(item, None, call)
        return result

    def _one(self, place: Place, call: _Call, given: Given, result: Tensor) -> Tensor:
        if not any(item is result for item in given.tensors):
            self._add(result, place, call)
            return result
        # In place: what is put here later is another tensor, so whoever reads the argument once
        # more would read what it was without.
        alias = result.view_as(result)
        self._of[id(result)] = self._add(alias, place, call)
        self._stale.add(id(result))
        self._kept.append(result)
        return alias

    def _moved(self, place: Place, read: list[_Value], result: Any) -> Any:
        if place.function in SAME and isinstance(result, Tensor):
            self._of[id(result)] = read[0]
            self._kept.append(result)
            return result
        for item in tree_leaves(result):
            if isinstance(item, Tensor):
                self._add(item, place, read[0].giver, source=read[0])
        return result

    def _add(
        self, tensor: Tensor, place: Place | None, giver: _Call, source: _Value | None = None
    ) -> _Value:
        is_float = tensor.is_floating_point()
        value = _Value(place=place, giver=giver, is_float=is_float, source=source)
        self.values.append(value)
        if source is None:
            giver.given.append(value)
        self._of[id(tensor)] = value
        # Kept: a number that stands for a tensor must not come to stand for another.
        self._kept.append(tensor)
        return value
