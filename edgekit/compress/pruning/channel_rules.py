"""What each operator does to channels: one rule an operator, of torch's own (ATen) operators."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgekit.compress.pruning.channel_graph import Blocked
from edgekit.compress.pruning.coupling import Labels, fixed
from edgekit.compress.pruning.layer_rules import LAYER_RULES
from edgekit.compress.pruning.operands import Operands, as_dims, axis_of
from edgekit.compress.pruning.view_rules import VIEW_RULES, rules, same_shape

if TYPE_CHECKING:
    from edgekit.compress.pruning.channel_trace import ChannelTrace

aten = torch.ops.aten

Rule = Callable[["ChannelTrace", Operands], None]


def apply_rule(
    trace: "ChannelTrace", func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> None:
    """Give the results of an operator their labels; fix the channels where no rule knows it."""
    given = Operands(func, args, kwargs, result)
    if not given.outputs or not given.tensors:
        return
    rule = RULES.get(func.overloadpacket)
    if rule is not None:
        rule(trace, given)
    elif torch.Tag.pointwise in func.tags:
        pointwise(trace, given)
    else:
        _fix(trace, given)


def _fix(trace: "ChannelTrace", given: Operands) -> None:
    """Nothing is known of this operator: what goes in stays as it is."""
    is_blocked = False
    for value in given.tensors:
        for labels in trace.labels(value):
            is_blocked |= trace.is_weight(labels)
            trace.coupling.fix(labels)
    if is_blocked:
        trace.graph.blocked.append(Blocked(operator=trace.operator, path=trace.path))


def pointwise(trace: "ChannelTrace", given: Operands) -> None:
    """Element by element, with broadcasting: what meets is one channel."""
    for output in given.outputs:
        found = [trace.labels(value) for value in given.tensors]
        trace.put(output, [_met(trace, found, output, axis) for axis in range(output.ndim)])


def _met(trace: "ChannelTrace", found: list[list[Labels]], output: Tensor, axis: int) -> Labels:
    size, from_end = output.shape[axis], output.ndim - axis
    meeting = [
        labels[-from_end]
        for labels in found
        if len(labels) >= from_end and len(labels[-from_end]) == size
    ]
    if size == 1 or not meeting:
        return fixed(size)
    for other in meeting[1:]:
        trace.coupling.couple(meeting[0], other)
    return meeting[0]


def _reduced(trace: "ChannelTrace", given: Operands) -> None:
    labels, ndim = trace.labels(given.first), given.first.ndim
    asked = as_dims(given.named("dim"), ndim) or list(range(ndim))
    for axis in asked:
        trace.graph.normalized.append(labels[axis])
    output = given.outputs[0]
    for value in given.outputs:
        if output.ndim == ndim:
            kept = [fixed(1) if axis in asked else item for axis, item in enumerate(labels)]
        else:
            kept = [item for axis, item in enumerate(labels) if axis not in asked]
        trace.put(value, kept)


def _picked(trace: "ChannelTrace", given: Operands) -> None:
    """The largest and such, with its number: along an axis, the numbers must stay what they are."""
    if given.named("dim") is None and not trace.operator.startswith("arg"):
        _reduced(trace, given)
        return
    labels, ndim = trace.labels(given.first), given.first.ndim
    asked = as_dims(given.named("dim"), ndim) or list(range(ndim))
    for axis in asked:
        trace.coupling.fix(labels[axis])
    for output in given.outputs:
        if output.ndim == ndim:
            trace.put(output, [fixed(1) if axis in asked else labels[axis] for axis in range(ndim)])
        else:
            trace.put(output, [labels[axis] for axis in range(ndim) if axis not in asked])


def _ranked(trace: "ChannelTrace", given: Operands) -> None:
    """Softmax, running sums, sorting: along their axis each value depends on all others."""
    labels = trace.labels(given.first)
    axis = axis_of(given.named("dim"), len(labels))
    trace.coupling.fix(labels[axis])
    for output in given.outputs:
        if list(output.shape) == [len(item) for item in labels]:
            trace.put(output, labels)


def _quiet(trace: "ChannelTrace", given: Operands) -> None:
    """The result has nothing to do with channels."""


RULES: dict[Any, Rule] = {
    **rules(
        same_shape, "clone", "detach", "alias", "lift_fresh", "lift_fresh_copy", "_to_copy",
        "contiguous", "ones_like", "zeros_like", "empty_like", "full_like", "rand_like",
        "randn_like", "fill_",
        "zero_", "native_dropout", "dropout", "positive", "view_as",
    ),
    # torch tags the others of this kind, but not these.
    **rules(
        pointwise, "copy_", "masked_fill", "masked_fill_", "where", "_prelu_kernel", "copy",
        "hardswish", "hardswish_", "log_sigmoid_forward", "rrelu_with_noise",
    ),
    **rules(
        _reduced, "mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean",
        "linalg_vector_norm", "norm", "prod",
    ),
    **rules(
        _ranked, "_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax", "cumsum",
        "cumprod", "sort", "topk",
    ),
    **rules(_picked, "max", "min", "argmax", "argmin", "median"),
    **rules(
        _quiet, "all", "any", "_local_scalar_dense", "equal", "is_same_size", "sym_size",
        "is_nonzero",
    ),
    **VIEW_RULES,
    **LAYER_RULES,
}  # fmt: skip
