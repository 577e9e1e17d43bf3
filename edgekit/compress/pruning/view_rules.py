"""What views, slices, joins and paddings do to channels: they move them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgekit.compress.pruning.coupling import Labels, fixed, reshape_labels
from edgekit.compress.pruning.operands import Operands, as_dims, axis_of

if TYPE_CHECKING:
    from edgekit.compress.pruning.channel_trace import ChannelTrace

aten = torch.ops.aten

Rule = Callable[["ChannelTrace", Operands], None]


def same_shape(trace: "ChannelTrace", given: Operands) -> None:
    """The same channels in the same places."""
    labels = trace.labels(given.first)
    origin = trace.origin(given.first)
    for output in given.outputs:
        if list(output.shape) == [len(item) for item in labels]:
            trace.put(output, labels)
            if origin is not None:
                trace.put_origin(output, *origin)


def _view(trace: "ChannelTrace", given: Operands) -> None:
    before, output = trace.labels(given.first), given.outputs[0]
    if list(output.shape) == list(given.first.shape):
        same_shape(trace, given)
        trace.tell_sized(before, before)
        return

    def choose(sizes: tuple[int, ...], default: int) -> int:
        live = [item for item in before if trace.coupling.is_live(item)]
        return trace.choose(sizes, default, np.concatenate(live)) if live else default

    after = reshape_labels(trace.coupling, before, output.shape, choose)
    trace.put(output, after)
    trace.tell_sized(before, after)


def _permuted(trace: "ChannelTrace", given: Operands, order: Sequence[int]) -> None:
    labels, output = trace.labels(given.first), given.outputs[0]
    trace.put(output, [labels[axis] for axis in order])
    origin = trace.origin(given.first)
    if origin is not None:
        trace.put_origin(output, origin[0], tuple(origin[1][axis] for axis in order))


def _permute(trace: "ChannelTrace", given: Operands) -> None:
    _permuted(trace, given, [axis_of(axis, given.first.ndim) for axis in given[1]])


def _transpose(trace: "ChannelTrace", given: Operands) -> None:
    order = list(range(given.first.ndim))
    one, other = (axis_of(given[index], len(order)) for index in (1, 2))
    order[one], order[other] = order[other], order[one]
    _permuted(trace, given, order)


def _t(trace: "ChannelTrace", given: Operands) -> None:
    _permuted(trace, given, list(reversed(range(given.first.ndim))))


def _unsqueeze(trace: "ChannelTrace", given: Operands) -> None:
    labels = trace.labels(given.first)
    labels.insert(axis_of(given[1], given.first.ndim + 1), fixed(1))
    trace.put(given.outputs[0], labels)


def _squeeze(trace: "ChannelTrace", given: Operands) -> None:
    labels, ndim = trace.labels(given.first), given.first.ndim
    asked = as_dims(given.named("dim"), ndim)
    kept = [item for axis, item in enumerate(labels) if axis not in asked or len(item) > 1]
    trace.put(given.outputs[0], kept)


def _expand(trace: "ChannelTrace", given: Operands) -> None:
    before, output = trace.labels(given.first), given.outputs[0]
    known: list[Labels | None] = [None] * (output.ndim - len(before)) + list(before)
    # What is repeated out of one value is no channel of anyone yet.
    after = [
        item if item is not None and len(item) == size else trace.fresh(size)
        for item, size in zip(known, output.shape, strict=True)
    ]
    trace.put(output, after)
    trace.tell_sized(before, after)


def _repeat(trace: "ChannelTrace", given: Operands) -> None:
    before, output = trace.labels(given.first), given.outputs[0]
    known = [fixed(1)] * (output.ndim - len(before)) + list(before)
    after = [
        trace.fresh(size) if len(item) == 1 < size else np.tile(item, size // max(len(item), 1))
        for item, size in zip(known, output.shape, strict=True)
    ]
    trace.put(output, after)
    trace.tell_sized(before, after)


def _slice(trace: "ChannelTrace", given: Operands) -> None:
    before = trace.labels(given.first)
    axis = axis_of(given.named("dim"), given.first.ndim)
    start, end, step = (given.named(name) for name in ("start", "end", "step"))
    _pieces(trace, given, axis, [before[axis][slice(start, end, step)]])


def _split(trace: "ChannelTrace", given: Operands) -> None:
    axis = axis_of(given.named("dim"), given.first.ndim)
    sizes = [output.shape[axis] for output in given.outputs]
    before = trace.labels(given.first)
    _pieces(trace, given, axis, np.split(before[axis], np.cumsum(sizes)[:-1]))


def _pieces(trace: "ChannelTrace", given: Operands, axis: int, pieces: Sequence[Labels]) -> None:
    """Consecutive parts along one axis."""
    before, origin = trace.labels(given.first), trace.origin(given.first)
    for output, piece in zip(given.outputs, pieces, strict=True):
        after = [piece if index == axis else item for index, item in enumerate(before)]
        trace.put(output, after)
        if origin is not None:
            trace.put_origin(output, *origin)
        if len(piece) != len(before[axis]):
            trace.tell_sized([before[axis]], [piece])


def _select(trace: "ChannelTrace", given: Operands) -> None:
    labels = trace.labels(given.first)
    # One channel by its number: the code means this very one.
    trace.coupling.fix(labels.pop(axis_of(given[1], given.first.ndim)))
    trace.put(given.outputs[0], labels)


def _unbind(trace: "ChannelTrace", given: Operands) -> None:
    labels = trace.labels(given.first)
    trace.coupling.fix(labels.pop(axis_of(given.named("dim"), given.first.ndim)))
    for output in given.outputs:
        trace.put(output, labels)


def _cat(trace: "ChannelTrace", given: Operands) -> None:
    # torch lets an empty vector pass in any concatenation.
    parts = [value for value in given[0] if value.shape != (0,)]
    axis = axis_of(given.named("dim"), parts[0].ndim)
    found = [trace.labels(value) for value in parts]
    after = list(found[0])
    for labels in found[1:]:
        for index, (one, other) in enumerate(zip(after, labels, strict=True)):
            if index != axis:
                trace.coupling.couple(one, other)
    after[axis] = np.concatenate([labels[axis] for labels in found])
    trace.put(given.outputs[0], after)


def _glu(trace: "ChannelTrace", given: Operands) -> None:
    """A half of the channels gates the other half: each goes with its gate."""
    labels = trace.labels(given.first)
    axis = axis_of(given.named("dim"), len(labels))
    values, gates = np.split(labels[axis], 2)
    trace.coupling.couple(values, gates)
    labels[axis] = values
    trace.put(given.outputs[0], labels)


def _stack(trace: "ChannelTrace", given: Operands) -> None:
    found = [trace.labels(value) for value in given[0]]
    for labels in found[1:]:
        for one, other in zip(found[0], labels, strict=True):
            trace.coupling.couple(one, other)
    axis = axis_of(given.named("dim"), len(found[0]) + 1)
    found[0].insert(axis, fixed(len(given[0])))
    trace.put(given.outputs[0], found[0])


def _pad(trace: "ChannelTrace", given: Operands) -> None:
    before = trace.labels(given.first)
    after, pads = list(before), list(given[1])
    for index in range(len(pads) // 2):
        axis = len(before) - 1 - index
        after[axis] = _padded(trace, before[axis], pads[2 * index], pads[2 * index + 1])
    trace.put(given.outputs[0], after)
    trace.tell_sized(before, after)


def _padded(trace: "ChannelTrace", labels: Labels, left: int, right: int) -> Labels:
    is_live = trace.coupling.is_live(labels)
    kept = labels[max(-left, 0) : len(labels) - max(-right, 0)]
    sides = [
        trace.fresh(max(count, 0)) if is_live else fixed(max(count, 0)) for count in (left, right)
    ]
    return np.concatenate([sides[0], kept, sides[1]])


def _index_select(trace: "ChannelTrace", given: Operands) -> None:
    labels = trace.labels(given.first)
    axis = axis_of(given[1], given.first.ndim)
    if trace.coupling.is_live(labels[axis]):
        trace.coupling.fix(labels[axis])
    labels[axis] = fixed(given.outputs[0].shape[axis])
    trace.put(given.outputs[0], labels)


def _index(trace: "ChannelTrace", given: Operands) -> None:
    """Entries by number: the axes that are looked up are fixed, those around them keep theirs."""
    labels, output = trace.labels(given.first), given.outputs[0]
    looked_up = [axis for axis, item in enumerate(given[1]) if item is not None]
    first, last = looked_up[0], looked_up[-1]
    is_together = len(looked_up) == last - first + 1
    for axis, item in enumerate(labels):
        if axis in looked_up or not is_together:  # apart, they come first in the result
            trace.coupling.fix(item)
    if is_together:
        before, after = labels[:first], labels[last + 1 :]
        middle = output.shape[first : output.ndim - len(after)]
        trace.put(output, [*before, *map(fixed, middle), *after])


def _flip(trace: "ChannelTrace", given: Operands) -> None:
    labels = trace.labels(given.first)
    for axis in as_dims(given[1], given.first.ndim):
        labels[axis] = labels[axis][::-1].copy()
    trace.put(given.outputs[0], labels)


def _roll(trace: "ChannelTrace", given: Operands) -> None:
    labels = trace.labels(given.first)
    for item in labels:
        # A shift that is a plain number would have to shrink with the channels.
        trace.coupling.fix(item)


def rules(rule: Rule, *names: str) -> dict[Any, Rule]:
    """The same rule for several operators of torch, those that this version has."""
    return {getattr(aten, name): rule for name in names if hasattr(aten, name)}


VIEW_RULES: dict[Any, Rule] = {
    **rules(_view, "view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy"),
    **rules(_permute, "permute"),
    **rules(_transpose, "transpose", "swapaxes"),
    **rules(_t, "t", "numpy_T"),
    **rules(_unsqueeze, "unsqueeze"),
    **rules(_squeeze, "squeeze"),
    **rules(_expand, "expand"),
    **rules(_repeat, "repeat"),
    **rules(_slice, "slice"),
    **rules(_split, "split", "split_with_sizes", "unsafe_split", "split_copy"),
    **rules(_select, "select"),
    **rules(_unbind, "unbind"),
    **rules(_cat, "cat"),
    **rules(_stack, "stack"),
    **rules(_glu, "glu"),
    **rules(_pad, "constant_pad_nd"),
    **rules(_index_select, "index_select"),
    **rules(_index, "index"),
    **rules(_flip, "flip"),
    **rules(_roll, "roll"),
}
