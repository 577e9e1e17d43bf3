"""Running a whole model as if some channels were gone: what the cut model must give.

A channel that goes takes no part in any sum: it is zero where a layer adds up its inputs, and left
out where something is averaged. All other operators see it and nobody sees their result.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from edgekit.compress.pruning.channel_graph import Flags
from edgekit.compress.pruning.operands import Operands, as_dims

if TYPE_CHECKING:
    from edgekit.compress.pruning.channel_trace import ChannelTrace

aten = torch.ops.aten

Masked = Callable[["ChannelTrace", Operands], Any]


def run_masked(
    trace: "ChannelTrace", func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Run one operator without the channels that ``trace`` was told to leave out."""
    handler = _HANDLERS.get(func.overloadpacket)
    if handler is None:
        return func(*args, **kwargs)
    return handler(trace, Operands(func, args, kwargs, None))


def staying(trace: "ChannelTrace", value: Tensor) -> list[Flags]:
    """Which positions of each dimension stay."""
    return [trace.stays(labels) for labels in trace.labels(value)]


def narrowed(trace: "ChannelTrace", tree: Any) -> Any:
    """Tensors without the channels that go, in whatever they are nested."""

    def narrow(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        return _narrow(item, dict(enumerate(staying(trace, item))))

    return tree_map(narrow, tree)


def _narrow(value: Tensor, flags: Mapping[int, Flags]) -> Tensor:
    for axis, flag in flags.items():
        if not flag.all():
            value = value.index_select(axis, _indices(flag, value))
    return value


def _indices(flag: Flags, value: Tensor) -> Tensor:
    return torch.from_numpy(np.flatnonzero(flag)).to(value.device)


def _without(trace: "ChannelTrace", value: Tensor, axis: int) -> Tensor:
    """The same tensor with zeros in the channels of one axis that go."""
    flag = staying(trace, value)[axis]
    if flag.all():
        return value
    return value.index_fill(axis % value.ndim, _indices(~flag, value), 0)


def _summed(index: int, axis: int) -> Masked:
    """Operators that add up one axis of an argument with another argument."""

    def run(trace: "ChannelTrace", given: Operands) -> Any:
        args = list(given.args)
        args[index] = _without(trace, args[index], axis)
        return given.func(*args, **given.kwargs)

    return run


def _reduced(trace: "ChannelTrace", given: Operands) -> Any:
    value = given.first
    dims = as_dims(given.named("dim"), value.ndim) or range(value.ndim)
    flags = {axis: flag for axis, flag in enumerate(staying(trace, value)) if axis in dims}
    return given.func(_narrow(value, flags), *given.args[1:], **given.kwargs)


def _layer_norm(trace: "ChannelTrace", given: Operands) -> Any:
    value, shape = given.first, given.named("normalized_shape")
    flags = staying(trace, value)[-len(shape) :]
    if all(flag.all() for flag in flags):
        return given.func(*given.args, **given.kwargs)
    front = value.ndim - len(shape)
    sizes = [int(flag.sum()) for flag in flags]
    args = [
        item
        if not isinstance(item, Tensor)
        else _narrow(item, {axis + item.ndim - len(shape): flag for axis, flag in enumerate(flags)})
        for item in given.args
    ]
    args[1] = sizes
    found = given.func(*args, **given.kwargs)
    return (_widened(found[0], value, dict(enumerate(flags, front))), *found[1:])


def _group_norm(trace: "ChannelTrace", given: Operands) -> Any:
    """One group over all channels is a mean; of more than one, whole groups go."""
    value, flag = given.first, staying(trace, given.first)[1]
    if given.named("group") != 1 or flag.all():
        return given.func(*given.args, **given.kwargs)
    weight, bias = (
        None if item is None else _narrow(item, {0: flag})
        for item in (given.named("weight"), given.named("bias"))
    )
    rest = (given.named("N"), int(flag.sum()), given.named("HxW"), 1, given.named("eps"))
    found = given.func(_narrow(value, {1: flag}), weight, bias, *rest)
    return (_widened(found[0], value, {1: flag}), *found[1:])


def _widened(value: Tensor, like: Tensor, flags: Mapping[int, Flags]) -> Tensor:
    """Put what was left out back as zeros."""
    for axis, flag in flags.items():
        shape = list(value.shape)
        shape[axis] = like.shape[axis]
        value = value.new_zeros(shape).index_copy(axis, _indices(flag, value), value)
    return value


def _handlers(handler: Masked, *names: str) -> dict[Any, Masked]:
    return {getattr(aten, name): handler for name in names if hasattr(aten, name)}


_HANDLERS: dict[Any, Masked] = {
    **_handlers(_summed(0, -1), "mm", "bmm"),
    **_handlers(_summed(1, -1), "addmm", "baddbmm", "mv"),
    **_handlers(_summed(0, 1), "convolution"),
    **_handlers(
        _summed(0, -1), "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math",
        "_scaled_dot_product_fused_attention_overrideable", "scaled_dot_product_attention",
    ),
    **_handlers(
        _reduced, "mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean",
        "linalg_vector_norm", "norm", "prod",
    ),
    **_handlers(_layer_norm, "native_layer_norm", "_fused_rms_norm"),
    **_handlers(_group_norm, "native_group_norm"),
}  # fmt: skip
