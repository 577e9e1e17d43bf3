"""What functions of torch do to channels that may be rotated, one rule a kind of function.

A rule notes in the record what a call does, and gives what is known of its result: None for
nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from edgekit.compress.quantization.rescale_rules import (
    Given,
    channel_axis,
    labels_after,
    labels_along,
)
from edgekit.compress.quantization.rotation_flow import Flow, Fold
from edgekit.compress.quantization.rotation_names import (
    DIVIDED,
    MULTIPLIED,
    SPREADS,
    dims_of,
    is_one_for_all,
)
from edgekit.compress.quantization.rotation_record import Record


def cast(record: Record, given: Given, result: Tensor) -> bool:
    """Whether it is a parameter in another type."""
    leaf, plus = record.origin(given.get(0, "input"))
    if leaf is None or record.flow(given.get(0, "input")) is not None:
        return False
    if result is not leaf.value:
        record.derive(result, leaf, plus)
    return True


def kept(record: Record, given: Given, result: Tensor) -> Flow | None:
    """Place by place the same, in eval mode."""
    value = given.get(0, "input")
    flow = record.flow(value)
    # Called without its third argument, dropout drops.
    is_training = "dropout" in given.name and given.get(2, "training", default=True)
    if flow is None or is_training or result.shape != value.shape:
        record.stop(given)
        return None
    record.stop(given, but=value)
    return flow


def moved(
    record: Record, func: Callable[..., Any], given: Given, result: Any
) -> list[Flow | None] | None:
    """Values go elsewhere, and the channels must stay side by side on one axis."""
    value = given.get(0, "input", given.named.get("self"))
    flow = record.source(value)
    record.stop(given, but=value if flow is not None else None)
    if flow is None:
        return None
    labels = labels_after(func, given, result, labels_along(value, flow.axis))
    size = flow.space.size
    axes = [channel_axis(item, size) for item in tree_leaves(labels)]
    if labels is None or None in axes:
        record.block(flow, given.name)
        return None
    return [
        replace(flow, axis=int(axis or 0) - item.ndim)
        for axis, item in zip(axes, tree_leaves(labels), strict=True)
    ]


def joined(record: Record, func: Callable[..., Any], given: Given, result: Tensor) -> Flow | None:
    """Tensors one after another along an axis that is not the channels'."""
    parts = list(given.get(0, "tensors"))
    flows = [record.source(part) for part in parts]
    known = [flow for flow in flows if flow is not None]
    is_all = len(known) == len(parts) and all(
        flow.is_plain and flow.space.size == known[0].space.size for flow in known
    )
    if is_all:
        labels = [labels_along(part, flow.axis) for part, flow in zip(parts, known, strict=True)]
        axis = channel_axis(func(labels, *given.args[1:], **given.named), known[0].space.size)
        if axis is not None:
            for flow in known[1:]:
                known[0].space.join(flow.space)
            return replace(known[0], axis=axis - result.ndim)
    for flow in known:
        record.block(flow, given.name)
    return None


def summed(record: Record, given: Given, result: Tensor) -> Flow | None:
    """A sum or a difference of two."""
    one, two = given.get(0, "input"), given.get(1, "other")
    flows = record.flow(one), record.flow(two)
    if flows == (None, None):
        _sum_of_leaf(record, given, result)
        return None
    flow, other = (flows[0], two) if flows[0] is not None else (flows[1], one)
    if flow is None:
        raise AssertionError(given.name)
    shifted = _shifted(record, given, flow, other)
    if shifted is not None:
        return shifted
    second = record.source(other)
    is_fit = second is not None and flow.is_plain and second.is_plain
    if second is not None and is_fit and _is_alike(flow, second, result):
        flow.space.join(second.space)
        return flow
    is_kept = second is None or other.shape[-1] == 1
    if flow.is_plain and is_kept and is_one_for_all(other, flow.axis):
        flow.space.root.keeps_ones = True
        return flow
    record.stop(given)
    return None


def _is_alike(one: Flow, two: Flow, result: Tensor) -> bool:
    size = one.space.size
    is_same = one.axis == two.axis and size == two.space.size
    return is_same and result.shape[one.axis] == size


def _shifted(record: Record, given: Given, flow: Flow, other: Any) -> Flow | None:
    """The last line of a norm that a model wrote itself: a bias."""
    leaf = record.leaf(other)
    is_norm = flow.fold is not None and flow.fold.bias is None and flow.axis == -1
    is_sum = not given.name.strip("_").startswith(("sub", "rsub", "isub"))
    if leaf is None or flow.fold is None or not (is_norm and is_sum):
        return None
    if leaf.value.shape != (flow.space.size,) or given.named.get("alpha", 1) != 1:
        return None
    record.use_fold(leaf, flow)
    return replace(flow, fold=replace(flow.fold, bias=leaf))


def _sum_of_leaf(record: Record, given: Given, result: Tensor) -> None:
    """A parameter and a number, as some norms have it; anything else is of no matter."""
    for place in (0, 1):
        leaf, plus = record.origin(given.args[place] if place < len(given.args) else None)
        number = given.args[1 - place] if 1 - place < len(given.args) else None
        is_sum = given.name in ("add", "__add__", "__radd__")
        if leaf is not None and isinstance(number, (int, float)) and is_sum:
            record.derive(result, leaf, plus + float(number))
            return
    record.stop(given)


