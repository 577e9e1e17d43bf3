"""Two rewrites around shortcuts that ONNX Runtime does not do by itself."""

from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper

from edgekit.compile.onnx_model import (
    array_of,
    attribute,
    hidden_reads,
    initializers,
    replace_nodes,
)


def merge_slices(model: onnx.ModelProto) -> None:
    """Make one ``Slice`` of two in a row over different axes: exporters write one an axis."""
    while _merge_one_pair(model):
        pass


def _merge_one_pair(model: onnx.ModelProto) -> bool:
    constants, readers = initializers(model), _reader_counts(model)
    makers = {node.output[0]: node for node in model.graph.node if node.op_type == "Slice"}
    for node in makers.values():
        first = makers.get(node.input[0])
        if first is None or readers[first.output[0]] > 1:
            continue
        parts = [_slice_ranges(item, constants) for item in (first, node)]
        if not all(parts) or set(parts[0][2]) & set(parts[1][2]):
            continue
        ranges = [
            numpy_helper.from_array(np.int64(one + two)) for one, two in zip(*parts, strict=True)
        ]
        names = []
        for role, tensor in zip(("starts", "ends", "axes", "steps"), ranges, strict=True):
            tensor.name = f"{node.output[0]}.{role}"
            names.append(tensor.name)
        model.graph.initializer.extend(ranges)
        node.input[:] = [first.input[0], *names]
        replace_nodes(model, [item for item in model.graph.node if item is not first])
        return True
    return False


def _slice_ranges(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> tuple[list[int], ...]:
    names = list(node.input)[1:]
    if len(names) < 3 or any(name not in constants for name in names):
        return ()
    parts = [array_of(constants[name]).tolist() for name in names]
    if len(parts) == 3:
        parts.append([1] * len(parts[0]))
    # A negative axis counts from the end; without the rank it cannot be compared.
    return tuple(parts) if min(parts[2]) >= 0 else ()


def keep_pads_in_integers(model: onnx.ModelProto) -> None:
    """Pad integers with their zero point where QDQ goes to float and back around a ``Pad``."""
    constants, readers = initializers(model), _reader_counts(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    gone: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or len(node.input) < 3:
            continue
        pad = makers.get(node.input[0])
        widen = makers.get(pad.input[0]) if pad is not None else None
        if pad is None or widen is None:
            continue
        if not _pads_zeros(pad, constants) or not _same_grid(widen, node, constants):
            continue
        if readers[pad.output[0]] > 1 or readers[widen.output[0]] > 1:
            continue
        pad.input[:] = [widen.input[0], pad.input[1], node.input[2], *pad.input[3:4]]
        gone.update((widen.output[0], pad.output[0]))
        pad.output[0], node.output[0] = node.output[0], pad.output[0]
    replace_nodes(model, [item for item in model.graph.node if item.output[0] not in gone])


def _pads_zeros(pad: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    if pad.op_type != "Pad" or attribute(pad, "mode", b"constant") != b"constant":
        return False
    if len(pad.input) < 3 or not pad.input[2]:
        return True
    value = constants.get(pad.input[2])
    return value is not None and not array_of(value).any()


def _same_grid(
    widen: onnx.NodeProto,
    narrow: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
) -> bool:
    if widen.op_type != "DequantizeLinear" or len(widen.input) < 3:
        return False
    for one, two in zip(widen.input[1:3], narrow.input[1:3], strict=True):
        if one not in constants or two not in constants:
            return False
        left, right = array_of(constants[one]), array_of(constants[two])
        if left.size != 1 or left.dtype != right.dtype or not np.array_equal(left, right):
            return False
    return True


def _reader_counts(model: onnx.ModelProto) -> Counter[str]:
    counts = Counter(name for node in model.graph.node for name in node.input)
    # One more reader that is no node of ours: such a tensor must stay.
    counts.update(dict.fromkeys(hidden_reads(model), 2))
    return counts
