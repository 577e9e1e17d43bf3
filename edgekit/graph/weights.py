"""Layer by layer: which constants are weights, how they are stored, and what computes with them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgekit.core.precision import NF4_LEVELS
from edgekit.graph.model import BITS, Graph, Operator, Subgraph, TensorInfo

WeightKind = Literal["conv", "depthwise", "linear", "embedding", "recurrent"]
ActivationKind = Literal["static", "dynamic", "none"]

# Operator -> (kind, inputs that may hold a weight).
_WEIGHT_INPUTS: dict[str, tuple[WeightKind, tuple[int, ...]]] = {
    "CONV_2D": ("conv", (1,)),
    "CONV_3D": ("conv", (1,)),
    "TRANSPOSE_CONV": ("conv", (1,)),
    "DEPTHWISE_CONV_2D": ("depthwise", (1,)),
    "FULLY_CONNECTED": ("linear", (1,)),
    "BATCH_MATMUL": ("linear", (0, 1)),
    "EMBEDDING_LOOKUP": ("embedding", (1,)),
    "GATHER": ("embedding", (0,)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": ("recurrent", tuple(range(1, 9))),
    "Conv": ("conv", (1,)),
    "ConvTranspose": ("conv", (1,)),
    "ConvInteger": ("conv", (1,)),
    "QLinearConv": ("conv", (3,)),
    "MatMul": ("linear", (0, 1)),
    "Gemm": ("linear", (0, 1)),
    "MatMulInteger": ("linear", (0, 1)),
    "MatMulIntegerToFloat": ("linear", (1,)),
    "DynamicQuantizeMatMul": ("linear", (1,)),
    "QLinearMatMul": ("linear", (0, 3)),
    "QGemm": ("linear", (3,)),
    "MatMulNBits": ("linear", (1,)),
    "Einsum": ("linear", (0, 1, 2, 3)),
    "Gather": ("embedding", (0,)),
    "GatherBlockQuantized": ("embedding", (0,)),
    "LSTM": ("recurrent", (1, 2)),
    "GRU": ("recurrent", (1, 2)),
    "RNN": ("recurrent", (1, 2)),
    "DynamicQuantizeLSTM": ("recurrent", (1, 2)),
}
# What may stand between a constant and the operator that it is a weight of.
_PASS_THROUGH = (
    *("DEQUANTIZE", "CAST", "TRANSPOSE", "RESHAPE"),
    *("DequantizeLinear", "Cast", "Transpose", "Reshape", "Identity", "Slice"),
)
# "Mul" by a constant of scales, after a Cast: dequantization that ONNX Runtime folds at load.
_DEQUANTIZES = ("DEQUANTIZE", "DequantizeLinear", "Mul")
_MOST_STEPS_BACK = 10
_STATIC_INTEGER = ("QLinearConv", "QLinearMatMul", "QGemm")
_DYNAMIC_INTEGER = (
    *("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"),
    *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM"),
)
# Several weights share a byte, and blocks of them a scale.
BLOCK_PACKED = ("MatMulNBits", "GatherBlockQuantized")
FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
# Codes of 4 bits that a table of 16 values is read with (``core.precision.NF4_LEVELS``).
NF4 = "nf4"
_INTEGERS = ("int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2")
_WEIGHT_PRECISIONS = (
    *("float32", "float16", "bfloat16", *FLOAT8, NF4),
    *("int16", "int8", "int4", "int2"),
)
# Cast's attribute "to" (onnx.proto).
_EIGHT_BIT_TYPES = (2, 3)
# ONNX Runtime's integer kernels on the CPU take activations of so many bits and no others.
_KERNEL_BITS = 8
# The level at which MatMulNBits turns its activations to int8 (ONNX Runtime, contrib operators).
_INT8_ACCURACY_LEVEL = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WeightLayer:
    """One constant in the place of a weight of one operator.

    shape: of the weight itself, not of its packing. precision: how an element is stored ("float32",
    "float16", "float8_e4m3fn", "int8", "nf4", ...; unsigned counts as signed). activations: how
    they come to the operator: integers ("static"), floats that it scales itself ("dynamic") or
    floats that stay floats ("none"). activation_bits: of static integers, else 0.
    is_integer: the engine's kernel multiplies integers. passed: what stands between the constant
    and the operator, nearest to the operator first.
    """

    subgraph: int
    operator: Operator
    slot: int
    tensor: TensorInfo
    kind: WeightKind
    shape: tuple[int, ...]
    precision: str
    activations: ActivationKind
    is_integer: bool
    activation_bits: int = 0
    passed: tuple[Operator, ...] = ()

    @property
    def is_decoded(self) -> bool:
        """Whether a dequantization stands between the constant and the operator."""
        return any(item.name in _DEQUANTIZES for item in self.passed)

    @property
    def elements(self) -> int:
        """The number of weights."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def key(self) -> tuple[int, int]:
        """(subgraph, tensor): what operators that share the weight have in common."""
        return self.subgraph, self.tensor.index


