"""Tensors and types of the .onnx format.

Source: onnx.proto of ONNX 1.23 (field and type numbers); tests compare with the onnx library.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.core.errors import InputError
from edgekit.graph.model import BITS, stored_size
from edgekit.graph.protobuf import Field, Message

# Data type number -> name; 0 is "undefined".
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1",
    24: "float8_e8m0",
    25: "uint2",
    26: "int2",
}
UNKNOWN = "unknown"
_MOST_AXES = 32
_EXTERNAL = 1
# Fields that hold data by type; the other place for data is raw_data, field 9.
_TYPED = (4, 5, 6, 7, 10, 11)

Fields = Mapping[int, Sequence[Field]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorContent:
    """A TensorProto: raw little-endian bytes whatever field held them."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stored_bytes: int
    content: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueType:
    """A ValueInfoProto: name, dtype and shape of a tensor, as far as the file says them."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_rank_known: bool


def dtype_name(message: Message, code: int) -> str:
    """The name of a data type number.

    Raises: InputError for a number that ONNX does not define.
    """
    if code == 0:
        return UNKNOWN
    if code not in DTYPES:
        raise message.fail(message.start, f"unknown data type {code}")
    return DTYPES[code]


def read_tensor(message: Message) -> TensorContent:
    """An initializer or a constant's value.

    Raises: InputError for data in other files, and for data that do not fill the shape.
    """
    fields = message.collect()
    name = last_text(fields, 8)
    if 13 in fields or last_integer(fields, 14) == _EXTERNAL:
        raise InputError(
            f"{message.name}: the data of '{name}' lie in another file; "
            "save the model in one file (external_data=False)"
        )
    dtype = dtype_name(message, last_integer(fields, 2))
    dims = [size for item in fields.get(1, ()) for size in item.integers().tolist()]
    elements = _elements(message, dims)
    if 9 in fields:
        content = fields[9][-1].blob()
        stored = content.nbytes
    else:
        content = memoryview(_typed_bytes(message, dtype, fields))
        stored = sum(item.size_bytes for number in _TYPED for item in fields.get(number, ()))
    if dtype in BITS and content.nbytes != stored_size(elements, dtype):
        what = f"{content.nbytes} bytes of data for {dtype} {dims[:_MOST_AXES]} ('{name}')"
        raise message.fail(message.start, what)
    return TensorContent(
        name=name, dtype=dtype, shape=tuple(dims), stored_bytes=stored, content=content
    )


def _elements(message: Message, dims: list[int]) -> int:
    if len(dims) > _MOST_AXES or min(dims, default=0) < 0:
        raise message.fail(message.start, f"a tensor shape {dims[:_MOST_AXES]}")
    return math.prod(dims)


def _typed_bytes(message: Message, dtype: str, fields: Fields) -> bytes:
    """What lies in the field that belongs to the type, as raw bytes."""
    if dtype == "string":
        return b"".join(item.blob() for item in fields.get(6, ()))
    if dtype not in BITS:
        raise message.fail(message.start, f"a tensor of type {dtype}")
    number, width = _typed_field(dtype)
    strays = [other for other in _TYPED if other != number and other in fields]
    if strays:
        raise message.fail(message.start, f"{dtype} data in field {strays[0]}")
    items = fields.get(number, ())
    if number in (4, 10):
        return b"".join(item.fixed(f"<f{width}").tobytes() for item in items)
    # The values of narrow types come in wide numbers: keep the low bytes of each.
    kind = f"<u{width}"
    return b"".join(item.integers().view("<u8").astype(kind).tobytes() for item in items)


def _typed_field(dtype: str) -> tuple[int, int]:
    """(field number, bytes of each entry); types below a byte come packed, a byte an entry."""
    if dtype in ("float32", "complex64"):
        return 4, 4
    if dtype in ("float64", "complex128"):
        return 10, 8
    if dtype == "int64":
        return 7, 8
    if dtype in ("uint32", "uint64"):
        return 11, BITS[dtype] // 8
    return 5, max(BITS[dtype] // 8, 1)


def last_text(fields: Fields, number: int) -> str:
    """A string field; the last one counts, as protobuf says."""
    return fields[number][-1].text() if number in fields else ""


def last_integer(fields: Fields, number: int) -> int:
    """An integer field, 0 where it is absent."""
    return fields[number][-1].integer() if number in fields else 0


def read_value_type(message: Message) -> ValueType:
    """A graph's input, output or annotated tensor."""
    fields = message.collect()
    dtype = UNKNOWN
    shape: tuple[int, ...] | None = None
    for item in fields.get(2, ()):
        for inner in item.nested().collect().get(1, ()):
            dtype, shape = _tensor_type(inner.nested())
    return ValueType(
        name=last_text(fields, 1), dtype=dtype, shape=shape or (), is_rank_known=shape is not None
    )


def _tensor_type(message: Message) -> tuple[str, tuple[int, ...] | None]:
    fields = message.collect()
    dtype = dtype_name(message, last_integer(fields, 1))
    if 2 not in fields:
        return dtype, None
    axes = fields[2][-1].nested().collect().get(1, [])
    if len(axes) > _MOST_AXES:
        raise message.fail(message.start, f"a shape of {len(axes)} axes")
    return dtype, tuple(_dimension(axis.nested()) for axis in axes)


def _dimension(message: Message) -> int:
    fields = message.collect()
    return max(last_integer(fields, 1), -1) if 1 in fields else -1
