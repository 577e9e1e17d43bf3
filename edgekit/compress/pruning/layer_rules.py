"""What layers do to channels: sums over channels, normalization, attention, pooling."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgekit.compress.pruning.coupling import Labels, fixed, shared_axis
from edgekit.compress.pruning.operands import Operands
from edgekit.compress.pruning.view_rules import rules

if TYPE_CHECKING:
    from edgekit.compress.pruning.channel_trace import ChannelTrace

aten = torch.ops.aten

Rule = Callable[["ChannelTrace", Operands], None]


def _product(trace: "ChannelTrace", left: Tensor, right: Tensor, output: Tensor) -> None:
    """A matrix product: (..., n, k) and (..., k, m)."""
    one, other = trace.labels(left), trace.labels(right)
    trace.coupling.couple(one[-1], other[-2])
    trace.consume(right, right.ndim - 2)
    trace.consume(left, left.ndim - 1)
    batch = one[:-2]
    for a, b in zip(batch, other[:-2], strict=True):
        trace.coupling.couple(a, b)
        trace.graph.heads.append(a)
    trace.put(output, [*batch, one[-2], other[-1]])
    trace.work(1, *batch, one[-2], one[-1], other[-1])


def _mm(trace: "ChannelTrace", given: Operands) -> None:
    _product(trace, given[0], given[1], given.outputs[0])


def _addmm(trace: "ChannelTrace", given: Operands) -> None:
    """A matrix product with something added, of the same shape after broadcasting."""
    output = given.outputs[0]
    _product(trace, given[1], given[2], output)
    _added(trace, given[0], trace.labels(output))


def _mv(trace: "ChannelTrace", given: Operands) -> None:
    matrix, vector = trace.labels(given[0]), trace.labels(given[1])
    trace.coupling.couple(matrix[1], vector[0])
    trace.put(given.outputs[0], [matrix[0]])


def _convolution(trace: "ChannelTrace", given: Operands) -> None:
    value, weight, bias, output = given[0], given[1], given[2], given.outputs[0]
    groups, is_transposed = given.named("groups"), given.named("transposed")
    x, w = trace.labels(value), trace.labels(weight)
    if groups == 1:
        inner, outer = (0, 1) if is_transposed else (1, 0)
        trace.coupling.couple(x[1], w[inner])
        trace.consume(weight, inner)
        channels = w[outer]
    else:
        channels = _grouped(trace, x[1], weight, groups, is_transposed=is_transposed)
    if bias is not None:
        trace.coupling.couple(trace.labels(bias)[0], channels)
    trace.put(output, [x[0], channels, *(fixed(size) for size in output.shape[2:])])
    spatial = value.shape[2:] if is_transposed else output.shape[2:]
    constant = value.shape[0] * int(np.prod(spatial)) * int(np.prod(weight.shape[2:]))
    trace.work(constant, w[0], w[1])


def _grouped(
    trace: "ChannelTrace", x: Labels, weight: Tensor, groups: int, *, is_transposed: bool
) -> Labels:
    """A grouped convolution: the same channels of every group go, or whole groups go.

    Which of the two: where a group has one channel (depthwise) only whole groups can go; else
    what leaves more to choose from.
    Shapes: weight (out, in / groups, ...), transposed (in, out / groups, ...).
    """
    w = trace.labels(weight)
    share = w[1].size
    per_group_in, per_group_out = (
        x.size // groups,
        (share if is_transposed else w[0].size // groups),
    )
    smallest = min(per_group_in, per_group_out)
    is_whole = 0 if smallest > 1 and smallest >= groups else 1
    if smallest > 1:
        is_whole = trace.choose((groups, per_group_in, per_group_out), is_whole, x)
    table = w[0].reshape(groups, -1)
    coupling = trace.coupling
    if is_whole:
        coupling.fix(w[1])
        coupling.couple(np.repeat(table[:, :1], table.shape[1], axis=1), table)
        coupling.couple(np.repeat(table[:, :1], per_group_in, axis=1), x.reshape(groups, -1))
        origin = trace.origin(weight)
        if origin is not None:
            trace.graph.whole_groups.add(origin[0])
        return np.repeat(table[:, 0], per_group_out)
    rows = x.reshape(groups, -1)
    if is_transposed:
        coupling.couple(rows, table)
        coupling.couple(np.repeat(rows[:1], groups, axis=0), rows)
        trace.consume(weight, 0)
        return np.tile(w[1], groups)
    coupling.couple(np.repeat(w[1][None], groups, axis=0), rows)
    coupling.couple(np.repeat(table[:1], groups, axis=0), table)
    trace.consume(weight, 1)
    return w[0]


def _batch_norm(trace: "ChannelTrace", given: Operands) -> None:
    labels = trace.labels(given.first)
    for value in given.tensors[1:]:
        if value.ndim == 1 and value.shape[0] == len(labels[1]):
            trace.coupling.couple(trace.labels(value)[0], labels[1])
    trace.put(given.outputs[0], labels)


def _layer_norm(trace: "ChannelTrace", given: Operands) -> None:
    labels = trace.labels(given.first)
    count = len(given.named("normalized_shape"))
    for value in given.tensors[1:]:
        for one, other in zip(trace.labels(value), labels[-count:], strict=True):
            trace.coupling.couple(one, other)
    trace.graph.normalized += labels[-count:]
    _tell_width(trace, tuple(labels[-count:]))
    trace.put(given.outputs[0], labels)
    for statistic in given.outputs[1:]:
        kept = [*labels[:-count], *(fixed(1) for _ in range(count))]
        trace.put(statistic, kept)


def _tell_width(trace: "ChannelTrace", widths: tuple[Labels, ...]) -> None:
    """A norm knows its width by a plain number: a layer of torch can be told another."""
    if trace.is_norm:
        trace.graph.norm_widths[trace.path] = widths
    else:
        trace.tell_sized(widths, widths)


def _group_norm(trace: "ChannelTrace", given: Operands) -> None:
    """Whole groups go: those that stay keep their statistics. One group is a layer norm."""
    labels, groups = trace.labels(given.first), given.named("group")
    for name in ("weight", "bias"):
        value = given.named(name)
        if value is not None:
            trace.coupling.couple(trace.labels(value)[0], labels[1])
    if groups == 1:
        trace.graph.normalized.append(labels[1])
    else:
        table = labels[1].reshape(groups, -1)
        trace.coupling.couple(np.repeat(table[:, :1], table.shape[1], axis=1), table)
    _tell_width(trace, (labels[1], labels[1].reshape(groups, -1)[:, 0].copy()))
    trace.put(given.outputs[0], labels)


def _embedding(trace: "ChannelTrace", given: Operands) -> None:
    table, rows = trace.labels(given[0]), trace.labels(given[1])
    trace.coupling.fix(table[0])
    trace.graph.embedded.append(table[1])
    trace.put(given.outputs[0], [*rows, table[1]])


def _attention(trace: "ChannelTrace", given: Operands) -> None:
    """Scaled dot-product attention: (batch, heads, tokens, width of a head)."""
    query, key, value = (trace.labels(given[index]) for index in range(3))
    coupling = trace.coupling
    coupling.couple(query[0], key[0])
    coupling.couple(query[-1], key[-1])
    for one, other in zip(key[:-1], value[:-1], strict=True):
        coupling.couple(one, other)
    for axis in range(1, len(query) - 2):
        _shared_heads(trace, query[axis], key[axis])
        trace.graph.heads.append(query[axis])
    coupling.fix(key[-2])  # the softmax runs over the keys
    mask = given.named("attn_mask")
    if mask is not None:
        _added(trace, mask, [*query[:-1], key[-2]])
    trace.put(given.outputs[0], [*query[:-1], value[-1]])
    rows = query[:-1]
    trace.work(1, *rows, key[-2], query[-1])
    trace.work(1, *rows, key[-2], value[-1])


def _added(trace: "ChannelTrace", value: Tensor, labels: list[Labels]) -> None:
    """Something that is added to a tensor, after broadcasting."""
    for one, other in zip(reversed(trace.labels(value)), reversed(labels), strict=False):
        if len(one) == len(other):
            trace.coupling.couple(one, other)


def _shared_heads(trace: "ChannelTrace", query: Labels, key: Labels) -> None:
    """Grouped queries: they go with the key that they share, or one of each key goes."""
    if len(key) == len(query):
        trace.coupling.couple(query, key)
    elif len(key) > 1:
        table = query.reshape(len(key), -1)
        if trace.choose(table.shape, shared_axis(table.shape), query):
            trace.coupling.fix(key)
            trace.coupling.couple(np.repeat(table[:1], len(key), axis=0), table)
        else:
            trace.coupling.couple(table, np.repeat(key[:, None], table.shape[1], axis=1))


def _spatial(axes: int) -> Rule:
    """Pooling and resampling over the last axes."""

    def rule(trace: "ChannelTrace", given: Operands) -> None:
        labels = trace.labels(given.first)
        for item in labels[-axes:]:
            trace.coupling.fix(item)
        for output in given.outputs:
            front = labels[: output.ndim - axes]
            trace.put(output, [*front, *(fixed(size) for size in output.shape[-axes:])])

    return rule


def _pixel_shuffle(trace: "ChannelTrace", given: Operands) -> None:
    labels, output = trace.labels(given.first), given.outputs[0]
    table = labels[-3].reshape(output.shape[-3], -1)
    trace.coupling.couple(np.repeat(table[:, :1], table.shape[1], axis=1), table)
    trace.put(output, [*labels[:-3], table[:, 0].copy(), *map(fixed, output.shape[-2:])])


def _pixel_unshuffle(trace: "ChannelTrace", given: Operands) -> None:
    labels, output = trace.labels(given.first), given.outputs[0]
    each = output.shape[-3] // len(labels[-3])
    trace.put(output, [*labels[:-3], np.repeat(labels[-3], each), *map(fixed, output.shape[-2:])])


def _channel_shuffle(trace: "ChannelTrace", given: Operands) -> None:
    labels, groups = trace.labels(given.first), given[1]
    table = labels[1].reshape(groups, -1)
    trace.coupling.couple(np.repeat(table[:1], groups, axis=0), table)
    labels[1] = table.T.ravel().copy()
    trace.put(given.outputs[0], labels)


def _by_axes(name: str) -> dict[Any, Rule]:
    """Operators that come for one, two and three axes."""
    found: dict[Any, Rule] = {}
    for axes in (1, 2, 3):
        found |= rules(_spatial(axes), name.replace("#", str(axes)))
    return found


LAYER_RULES: dict[Any, Rule] = {
    **rules(_mm, "mm", "bmm"),
    **rules(_addmm, "addmm", "baddbmm"),
    **rules(_mv, "mv"),
    **rules(_convolution, "convolution"),
    **rules(
        _batch_norm, "native_batch_norm", "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "_batch_norm_no_update",
    ),
    **rules(_layer_norm, "native_layer_norm", "_fused_rms_norm", "rms_norm"),
    **rules(_group_norm, "native_group_norm"),
    **rules(_embedding, "embedding"),
    **rules(
        _attention, "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math",
        "_scaled_dot_product_fused_attention_overrideable", "scaled_dot_product_attention",
    ),
    **rules(_pixel_shuffle, "pixel_shuffle"),
    **rules(_pixel_unshuffle, "pixel_unshuffle"),
    **rules(_channel_shuffle, "channel_shuffle", "native_channel_shuffle"),
    **_by_axes("max_pool#d"),
    **_by_axes("max_pool#d_with_indices"),
    **_by_axes("avg_pool#d"),
    **_by_axes("_adaptive_avg_pool#d"),
    **_by_axes("adaptive_avg_pool#d"),
    **_by_axes("adaptive_max_pool#d"),
    **_by_axes("upsample_nearest#d"),
    **_by_axes("_upsample_nearest_exact#d"),
    **_by_axes("reflection_pad#d"),
    **_by_axes("replication_pad#d"),
    **rules(_spatial(1), "upsample_linear1d"),
    **rules(_spatial(2), "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa"),
    **rules(_spatial(3), "upsample_trilinear3d"),
}  # fmt: skip
