"""From a module's own code to a block of calls with sizes that fit what is left of its channels."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgekit.compress.pruning.call_block import (
    DICT,
    ELLIPSIS,
    LIST,
    NODE,
    SLICE,
    TRAINING,
    TUPLE,
    Call,
    CallBlock,
    block_like,
    name_of,
    signature_of,
    to_plain,
)
from edgekit.compress.pruning.channel_graph import Flags
from edgekit.compress.pruning.channel_trace import ChannelTrace
from edgekit.compress.pruning.masked_run import narrowed, staying

# What torch.fx and a module's code raise when the code cannot be written as calls.
UNWRITABLE = (
    fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError, LookupError,
    AssertionError, NotImplementedError,
)  # fmt: skip
_SHAPERS = ("reshape", "view", "expand", "unflatten", "repeat", "flatten")


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """One call of a module in a run without some channels: what came in and what went out."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


class _Tracer(fx.Tracer):
    """Follows one module's own code; its children are called as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return True


def as_calls(module: nn.Module, captured: Captured) -> CallBlock:
    """A module's code as a block of calls, for calls with the same kinds of arguments.

    Raises: one of ``UNWRITABLE`` where the code cannot be followed.
    """
    if isinstance(module, CallBlock):
        return block_like(module, module.calls, module.output, module.inputs)
    bound = inspect.signature(module.forward).bind(*captured.args, **captured.kwargs)
    bound.apply_defaults()
    plain = {
        name: value
        for name, value in bound.arguments.items()
        if value is None or isinstance(value, (bool, int, float, str))
    }
    graph = _Tracer().trace(module, concrete_args=plain)
    calls: list[Call] = []
    output: Any = None
    for node in graph.nodes:
        if node.op == "output":
            output = to_plain(node.args[0], _named)
        elif node.op != "placeholder" and node.target not in _ASSERTIONS:
            calls.append(_call(node))
    return block_like(module, _used(calls, output), output, signature_of(module))


_ASSERTIONS = (torch._assert, fx._symbolic_trace._assert_is_none)  # noqa: SLF001  # fx adds them


def _named(value: Any) -> str | None:
    if not isinstance(value, fx.Node):
        return None
    return str(value.target) if value.op == "placeholder" else value.name


def _call(node: fx.Node) -> Call:
    kinds = {"call_function": "function", "call_method": "method", "call_module": "module"}
    what = str(node.target)
    if node.op == "call_function":
        name = name_of(node.target)  # type: ignore[arg-type]
        if name is None:
            raise TypeError(f"'{node.target}' cannot be written down")
        what = name
    kwargs = dict(node.kwargs)
    plain = to_plain(kwargs, _named)
    if kwargs.get("training") is False:  # traced in eval mode; dropout must know when it trains
        plain = tuple(
            ("training", (TRAINING,)) if item[0] == "training" else item for item in plain
        )
    return (
        node.name,
        kinds.get(node.op, "attribute"),
        what,
        to_plain(tuple(node.args), _named),
        plain,
    )


def _used(calls: Sequence[Call], output: Any) -> list[Call]:
    """Calls that the output needs."""
    needed, kept = _nodes(output), []
    for call in reversed(calls):
        if call[0] in needed:
            needed |= _nodes(call[3]) | _nodes(call[4])
            kept.append(call)
    return kept[::-1]


def _nodes(plain: Any) -> set[str]:
    if not isinstance(plain, tuple) or not plain:
        return set()
    if plain[0] == NODE:
        return {plain[1]}
    return set().union(*(_nodes(item) for item in plain))


def fit_sizes(
    trace: ChannelTrace, model: nn.Module, path: str, cut: nn.Module, captured: Captured
) -> CallBlock:
    """The cut module as a block of calls that gives what the whole one gives, less its channels.

    Both make the same calls side by side; a size that does not fit is replaced.
    trace: inside its ``without`` block. model: the whole model.
    Raises: one of ``UNWRITABLE`` where no size does it.
    """
    whole, thin_block = as_calls(model.get_submodule(path), captured), as_calls(cut, captured)
    dense = whole.bind(captured.args, captured.kwargs)
    thin = thin_block.bind(narrowed(trace, captured.args), narrowed(trace, captured.kwargs))
    calls = []
    with trace.replaying(model, path):
        for call in whole.calls:
            with trace:
                dense[call[0]] = whole.run(call, dense)
            fitted = _Fitting(trace, thin_block, call, dense, thin).fitted()
            thin[call[0]] = thin_block.run(fitted, thin)
            calls.append(fitted)
    return block_like(cut, calls, thin_block.output, thin_block.inputs)


class _Fitting:
    """One call whose sizes are to fit."""

    def __init__(
        self,
        trace: ChannelTrace,
        block: CallBlock,
        call: Call,
        dense: Mapping[str, Any],
        thin: Mapping[str, Any],
    ) -> None:
        """dense, thin: what came of the calls before, whole and without the channels that go."""
        self._trace, self._block, self._call = trace, block, call
        self._dense, self._thin = dense, thin
        self._name, self._kind, self._what, self._args, self._kwargs = call
        self._result = dense[self._name]

    def fitted(self) -> Call:
        """The same call with other sizes where it needs them."""
        leaf, result = self._what.rpartition(":")[2], self._result
        if self._kind not in ("function", "method"):
            return self._call
        if leaf in _SHAPERS and isinstance(result, Tensor):
            return self._shaped(leaf, result)
        if leaf == "pad" and isinstance(result, Tensor):
            return self._padded(result)
        if leaf in ("split", "chunk", "split_with_sizes") and isinstance(result, (tuple, list)):
            return self._split(result)
        if leaf in ("layer_norm", "group_norm") and isinstance(result, Tensor):
            return self._normed(leaf)
        is_slice = self._what == "operator:getitem" and isinstance(result, Tensor)
        if is_slice and isinstance(self._dense[self._args[1][1]], Tensor):
            return self._sliced()
        return self._call

    @property
    def _source(self) -> Tensor:
        value = self._dense[self._args[1][1]]
        if not isinstance(value, Tensor):
            raise TypeError("a size of something that is no tensor")
        return value

    def _flags(self, value: Tensor) -> list[Flags]:
        return staying(self._trace, value)

    def _now(self) -> Any:
        """What the call gives as it is; None where it fails."""
        try:
            return self._block.run(self._call, self._thin)
        except UNWRITABLE:
            return None

    def _shaped(self, leaf: str, result: Tensor) -> Call:
        """A view whose sizes no longer multiply to what is there gets them as plain numbers."""
        wanted = [int(flag.sum()) for flag in self._flags(result)]
        now = self._now()
        if now is not None and list(now.shape) == wanted:
            return self._call
        if leaf == "unflatten":
            axis = self._block.value(self._args[2], self._thin) % self._source.ndim
            sizes = wanted[axis : axis + 1 + result.ndim - self._source.ndim]
            return self._with(self._args[1], axis, (TUPLE, *sizes))
        given = list(self._args[2:])
        if len(given) == 1 and isinstance(given[0], tuple) and given[0][0] in (TUPLE, LIST):
            given = list(given[0][1:])
        values = [self._block.value(item, self._thin) for item in given]
        # A size that fits keeps its own expression: the batch may vary.
        sizes = [
            plain if value in (-1, size) else size
            for plain, value, size in zip(given, values, wanted, strict=True)
        ]
        method = leaf if leaf in ("expand", "repeat") else "reshape"
        return self._name, "method", method, (TUPLE, self._args[1], *sizes), (DICT,)

    def _normed(self, leaf: str) -> Call:
        """A norm that is told its width, or its groups, by a plain number."""
        flags = self._flags(self._source)
        if leaf == "layer_norm":
            count = len(self._block.value(self._args[2], self._dense))
            width: Any = (TUPLE, *(int(flag.sum()) for flag in flags[-count:]))
        else:
            groups = self._block.value(self._args[2], self._dense)
            width = int(flags[1].reshape(groups, -1).all(axis=1).sum())
        return self._with(self._args[1], width, *self._args[3:])

    def _padded(self, result: Tensor) -> Call:
        """Zeros beside channels: as many as belong to channels that stay."""
        flags = self._flags(result)
        tag, *pads = self._args[2]
        for index in range(len(pads) // 2):
            axis = result.ndim - 1 - index
            left, size = pads[2 * index], self._source.shape[axis]
            if left >= 0 and not flags[axis].all():
                pads[2 * index] = int(flags[axis][:left].sum())
                pads[2 * index + 1] = int(flags[axis][left + size :].sum())
        return self._with(self._args[1], (tag, *pads), *self._args[3:])

    def _split(self, parts: Sequence[Tensor]) -> Call:
        """Parts of an axis: as wide as what stays of each."""
        wanted = [[int(flag.sum()) for flag in self._flags(part)] for part in parts]
        now = self._now()
        if now is not None and [list(part.shape) for part in now] == wanted:
            return self._call
        source = self._source.shape
        axis = next(axis for axis, size in enumerate(source) if size != parts[0].shape[axis])
        sizes = (LIST, *(shape[axis] for shape in wanted))
        return self._name, "method", "split", (TUPLE, self._args[1], sizes, axis), (DICT,)

    def _sliced(self) -> Call:
        """Slices by number: from and to the same channels as before."""
        flags, index = self._flags(self._source), self._args[2]
        parts = list(index[1:]) if isinstance(index, tuple) and index[0] == TUPLE else [index]
        if all(flag.all() for flag in flags):
            return self._call
        if (ELLIPSIS,) in parts:
            place = parts.index((ELLIPSIS,))
            whole = [(SLICE, None, None, None)] * (len(flags) - len(parts) + 1)
            parts[place : place + 1] = whole
        fitted = [self._part(part, flag) for part, flag in zip(parts, flags, strict=False)]
        return self._with(self._args[1], (TUPLE, *fitted))

    def _part(self, part: Any, flag: Flags) -> Any:
        if not isinstance(part, tuple) or part[0] != SLICE or flag.all():
            return part
        start, stop, step = self._block.value(part, self._dense).indices(len(flag))
        if step != 1:
            raise ValueError("every other channel is taken, and some of them are gone")
        before = np.cumsum([0, *flag.astype(int)])
        return (SLICE, int(before[start]), int(before[max(stop, start)]), None)

    def _with(self, *args: Any) -> Call:
        return self._name, self._kind, self._what, (TUPLE, *args), self._kwargs