def multiplied(record: Record, given: Given, result: Tensor) -> Flow | None:
    """A product or a quotient of two."""
    one, two = given.get(0, "input"), given.get(1, "other")
    flows = record.flow(one), record.flow(two)
    if flows == (None, None):
        record.stop(given)
        return None
    if one is two and flows[0] is not None and given.name in MULTIPLIED:
        return squared(record, given)
    flow, other = (flows[0], two) if flows[0] is not None else (flows[1], one)
    is_turned = given.name in DIVIDED and (flows[0] is None or "rounding_mode" in given.named)
    if flow is None or None not in flows or is_turned:
        record.stop(given)
        return None
    fold = _fold(record, given, flow, other)
    if fold is not None:
        return replace(flow, fold=fold)
    has_bias = flow.fold is not None and flow.fold.bias is not None
    is_same = is_one_for_all(other, flow.axis) and result.shape[flow.axis] == flow.space.size
    if not is_same or has_bias:
        record.stop(given)
        return None
    record.stop(given, but=one if flows[0] is not None else two)
    return flow


def _fold(record: Record, given: Given, flow: Flow, other: Any) -> Fold | None:
    """The weight of a norm that a model wrote itself."""
    leaf, plus = record.origin(other)
    is_whole = leaf is not None and leaf.value.shape == (flow.space.size,)
    if leaf is None or not is_whole or given.name not in MULTIPLIED:
        return None
    if not flow.is_plain or flow.axis != -1 or flow.space.size == 1:
        return None
    record.use_fold(leaf, flow)
    return Fold(weight=leaf, plus=plus)


def squared(record: Record, given: Given) -> Flow | None:
    """Each channel times itself, as the root of the mean square begins."""
    flow = record.flow(given.get(0, "input", given.named.get("self")))
    is_second = given.name in MULTIPLIED or given.name == "square"
    power = 2 if is_second else given.get(1, "exponent")
    if flow is None or not flow.is_plain or not (isinstance(power, (int, float)) and power == 2):
        record.stop(given)
        return None
    return replace(flow, kind="squares")


def reduced(record: Record, func: Callable[..., Any], given: Given, result: Tensor) -> Flow | None:
    """A mean or a sum: over the channels, or over other axes."""
    value = given.get(0, "input")
    flow, dims = record.flow(value), dims_of(given, 1)
    if flow is None or dims is None:
        record.stop(given)
        return None
    places = {item % value.ndim - value.ndim for item in dims}
    has_bias = flow.fold is not None and flow.fold.bias is not None
    if places == {flow.axis} and flow.fold is None:
        if flow.kind == "squares":
            flow.space.root.is_stream = True
        else:
            flow.space.root.keeps_ones = True
        return None
    is_linear = flow.kind == "values" and (given.name == "mean" or not has_bias)
    if flow.axis not in places and is_linear:
        labels = labels_after(func, given, result, labels_along(value, flow.axis))
        axis = None if labels is None else channel_axis(labels, flow.space.size)
        if axis is not None:
            return replace(flow, axis=axis - result.ndim)
    record.stop(given)
    return None


def spread(record: Record, given: Given) -> Flow | None:
    """Standard deviation or length of the vectors, or vectors divided by their length."""
    value = given.get(0, "input", given.named.get("self"))
    flow = record.flow(value)
    is_spread = given.name in SPREADS
    default = 1 if given.name == "normalize" else None
    dims = dims_of(given, 1 if is_spread else 2, default=default)
    power = 2 if is_spread else given.get(1, "ord" if "vector" in given.name else "p", 2)
    if flow is None or dims is None or power not in (2, "fro", None) or not flow.is_plain:
        record.stop(given)
        return None
    if {item % value.ndim - value.ndim for item in dims} != {flow.axis}:
        record.stop(given)
        return None
    flow.space.root.is_stream = True
    flow.space.root.keeps_ones |= is_spread
    return flow if given.name == "normalize" else None


def normed(record: Record, given: Given) -> Flow | None:
    """Torch's own RMSNorm and LayerNorm."""
    flow, shape = record.flow(given.get(0, "input")), given.get(1, "normalized_shape")
    weight = given.get(2, "weight")
    bias = given.get(3, "bias") if given.name == "layer_norm" else None
    leaves = record.leaf(weight), record.leaf(bias)
    is_known = (weight is None or leaves[0]) and (bias is None or leaves[1])
    is_last = flow is not None and flow.axis == -1 and tuple(shape) == (flow.space.size,)
    if flow is None or not flow.is_plain or not is_known or not is_last:
        record.stop(given)
        return None
    flow.space.root.is_stream = True
    flow.space.root.keeps_ones |= given.name == "layer_norm"
    for leaf in leaves:
        if leaf is not None:
            record.use_fold(leaf, flow)
    if leaves == (None, None):
        return flow
    return replace(flow, fold=Fold(weight=leaves[0], bias=leaves[1]))