def weight_layers(graph: Graph) -> tuple[WeightLayer, ...]:
    """The layers in order of execution; a weight that several operators share comes up for each.

    Constants of less than two axes are biases and factors, not weights.
    """
    return tuple(
        layer
        for place, subgraph in enumerate(graph.subgraphs)
        for layer in _Links(graph, place, subgraph).layers()
    )


class _Links:
    """Who makes and who reads each tensor of a subgraph."""

    def __init__(self, graph: Graph, place: int, subgraph: Subgraph) -> None:
        self.graph = graph
        self.place = place
        self.subgraph = subgraph
        self.maker: dict[int, Operator] = {}
        self.readers: dict[int, list[Operator]] = {}
        for operator in subgraph.operators:
            self.maker.update(dict.fromkeys(operator.outputs, operator))
            for index in operator.inputs:
                self.readers.setdefault(index, []).append(operator)

    def layers(self) -> Iterator[WeightLayer]:
        for operator in self.subgraph.operators:
            kind, slots = _WEIGHT_INPUTS.get(operator.name, ("linear", ()))
            for slot in slots:
                layer = self._layer(operator, kind, slot)
                if layer is not None:
                    yield layer

    def _layer(self, operator: Operator, kind: WeightKind, slot: int) -> WeightLayer | None:
        index = operator.inputs[slot] if slot < len(operator.inputs) else -1
        found = self._constant_behind(index)
        if found is None:
            return None
        tensor, passed = found
        shape, precision = self._unpacked(operator, tensor, passed)
        is_scale = kind == "embedding" and shape[-1:] == (1,)  # of rows, looked up beside them
        if len(shape) < 2 or is_scale or precision not in _WEIGHT_PRECISIONS:
            return None
        activations, is_integer = self._compute(operator, slot, tensor, passed)
        return WeightLayer(
            subgraph=self.place,
            operator=operator,
            slot=slot,
            tensor=tensor,
            kind=_refine(kind, operator, shape),
            shape=shape,
            precision=precision,
            activations=activations,
            is_integer=is_integer,
            activation_bits=self._activation_bits(operator, slot) if activations == "static" else 0,
            passed=passed,
        )

    def _constant_behind(self, index: int) -> tuple[TensorInfo, tuple[Operator, ...]] | None:
        """The constant that a tensor is, or is made of without arithmetic."""
        passed: list[Operator] = []
        for _ in range(_MOST_STEPS_BACK):
            if index < 0:
                return None
            tensor = self.subgraph.tensors[index]
            if tensor.is_constant:
                return (tensor, (*passed,)) if _is_weight(tensor, passed) else None
            maker = self.maker.get(index)
            if maker is None:
                return None
            passed.append(maker)
            index = self._source(maker)
        return None

    def _source(self, maker: Operator) -> int:
        """The input whose values an operator passes on, -1 for one that does more than that."""
        if maker.name in _PASS_THROUGH:
            return maker.inputs[0] if maker.inputs else -1
        if maker.name == "Mul" and len(maker.inputs) == 2:
            computed = [i for i in maker.inputs if not self.subgraph.tensors[i].is_constant]
            return computed[0] if len(computed) == 1 else -1
        if maker.name == "Gather" and self._is_nf4_table(maker.inputs[0]):
            return maker.inputs[1]
        return -1

    def _is_nf4_table(self, index: int) -> bool:
        info = self.subgraph.tensors[index]
        if not info.is_constant or (info.dtype, info.shape) != ("float32", (len(NF4_LEVELS),)):
            return False
        levels = self.graph.constant_array(index, self.place)
        return bool((levels == np.array(NF4_LEVELS, np.float32)).all())

    def _unpacked(
        self, operator: Operator, tensor: TensorInfo, passed: Sequence[Operator]
    ) -> tuple[tuple[int, ...], str]:
        """(shape of the weight, precision) where the file stores something else."""
        if not any(item.name == "Gather" for item in passed):
            return _unpacked(operator, tensor)
        shaper = next((item for item in passed if item.name == "Reshape"), None)
        if shaper is None or not self.subgraph.tensors[shaper.inputs[1]].is_constant:
            return tensor.shape, NF4
        sizes = self.graph.constant_array(shaper.inputs[1], self.place)
        return tuple(int(size) for size in sizes.reshape(-1)), NF4

    def _compute(
        self, operator: Operator, slot: int, tensor: TensorInfo, passed: Sequence[Operator]
    ) -> tuple[ActivationKind, bool]:
        """(how activations come in, whether integers are multiplied)."""
        if operator.name in _STATIC_INTEGER:
            return "static", True
        if operator.name in _DYNAMIC_INTEGER:
            return "dynamic", True
        if operator.name == "MatMulNBits":
            is_integer = operator.attributes.get("accuracy_level") == _INT8_ACCURACY_LEVEL
            return ("dynamic", True) if is_integer else ("none", False)
        if self.graph.format == "tflite":
            is_decoded = any(item.name in _DEQUANTIZES for item in passed)
            if is_decoded or tensor.dtype not in _INTEGERS:
                return "none", False
            return self._compute_tflite(operator, slot)
        return self._compute_qdq(operator, slot, tensor, passed)

    def _compute_tflite(self, operator: Operator, slot: int) -> tuple[ActivationKind, bool]:
        data = self._data(operator, slot)
        if data >= 0 and self.subgraph.tensors[data].dtype in _INTEGERS:
            return "static", True
        # Integer weights, float activations: the kernel scales the activations as they come.
        return "dynamic", True

    def _compute_qdq(
        self, operator: Operator, slot: int, tensor: TensorInfo, passed: Sequence[Operator]
    ) -> tuple[ActivationKind, bool]:
        """ONNX Runtime makes an integer kernel of an operator between quantize and dequantize."""
        maker = self.maker.get(self._data(operator, slot))
        decoders = [item.name for item in passed].count("DequantizeLinear")
        if maker is None or maker.name != "DequantizeLinear" or not decoders:
            return "none", False
        # Its CPU kernels take 8-bit weights; narrower ones count once they are cast to 8 bits.
        is_integer = tensor.dtype in ("int8", "uint8") or any(
            item.name == "Cast" and item.attributes.get("to") in _EIGHT_BIT_TYPES for item in passed
        )
        if operator.name in ("Conv", "ConvTranspose"):
            is_integer = is_integer and self._is_requantized(operator)
        return "static", is_integer and self._activation_bits(operator, slot) == _KERNEL_BITS

    def _activation_bits(self, operator: Operator, slot: int) -> int:
        """Of static integers as they come to an operator."""
        if operator.name in _STATIC_INTEGER:
            return _KERNEL_BITS
        if self.graph.format == "tflite":
            return BITS.get(self.subgraph.tensors[self._data(operator, slot)].dtype, 0)
        decoder = self.maker[self._data(operator, slot)]
        point = decoder.inputs[2] if len(decoder.inputs) > 2 else -1
        # Without a zero point ONNX quantizes to uint8.
        return BITS.get(self.subgraph.tensors[point].dtype, 0) if point >= 0 else _KERNEL_BITS

    def _data(self, operator: Operator, slot: int) -> int:
        """The tensor that an operator multiplies a weight with."""
        if self.graph.format == "tflite":
            weight, tensors = operator.inputs[slot], self.subgraph.tensors
            others = [index for index in operator.inputs if index >= 0 and index != weight]
            return next((index for index in others if not tensors[index].is_constant), -1)
        is_product = operator.name in ("MatMul", "Gemm")
        return operator.inputs[1 - slot if is_product else 0]

    def _is_requantized(self, operator: Operator) -> bool:
        """Whether the output goes to a QuantizeLinear, perhaps through a clamp that it absorbs."""
        for _ in range(3):
            readers = self.readers.get(operator.outputs[0], [])
            if len(readers) != 1:
                return False
            operator = readers[0]
            if operator.name == "QuantizeLinear":
                return True
            if operator.name not in ("Relu", "Clip") or not operator.outputs:
                return False
        return False


