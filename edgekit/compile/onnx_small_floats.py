"""Weights kept as bfloat16, as 8-bit floats or as NF4 codes, and widened to float32 at load.

Constant nodes (``Cast``, ``Gather``, ``Mul``, ``Reshape``, ``Slice``, ``Transpose``) stand between
the stored constant and its readers. ONNX Runtime folds them when it loads a model, so a run costs
what float costs: these precisions buy bytes of the file and neither time nor memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_grid import Array, along, channel_rows
from edgekit.compile.onnx_layers import Layer
from edgekit.compile.onnx_model import array_of, replace_initializers, replace_nodes
from edgekit.core.precision import NF4_BLOCK, NF4_LEVELS

# Precision -> (numpy's type, ONNX's, the largest finite value).
_FLOAT8 = {
    "fp8_e4m3": (ml_dtypes.float8_e4m3fn, TensorProto.FLOAT8E4M3FN, 448.0),
    "fp8_e5m2": (ml_dtypes.float8_e5m2, TensorProto.FLOAT8E5M2, 57344.0),
}
# Less than this many weights save fewer bytes than the nodes take that widen them.
_MIN_ELEMENTS = {"bf16": 32, "fp8_e4m3": 128, "fp8_e5m2": 128, "nf4": 128}
_LEVELS = "nf4_levels"


def store_small_floats(
    model: onnx.ModelProto, layers: Sequence[Layer], precisions: Mapping[str, str], block: int
) -> list[str]:
    """Keep these layers' weights at "bf16", "fp8_e4m3", "fp8_e5m2" or "nf4"; compute in float32.

    precisions: by the weight's name. block: NF4 weights that share a scale, 0 for the paper's 64.
    Weights too few to gain stay as they are, and so do values past bfloat16's range; returns what
    must be said of those.
    """
    chosen = {layer.weight: layer for layer in layers}
    tensors: list[onnx.TensorProto] = []
    widening: list[onnx.NodeProto] = []
    refused = []
    for tensor in model.graph.initializer:
        layer, precision = chosen.get(tensor.name), precisions.get(tensor.name, "")
        values = array_of(tensor) if layer is not None else None
        if layer is None or values is None or values.size < _MIN_ELEMENTS[precision]:
            tensors.append(tensor)
            continue
        stored = _stored(tensor.name, values, layer, precision, block or NF4_BLOCK)
        if stored is None:
            refused.append(tensor.name)
            tensors.append(tensor)
            continue
        tensors.extend(stored.tensors)
        widening.extend(stored.nodes)
    if any(node.input[0] == _LEVELS for node in widening):
        tensors.append(numpy_helper.from_array(np.array(NF4_LEVELS, np.float32), _LEVELS))
    replace_initializers(model, tensors)
    replace_nodes(model, [*widening, *model.graph.node])
    return [f"stay float32, past bfloat16's range: {', '.join(refused)}"] if refused else []


@dataclass(slots=True, kw_only=True)
class _Widened:
    """Constants, and the chain of nodes that makes the weight of them again."""

    name: str
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def scale(self, values: Array) -> str:
        """The scales beside the stored weight; their name."""
        name = f"{self.name}_scale"
        self.tensors.append(numpy_helper.from_array(values, name))
        return name

    def sizes(self, values: Sequence[int], role: str) -> str:
        """A constant of sizes, whose name says that it is none of the weight's own values."""
        name = f"nf4_{role}.{self.name}"
        self.tensors.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def then(self, operator: str, *inputs: str, **attributes: object) -> str:
        """One more node; the name of its result."""
        result = f"{self.name}.{len(self.nodes)}"
        node = helper.make_node(operator, inputs, [result], name=f"{result}.widen", **attributes)
        self.nodes.append(node)
        return result

    def close(self) -> "_Widened":
        """Let the last node make the weight under its own name."""
        self.nodes[-1].output[0] = self.name
        return self


def _stored(name: str, values: Array, layer: Layer, precision: str, block: int) -> _Widened | None:
    """The constants and nodes of one weight; None where its values do not fit."""
    if precision == "nf4":
        return _nf4(name, values, layer, block)
    if precision == "bf16":
        return _bfloat16(name, values)
    return _float8(name, values, layer, precision)


