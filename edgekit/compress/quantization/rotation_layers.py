"""Layers that read channels which may be rotated, and layers that write them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from edgekit.compress.quantization.rescale_rules import Given
from edgekit.compress.quantization.rotation_flow import Flow, Leaf, Matrix, Side, Use
from edgekit.compress.quantization.rotation_names import CONVOLUTIONS
from edgekit.compress.quantization.rotation_record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionParts:
    """The parameters of torch's multi-head attention. into: queries, keys and values on rows."""

    into: Leaf
    shift: Leaf | None
    out: Leaf
    out_shift: Leaf | None
    heads: int


def attention_parts(given: Given, leaf_of: Callable[[Any], Leaf | None]) -> AttentionParts | None:
    """The parameters of a call; None where keys or values come by layers of their own."""
    places = {5: "in_proj_weight", 6: "in_proj_bias", 11: "out_proj_weight", 12: "out_proj_bias"}
    values = [given.get(place, name) for place, name in places.items()]
    into, shift, out, out_shift = (leaf_of(value) for value in values)
    is_known = (values[1] is None or shift) and (values[3] is None or out_shift)
    has_more = given.get(7, "bias_k") is not None or given.get(9, "add_zero_attn", default=False)
    if into is None or out is None or not is_known or has_more:
        return None
    heads = int(given.get(4, "num_heads"))
    return AttentionParts(into=into, shift=shift, out=out, out_shift=out_shift, heads=heads)


def weighed(record: Record, given: Given) -> Flow | None:
    """The flow of a function that multiplies with a weight; of any other, none."""
    if given.name == "linear":
        weight, bias = given.get(1, "weight"), given.get(2, "bias")
        return _matrix(record, given, given.get(0, "input"), weight, bias)
    if given.name == "addmm" and {given.named.get("beta", 1), given.named.get("alpha", 1)} == {1}:
        value, weight = given.get(1, "mat1"), given.get(2, "mat2")
        return _matrix(record, given, value, weight, given.get(0, "input"), is_turned=True)
    if given.name in ("matmul", "__matmul__"):
        weight = given.get(1, "other")
        leaf = record.leaf(weight)
        if leaf is not None and leaf.value.ndim == 2:
            value = given.get(0, "input")
            return _matrix(record, given, value, weight, None, is_turned=True)
    if given.name in CONVOLUTIONS:
        return _convolution(record, given)
    if given.name == "embedding":
        return _embedding(record, given)
    record.stop(given)
    return None


def _matrix(
    record: Record, given: Given, value: Any, weight: Any, bias: Any, *, is_turned: bool = False
) -> Flow | None:
    """A linear layer. is_turned: its weight has a row for each input."""
    leaf, shift = record.leaf(weight), record.leaf(bias)
    if leaf is None or (bias is not None and shift is None) or leaf.value.ndim != 2:
        record.stop(given)
        return _unknown(record, given, result_axis=-1)
    in_axis = 0 if is_turned else 1
    flow = record.flow(value)
    inputs = None
    if flow is not None and flow.kind == "values" and flow.axis == -1:
        inputs = Side(axis=in_axis, space=flow.space, fold=flow.fold)
    elif flow is not None:
        record.block(flow, given.name)
    return _written(record, leaf, shift, inputs, out_axis=1 - in_axis, result_axis=-1)


def _written(
    record: Record,
    weight: Leaf,
    bias: Leaf | None,
    inputs: Side | None,
    *,
    out_axis: int,
    result_axis: int,
) -> Flow:
    """The flow of what a layer gives."""
    outputs = Side(axis=out_axis, space=record.space(weight.name, weight.value.shape[out_axis]))
    sides = (outputs,) if inputs is None else (inputs, outputs)
    record.use(Use(leaf=weight, sides=sides))
    if bias is not None:
        side = replace(outputs, axis=bias.value.ndim - 1)
        record.use(Use(leaf=bias, sides=(side,), beside=weight.name))
    record.matrices.append(Matrix(weight=weight, bias=bias, inputs=inputs, outputs=outputs))
    return Flow(space=outputs.space, axis=result_axis)


def _unknown(record: Record, given: Given, *, result_axis: int) -> Flow | None:
    """Of a layer whose weight is no parameter: a space that cannot be rotated."""
    weight = given.get(1, "weight")
    if not isinstance(weight, Tensor):
        return None
    space = record.space("a computed weight", weight.shape[0])
    space.block(f"{given.name} has a weight that is computed at each call")
    return Flow(space=space, axis=result_axis)


def _convolution(record: Record, given: Given) -> Flow | None:
    """A convolution may write into a space, as patches of a picture do."""
    value, weight, bias = (given.get(i, n) for i, n in enumerate(("input", "weight", "bias")))
    if (flow := record.flow(value)) is not None:
        record.block(flow, given.name)
    leaf, shift = record.leaf(weight), record.leaf(bias)
    is_known = leaf is not None and (bias is None or shift is not None)
    rank = weight.ndim - 1
    if leaf is None or not is_known or int(given.get(6, "groups", 1)) != 1:
        for item in (leaf, shift):
            if item is not None:
                record.use(Use(leaf=item))
        return None
    return _written(record, leaf, shift, None, out_axis=0, result_axis=-rank)


def _embedding(record: Record, given: Given) -> Flow | None:
    weight = given.get(1, "weight")
    leaf = record.leaf(weight)
    if leaf is None or given.get(3, "max_norm") is not None:
        record.stop(given)
        return None
    space = record.space(leaf.name, weight.shape[1])
    record.use(Use(leaf=leaf, sides=(Side(axis=1, space=space),)))
    return Flow(space=space, axis=-1)


def attention(record: Record, given: Given) -> list[Flow | None] | None:
    """Torch's multi-head attention, in one call: a layer that reads and one that writes."""
    parts = attention_parts(given, record.leaf)
    named = ("query", "key", "value")
    flows = [record.flow(given.get(place, name)) for place, name in enumerate(named)]
    first = flows[0]
    is_one = first is not None and all(
        flow is not None
        and flow.space.root is first.space.root
        and (flow.kind, flow.axis, flow.fold) == ("values", -1, first.fold)
        for flow in flows
    )
    if parts is None or not (is_one or flows == [None] * 3):
        record.stop(given)
        return None
    inputs = None if first is None else Side(axis=1, space=first.space, fold=first.fold)
    inner = _written(record, parts.into, parts.shift, inputs, out_axis=0, result_axis=-1)
    inner.space.block("attention reads it")
    return [_written(record, parts.out, parts.out_shift, None, out_axis=0, result_axis=-1)]