def _is_weight(tensor: TensorInfo, passed: Sequence[Operator]) -> bool:
    """Whether what a constant passes makes a weight of it, and not some other value."""
    names = {item.name for item in passed}
    if "Gather" in names:
        return tensor.dtype == "uint4"
    is_scaled = "Mul" in names and tensor.dtype not in (*_INTEGERS, *FLOAT8)
    return not is_scaled and "Slice" not in names


def _refine(kind: WeightKind, operator: Operator, shape: Sequence[int]) -> WeightKind:
    groups = operator.attributes.get("group", 1)
    is_depthwise = kind == "conv" and isinstance(groups, int) and groups > 1 and shape[1] == 1
    return "depthwise" if is_depthwise else kind


def _unpacked(operator: Operator, tensor: TensorInfo) -> tuple[tuple[int, ...], str]:
    """(shape of the weight, precision) where the file packs several weights into one element."""
    if operator.name == "MatMulNBits":
        rows, columns = _whole(operator.attributes, "N"), _whole(operator.attributes, "K")
        return (rows, columns), f"int{_whole(operator.attributes, 'bits') or 4}"
    if operator.name == "GatherBlockQuantized" and tensor.dtype == "uint8":
        bits = _whole(operator.attributes, "bits") or 4
        return (*tensor.shape[:-1], tensor.shape[-1] * 8 // bits), f"int{bits}"
    return tensor.shape, tensor.dtype.removeprefix("u")


def _whole(attributes: Mapping[str, object], name: str) -> int:
    value = attributes.get(name, 0)
    return value if isinstance(value, int) else 0