def _bfloat16(name: str, values: Array) -> _Widened | None:
    # The largest float32 values round up to infinity.
    if np.abs(values).max() > float(ml_dtypes.finfo(ml_dtypes.bfloat16).max):
        return None
    made = _Widened(name=name)
    small = values.astype(ml_dtypes.bfloat16)
    made.tensors.append(_tensor(f"{name}_bf16", TensorProto.BFLOAT16, small))
    made.then("Cast", f"{name}_bf16", to=TensorProto.FLOAT)
    return made.close()


def _float8(name: str, values: Array, layer: Layer, precision: str) -> _Widened:
    codes, scales = float8_codes(values, layer.axis, precision)
    made = _Widened(name=name)
    made.tensors.append(_tensor(f"{name}_fp8", _FLOAT8[precision][1], codes))
    wide = made.then("Cast", f"{name}_fp8", to=TensorProto.FLOAT)
    made.then("Mul", wide, made.scale(along(scales, layer.axis, values.ndim)))
    return made.close()


def _nf4(name: str, values: Array, layer: Layer, block: int) -> _Widened:
    """Codes, the table of levels, a scale a block; then the weight's own shape again.

    The matrix of a MatMul is (inputs, outputs): it is turned, so that a block holds weights of one
    output, as in a torch layer.
    """
    is_turned = values.ndim == 2 and layer.axis == 1
    laid = values.T if is_turned else values
    codes, scales = nf4_codes(laid, block)
    made = _Widened(name=name)
    packed = codes[:, ::2] | (codes[:, 1::2] << 4)
    made.tensors.append(_tensor(f"{name}_nf4", TensorProto.UINT4, packed, codes.shape))
    places = made.then("Cast", f"{name}_nf4", to=TensorProto.INT32)
    shares = made.then("Gather", _LEVELS, places)
    wide = made.then("Mul", shares, made.scale(scales[:, None]))
    if codes.size > laid.size:
        flat = made.then("Reshape", wide, made.sizes([-1], "flat"))
        start, end = made.sizes([0], "start"), made.sizes([laid.size], "end")
        wide = made.then("Slice", flat, start, end)
    wide = made.then("Reshape", wide, made.sizes(laid.shape, "shape"))
    if is_turned:
        made.then("Transpose", wide, perm=[1, 0])
    return made.close()


def float8_codes(weight: Array, axis: int, precision: str) -> tuple[Array, Array]:
    """The 8-bit floats of a weight and the scale of each channel.

    A scale brings the channel's largest weight to the format's largest value: E4M3 and E5M2 then
    lose least to underflow. A channel of zeros has the scale 1.
    Shapes: (..., channels, ...) -> the same, (channels,).
    """
    kind, _, top = _FLOAT8[precision]
    largest = np.abs(channel_rows(weight, axis)).max(axis=1).astype(np.float32)
    # A product that underflows would divide by zero.
    scales = np.maximum(largest / np.float32(top), np.finfo(np.float32).tiny)
    scales = np.where(largest > 0, scales, 1).astype(np.float32)
    shares = weight / along(scales, axis, weight.ndim)
    return np.clip(shares, -top, top).astype(kind), scales


def nf4_codes(weight: Array, block: int) -> tuple[Array, Array]:
    """The codes of a weight in blocks as its values lie, and each block's largest magnitude.

    Source: Dettmers et al. 2023, arXiv:2305.14314, section 3 and equation 4.
    Shapes: any -> (blocks, block) uint8 below 16, (blocks,); zeros fill up the last block. A block
    of zeros has the scale 1.
    """
    flat = weight.reshape(-1).astype(np.float32)
    rows = np.pad(flat, (0, -flat.size % block)).reshape(-1, block)
    largest = np.abs(rows).max(axis=1)
    scales = np.where(largest > 0, largest, 1).astype(np.float32)
    levels = np.array(NF4_LEVELS, np.float32)
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, rows / scales[:, None])
    return codes.astype(np.uint8), scales


def _tensor(
    name: str, kind: int, values: Array, shape: Sequence[int] | None = None
) -> onnx.TensorProto:
    return helper.make_tensor(name, kind, shape or values.shape, values.tobytes(), raw=True)
