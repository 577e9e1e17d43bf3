"""The real values that quantized weights stand for, and the scale of each."""

from dataclasses import dataclass

import numpy as np

from edgekit.core.precision import NF4_LEVELS
from edgekit.graph.model import Array, Graph, Operator, Subgraph, TensorInfo, TensorQuantization
from edgekit.graph.weights import FLOAT8, NF4, WeightLayer

# Folding a norm into a weight moves it by float32's rounding, a ten-thousandth of a step at most.
_STEP_TOLERANCE = 1e-3
# Operator -> (weight's input, its scale's, its zero point's, axis of channels).
_SCALE_INPUTS = {
    ("QLinearConv", 3): (4, 5, 0),
    ("QLinearMatMul", 3): (4, 5, -1),
    ("QLinearMatMul", 0): (1, 2, -1),
    ("QGemm", 3): (4, 5, -1),
    ("DynamicQuantizeMatMul", 1): (2, 3, -1),
    ("MatMulIntegerToFloat", 1): (3, 5, -1),
    ("DynamicQuantizeLSTM", 1): (8, 9, 0),
    ("DynamicQuantizeLSTM", 2): (10, 11, 0),
    ("MatMulNBits", 1): (2, 3, -1),
    ("GatherBlockQuantized", 0): (2, 3, -1),
}
# Here the scale is multiplied in after the operator: weight's zero point, axis of channels.
_SCALED_LATER = {("ConvInteger", 1): (3, 0), ("MatMulInteger", 1): (3, -1)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightGrid:
    """A weight as real values.

    Shapes: values as the layer's. scales: one for each group; ``groups`` gives each value's group
    and broadcasts to the shape of values. All are absent (empty) for weights stored as floats.
    """

    values: Array
    scales: Array
    groups: Array


def weight_grid(graph: Graph, layer: WeightLayer) -> WeightGrid | None:
    """The values of a layer's weight; None where the file does not say its scale plainly.

    Raises: InputError when the constant's bytes do not fit its type.
    """
    subgraph = graph.subgraphs[layer.subgraph]
    stored = graph.constant_array(layer.tensor.index, layer.subgraph)
    is_plain = not any(item.name == "Mul" for item in layer.passed)
    if is_plain and layer.precision.startswith(("float", "bfloat")):
        return WeightGrid(
            values=stored.astype(np.float32), scales=np.zeros(0), groups=np.zeros(0, np.int64)
        )
    quantization = weight_quantization(graph, layer)
    if quantization is None:
        return None
    if layer.precision == NF4:
        return _nf4_grid(stored, quantization.scales, layer)
    integers = stored if layer.precision in FLOAT8 else _unpack(stored, layer)
    groups = group_indices(integers.shape, quantization)
    if groups is None or groups.max(initial=0) >= len(quantization.scales):
        return None
    points = _block_points(subgraph, graph, layer, quantization)
    if len(points) not in (1, len(quantization.scales)):
        return None
    # float32 like the engines' own dequantization; zero points are small whole numbers.
    points = points.astype(np.float32)
    offset = points[groups] if len(points) > 1 else points[0]
    values = (integers.astype(np.float32) - offset) * quantization.scales[groups]
    return WeightGrid(
        values=values.reshape(layer.shape) if values.size == layer.elements else values,
        scales=quantization.scales,
        groups=groups,
    )


def _nf4_grid(codes: Array, scales: Array, layer: WeightLayer) -> WeightGrid | None:
    """Blocks run along the weight as it lies. Shapes: codes (blocks, block), scales (blocks,)."""
    if codes.ndim != 2 or len(scales) not in (1, len(codes)) or codes.size < layer.elements:
        return None
    values = np.array(NF4_LEVELS, np.float32)[codes] * scales.reshape(-1, 1)
    groups = np.arange(codes.size) // codes.shape[1] if len(scales) > 1 else np.zeros(codes.size)
    return WeightGrid(
        values=values.reshape(-1)[: layer.elements].reshape(layer.shape),
        scales=scales,
        groups=groups.astype(np.int64)[: layer.elements].reshape(layer.shape),
    )


def is_on_grid(values: Array, bits: int) -> bool:
    """Whether every channel is whole steps of a symmetric grid that just holds its largest value.

    Training with rounded weights leaves them so: that grid stores them without a further loss.
    Shapes: (channels, ...).
    """
    rows = np.abs(values.reshape(len(values), -1).astype(np.float64))
    largest = rows.max(axis=1, keepdims=True, initial=0)
    steps = rows / np.where(largest > 0, largest, 1) * (2 ** (bits - 1) - 1)
    return bool(np.abs(steps - np.rint(steps)).max(initial=0) < _STEP_TOLERANCE)


def group_indices(shape: tuple[int, ...], quantization: TensorQuantization) -> Array | None:
    """The group of each element, broadcastable to ``shape``; None where the axis is not in it."""
    rank, axis, block = len(shape), quantization.axis, quantization.block_size
    if len(quantization.scales) == 1 and not block:
        return np.zeros((1,) * rank, np.int64)
    axis = axis + rank if axis < 0 else axis
    if not 0 <= axis < rank:
        return None
    along = np.arange(shape[axis]).reshape([-1 if item == axis else 1 for item in range(rank)])
    if not block:
        return along
    blocked = [-(-size // block) if item == axis else size for item, size in enumerate(shape)]
    places = np.arange(int(np.prod(blocked))).reshape(blocked)
    return np.take(places, np.arange(shape[axis]) // block, axis=axis)


def weight_quantization(graph: Graph, layer: WeightLayer) -> TensorQuantization | None:
    """The scales of a weight, from wherever the format keeps them for this operator."""
    if layer.tensor.quantization is not None:
        return layer.tensor.quantization
    decoded = _quantization_of_decoder(graph, layer)
    if decoded is not None:
        return decoded
    subgraph = graph.subgraphs[layer.subgraph]
    inputs = _SCALE_INPUTS.get((layer.operator.name, layer.slot))
    if inputs is not None:
        scale, point, axis = inputs
        if layer.operator.name == "QGemm" and layer.operator.attributes.get("transB"):
            axis = 0
        return _from_inputs(graph, layer, _input(layer, scale), _input(layer, point), axis)
    later = _SCALED_LATER.get((layer.operator.name, layer.slot))
    if later is not None:
        point, axis = later
        scale = _scale_after(subgraph, layer.operator, layer.slot)
        return _from_inputs(graph, layer, scale, _input(layer, point), axis)
    if layer.kind == "embedding" and layer.operator.outputs:
        return _quantization_of_rows(graph, layer)
    return None


def _quantization_of_decoder(graph: Graph, layer: WeightLayer) -> TensorQuantization | None:
    """The scales of a DequantizeLinear or Mul that the weight passes after a Cast or a look-up."""
    subgraph = graph.subgraphs[layer.subgraph]
    for operator in reversed(layer.passed):
        if operator.name == "DequantizeLinear":
            return subgraph.tensors[operator.inputs[0]].quantization
        if operator.name == "Mul":
            scale = next(item for item in operator.inputs if item in subgraph.constants)
            return _from_factor(graph.constant_array(scale, layer.subgraph), layer.tensor.shape)
        if operator.name not in ("Cast", "Gather"):
            return None
    return None


def _from_factor(factor: Array, shape: tuple[int, ...]) -> TensorQuantization | None:
    """A factor that is broadcast to the weight as scales: one, a channel's, or a block's."""
    sizes = (1,) * (len(shape) - factor.ndim) + factor.shape
    wide = [axis for axis, size in enumerate(sizes) if size != 1]
    rest = [axis for axis, size in enumerate(sizes) if size != shape[axis]]
    if len(wide) > 1 and len(rest) != 1:
        return None
    is_blocked = len(wide) > 1
    axis = rest[0] if is_blocked else (*wide, 0)[0]
    return TensorQuantization(
        scales=factor.reshape(-1).astype(np.float32),
        zero_points=np.zeros(1, np.int64),
        axis=axis,
        block_size=shape[axis] if is_blocked else 0,
    )


def _quantization_of_rows(graph: Graph, layer: WeightLayer) -> TensorQuantization | None:
    """Rows are looked up as integers; what reads them dequantizes or multiplies them."""
    subgraph, rows = graph.subgraphs[layer.subgraph], layer.operator.outputs[0]
    if subgraph.tensors[rows].quantization is not None:
        return subgraph.tensors[rows].quantization
    for name in ("MatMulInteger", "ConvInteger"):
        reader = _reader(subgraph, rows, name)
        if reader is not None and reader.inputs[0] == rows:
            point = reader.inputs[2] if len(reader.inputs) > 2 else -1
            return _from_inputs(graph, layer, _scale_after(subgraph, reader, 0), point, -1)
    return _from_inputs(graph, layer, _scale_of_rows(subgraph, rows), -1, 0)


def _scale_of_rows(subgraph: Subgraph, rows: int) -> int:
    """The constant in ``Mul(Cast(rows), Gather(scales, ids))``."""
    product, cast = _product_after(subgraph, rows)
    if product is None:
        return -1
    for operator in subgraph.operators:
        is_other = set(operator.outputs) & set(product.inputs) - {cast}
        if operator.name == "Gather" and is_other and operator.inputs[0] in subgraph.constants:
            return operator.inputs[0]
    return -1


def _input(layer: WeightLayer, slot: int) -> int:
    return layer.operator.inputs[slot] if slot < len(layer.operator.inputs) else -1


def _from_inputs(
    graph: Graph, layer: WeightLayer, scale: int, point: int, axis: int
) -> TensorQuantization | None:
    subgraph = graph.subgraphs[layer.subgraph]
    constants, scale = subgraph.constants, _before_cast(subgraph, scale)
    if scale not in constants:
        return None
    block = layer.operator.attributes.get("block_size", 0)
    is_packed = layer.operator.name == "MatMulNBits"
    points = np.zeros(1, np.int64)
    if point in constants and not is_packed:
        points = graph.constant_array(point, layer.subgraph).reshape(-1).astype(np.int64)
    scales = graph.constant_array(scale, layer.subgraph).reshape(-1).astype(np.float32)
    shape = layer.tensor.shape
    if layer.operator.name == "DynamicQuantizeLSTM" and len(scales) > shape[0]:
        # (directions, input, gates): a scale for each gate of each direction, over all inputs.
        axis, block = 1, shape[1]
    return TensorQuantization(
        scales=scales,
        zero_points=points,
        axis=axis,
        block_size=block if isinstance(block, int) else 0,
    )


def _before_cast(subgraph: Subgraph, scale: int) -> int:
    """The constant that scales are widened from; without a Cast they are themselves."""
    if scale < 0 or scale in subgraph.constants:
        return scale
    makers = (item for item in subgraph.operators if item.name == "Cast" and scale in item.outputs)
    return next((item.inputs[0] for item in makers), scale)


def _scale_after(subgraph: Subgraph, integer: Operator, slot: int) -> int:
    """The constant in ``Mul(Cast(result), Mul(first scale, second scale))`` for one input."""
    product, cast = _product_after(subgraph, integer.outputs[0])
    other = -1 if product is None else next((i for i in product.inputs if i != cast), -1)
    scales = next((item.inputs for item in subgraph.operators if other in item.outputs), ())
    return scales[slot] if len(scales) == 2 and scales[slot] in subgraph.constants else -1


def _product_after(subgraph: Subgraph, index: int) -> tuple[Operator | None, int]:
    """(the Mul that reads a tensor through a Cast, the Cast's result)."""
    cast = _reader(subgraph, index, "Cast")
    if cast is None:
        return None, -1
    return _reader(subgraph, cast.outputs[0], "Mul"), cast.outputs[0]


def _reader(subgraph: Subgraph, index: int, name: str) -> Operator | None:
    return next(
        (item for item in subgraph.operators if item.name == name and index in item.inputs), None
    )


def _unpack(stored: Array, layer: WeightLayer) -> Array:
    """One integer an element, as the layer's shape says (padded at the end for MatMulNBits)."""
    bits = int(layer.precision.removeprefix("int"))
    if layer.operator.name == "MatMulNBits":
        return _split(stored, bits).reshape(layer.shape[0], -1)[:, : layer.shape[1]]
    if layer.operator.name == "GatherBlockQuantized" and layer.tensor.dtype == "uint8":
        return _split(stored, bits).reshape(layer.shape)
    return stored


def _split(stored: Array, bits: int) -> Array:
    if bits == 8:
        return stored
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (stored[..., None] >> shifts) & np.uint8(2**bits - 1)


def _block_points(
    subgraph: Subgraph, graph: Graph, layer: WeightLayer, quantization: TensorQuantization
) -> Array:
    """Zero points, one for all or one a group; packed unsigned blocks have their middle."""
    is_packed = layer.operator.name == "MatMulNBits" or (
        layer.operator.name == "GatherBlockQuantized" and layer.tensor.dtype == "uint8"
    )
    if not is_packed:
        return quantization.zero_points
    bits = int(layer.precision.removeprefix("int"))
    point = _input(layer, 3)
    if point not in subgraph.constants:
        return np.array([2 ** (bits - 1)], np.int64)
    info: TensorInfo = subgraph.tensors[point]
    packed = graph.constant_array(point, layer.subgraph)
    if info.dtype != "uint8":
        return packed.reshape(-1).astype(np.float32)
    blocks = len(quantization.scales) // layer.shape[0]
    return _split(packed, bits).reshape(layer.shape[0], -1)[:, :blocks].reshape(-1)
