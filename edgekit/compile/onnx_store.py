"""Weights kept small in the file and widened again by constant nodes in front of their readers.

ONNX Runtime folds ``Cast`` and ``Mul`` of constants when it loads a model, so the widened weight
costs nothing at run time. (It does not fold ``DequantizeLinear``: that would run every time.)
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_grid import (
    INT4_MAX,
    INT4_MIN,
    INT8_MAX,
    along,
    int4_scales,
    int4_tensor,
    int8_scales,
    round_to_grid,
)
from edgekit.compile.onnx_layers import Layer
from edgekit.compile.onnx_model import (
    array_of,
    attribute,
    hidden_reads,
    initializers,
    replace_initializers,
    replace_nodes,
)

# A Cast node costs about as many bytes as it saves on this many float16 numbers.
_MIN_HALF_ELEMENTS = 32
_QUANTIZED, _SCALE = "_quantized", "_scale"


def store_as_float16(model: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    """Keep these float constants as float16, with a ``Cast`` to float32 in front of each reader.

    Constants too small to gain and those with values past float16's range stay as they are;
    returns the latter's names.
    """
    tensors, casts, refused = [], [], []
    limit = float(np.finfo(np.float16).max)
    for tensor in model.graph.initializer:
        is_chosen = tensor.name in names and tensor.data_type == TensorProto.FLOAT
        values = array_of(tensor)
        if not is_chosen or values.size < _MIN_HALF_ELEMENTS:
            tensors.append(tensor)
        elif np.abs(values).max() > limit:
            refused.append(tensor.name)
            tensors.append(tensor)
        else:
            half = f"{tensor.name}_half"
            tensors.append(numpy_helper.from_array(values.astype(np.float16), half))
            casts.append(_cast(half, tensor.name, TensorProto.FLOAT))
    replace_initializers(model, tensors)
    replace_nodes(model, [*casts, *model.graph.node])
    return refused


def store_as_integers(
    model: onnx.ModelProto, layers: Sequence[Layer], precisions: Mapping[str, str]
) -> None:
    """Keep these layers' weights as INT8 or INT4 with a scale a channel; compute in float.

    Where every reader is a ``Gather`` along INT8 rows, only the rows that it picks are widened.
    """
    chosen = {layer.weight: layer for layer in layers}
    rows = {
        name
        for name, layer in chosen.items()
        if precisions[name] == "int8" and _is_only_gathered(model, layer)
    }
    tensors: list[onnx.TensorProto] = []
    widening: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        layer = chosen.get(tensor.name)
        if layer is None:
            tensors.append(tensor)
            continue
        tensors.extend(_integers_of(tensor, layer.axis, precisions[tensor.name]))
        if tensor.name not in rows:
            widening.extend(_widen(tensor.name))
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        is_rows = node.op_type == "Gather" and node.input[0] in rows
        nodes.extend(_gather_rows(node) if is_rows else [node])
    replace_initializers(model, tensors)
    replace_nodes(model, [*widening, *nodes])


def _integers_of(tensor: onnx.TensorProto, axis: int, precision: str) -> list[onnx.TensorProto]:
    weight, stored = array_of(tensor), tensor.name + _QUANTIZED
    if precision == "int4":
        scales = int4_scales(weight, axis)
        values = round_to_grid(weight, scales, axis, INT4_MIN, INT4_MAX)
        packed = int4_tensor(stored, values)
    else:
        scales = int8_scales(weight, axis)
        values = round_to_grid(weight, scales, axis, -INT8_MAX, INT8_MAX)
        packed = numpy_helper.from_array(values, stored)
    shaped = along(scales, axis, weight.ndim)
    return [packed, numpy_helper.from_array(shaped, tensor.name + _SCALE)]


def _widen(name: str) -> list[onnx.NodeProto]:
    stored, wide = name + _QUANTIZED, f"{name}_wide"
    return [
        _cast(stored, wide, TensorProto.FLOAT),
        helper.make_node("Mul", [wide, name + _SCALE], [name], name=f"{name}.widen"),
    ]


def _gather_rows(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    weight, ids, result = node.input[0], node.input[1], node.output[0]
    stored, scale = weight + _QUANTIZED, weight + _SCALE
    rows, wide, steps = f"{result}_rows", f"{result}_wide", f"{result}_steps"
    return [
        helper.make_node("Gather", [stored, ids], [rows], name=node.name, axis=0),
        helper.make_node("Gather", [scale, ids], [steps], name=f"{node.name}_scale", axis=0),
        _cast(rows, wide, TensorProto.FLOAT),
        helper.make_node("Mul", [wide, steps], [result], name=f"{node.name}_widen"),
    ]


def _is_only_gathered(model: onnx.ModelProto, layer: Layer) -> bool:
    if layer.kind != "embedding" or layer.weight in hidden_reads(model):
        return False
    readers = [node for node in model.graph.node if layer.weight in node.input]
    return all(node.op_type == "Gather" and attribute(node, "axis", 0) == 0 for node in readers)


def narrow_to_int4(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Keep these INT8 or INT4 constants as INT4, with a ``Cast`` to INT8 in front of each reader.

    ONNX Runtime's integer kernels take 8-bit weights only: with INT4 straight into
    ``DequantizeLinear`` it computes in float and widens the weights at every run (0.38 of float's
    speed on ResNet-20); this way the kernels are those of INT8 (2.0 times float's speed).
    """
    tensors, casts = [], []
    for tensor in model.graph.initializer:
        if tensor.name not in names:
            tensors.append(tensor)
            continue
        stored = f"{tensor.name}_int4"
        tensors.append(int4_tensor(stored, array_of(tensor).astype(np.int8)))
        casts.append(_cast(stored, tensor.name, TensorProto.INT8))
    replace_initializers(model, tensors)
    _widen_zero_points(model, names)
    replace_nodes(model, [*casts, *model.graph.node])


def _widen_zero_points(model: onnx.ModelProto, names: Sequence[str]) -> None:
    constants = initializers(model)
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in names and len(node.input) > 2:
            tensor = constants[node.input[2]]
            values = array_of(tensor).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _cast(source: str, result: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{result}.cast", to=to)
