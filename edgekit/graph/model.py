"""A model file as plain values: subgraphs of operators over tensors, and the constants' bytes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import InputError

Array = NDArray[Any]
AttributeValue = int | float | str | bool | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]

# Bits an element takes where it is stored; types without a fixed size are absent.
BITS = {
    "float64": 64,
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
    "float8_e8m0": 8,
    "float4_e2m1": 4,
    "complex64": 64,
    "complex128": 128,
    "int64": 64,
    "uint64": 64,
    "int32": 32,
    "uint32": 32,
    "int16": 16,
    "uint16": 16,
    "int8": 8,
    "uint8": 8,
    "int4": 4,
    "uint4": 4,
    "int2": 2,
    "uint2": 2,
    "bool": 8,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorQuantization:
    """How stored integers stand for real values: ``(stored - zero_point) * scale``.

    Shapes: scales and zero_points have one entry (per tensor), one for each index of ``axis``
    (per channel), or one for each block in row-major order of the blocks (``block_size`` > 0
    elements of ``axis`` share one).
    """

    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int = 0
    block_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One tensor; ``shape`` has -1 where an axis may vary.

    is_rank_known: False where the file does not say the shape (then ``shape`` is empty).
    stored_bytes: what a constant takes in the file, 0 for others. is_variable: keeps its value
    between runs.
    """

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    is_constant: bool = False
    is_variable: bool = False
    is_rank_known: bool = True
    stored_bytes: int = 0
    quantization: TensorQuantization | None = None

    @property
    def elements(self) -> int:
        """The number of elements; 0 where an axis varies."""
        return math.prod(self.shape) if min(self.shape, default=1) >= 0 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator call: ``CONV_2D`` (.tflite), ``Conv`` (.onnx), over tensor indices.

    inputs, outputs: -1 where an optional tensor is absent. domain: of .onnx operators beyond the
    standard ones, "custom" for a custom .tflite operator. version: of the operator (.tflite) or of
    its domain's operator set (.onnx). attributes: what the readers know how to say plainly; a
    nested graph is the index of its subgraph.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    domain: str = ""
    version: int = 1
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subgraph:
    """Operators in order of execution. ``constants``: raw little-endian bytes by tensor index."""

    name: str
    tensors: tuple[TensorInfo, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: Mapping[int, memoryview] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A named entry point of a .tflite: (name, tensor index) pairs into one subgraph."""

    name: str
    subgraph: int
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """A whole file; ``subgraphs[0]`` is the main one.

    format: "tflite" or "onnx". operator_sets: version by domain (.onnx). metadata: the names of
    what the file carries besides the graph.
    """

    format: str
    subgraphs: tuple[Subgraph, ...]
    name: str = ""
    signatures: tuple[Signature, ...] = ()
    operator_sets: Mapping[str, int] = field(default_factory=dict)
    metadata: tuple[str, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants; one that several tensors share counts once."""
        shared = {
            id(content): content.nbytes
            for subgraph in self.subgraphs
            for content in subgraph.constants.values()
        }
        return sum(shared.values())

    def constant_data(self, tensor: int, subgraph: int = 0) -> memoryview:
        """The raw bytes of a constant: little-endian, 4-bit values packed low nibble first.

        Raises: InputError when the tensor is no constant.
        """
        content = self.subgraphs[subgraph].constants.get(tensor)
        if content is None:
            raise InputError(
                f"{self.name}: tensor {tensor} of subgraph {subgraph} is not a constant; "
                "only constants have data in the file"
            )
        return content

    def constant_array(self, tensor: int, subgraph: int = 0) -> Array:
        """A constant as numpy sees it: 4-bit and 2-bit values become int8 or uint8.

        Shapes: the tensor's. bfloat16 and the 8-bit floats of numbers become float32.
        Raises: InputError for a tensor that is no constant or has no numpy dtype.
        """
        info = self.subgraphs[subgraph].tensors[tensor]
        content = self.constant_data(tensor, subgraph)
        return decode_constant(content, info.dtype, info.shape, where=f"{self.name}: {info.name!r}")


def stored_size(elements: int, dtype: str) -> int:
    """Bytes that this many elements take when stored densely."""
    return -(-elements * BITS[dtype] // 8)


def decode_constant(
    content: memoryview, dtype: str, shape: tuple[int, ...], *, where: str
) -> Array:
    """Raw bytes as an array of ``shape``.

    Raises: InputError when the bytes do not fill the shape or numpy has no such dtype.
    """
    elements = math.prod(shape)
    if dtype not in BITS or stored_size(elements, dtype) != content.nbytes:
        raise InputError(f"{where}: {content.nbytes} bytes do not make {dtype} {list(shape)}")
    if dtype in ("int4", "uint4", "int2", "uint2"):
        return unpack_bits(content, dtype, elements).reshape(shape)
    if dtype == "bfloat16":
        halves = np.frombuffer(content, "<u2").astype("<u4") << np.uint32(16)
        return halves.view("<f4").reshape(shape)
    if dtype in ("float8_e4m3fn", "float8_e5m2"):
        return decode_float8(content, dtype).reshape(shape)
    if dtype.startswith(("float8", "float4")):
        raise InputError(f"{where}: {dtype} has no numpy dtype; read its raw bytes")
    return np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).reshape(shape)


def decode_float8(content: memoryview, dtype: str) -> Array:
    """8-bit floats as float32.

    Source: Micikevicius et al. 2022, arXiv:2209.05433, table 1: E5M2 is the upper byte of a
    float16; E4M3 has no infinity, and one NaN of each sign.
    """
    codes = np.frombuffer(content, np.uint8)
    if dtype == "float8_e5m2":
        return (codes.astype("<u2") << np.uint16(8)).view("<f2").astype(np.float32)
    exponent, mantissa = (codes >> 3) & 15, (codes & 7).astype(np.float32)
    is_normal = exponent > 0
    powers = np.exp2(np.maximum(exponent, 1).astype(np.float32) - np.float32(7))
    values = (is_normal + mantissa / np.float32(8)) * powers
    values = np.where((codes & 127) == 127, np.float32(np.nan), values)
    return np.where(codes > 127, -values, values).astype(np.float32)


def unpack_bits(content: memoryview, dtype: str, elements: int) -> Array:
    """4-bit or 2-bit values, lowest bits first in each byte, as int8 or uint8."""
    table = _values_of_bytes(dtype)
    # All values of a byte are taken as one number: weights of megabytes are read in one pass.
    groups = table.view(f"u{table.shape[1]}").reshape(-1)
    return groups[np.frombuffer(content, np.uint8)].view(table.dtype)[:elements]


@cache
def _values_of_bytes(dtype: str) -> Array:
    """For each byte the values that it holds. Shapes: (256, values of a byte)."""
    width = BITS[dtype]
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    values = (np.arange(256, dtype=np.uint8)[:, None] >> shifts) & np.uint8(2**width - 1)
    if dtype.startswith("u"):
        return values
    sign = np.uint8(1 << (width - 1))
    return ((values ^ sign).view(np.int8) - sign.view(np.int8)).astype(np.int8)
