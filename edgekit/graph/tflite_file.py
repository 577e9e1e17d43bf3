"""The .tflite reader: flatbuffers of the LiteRT schema, version 3."""

from collections.abc import Sequence

import numpy as np

from edgekit.core.errors import InputError
from edgekit.graph.flatbuffer import FlatBuffer, Table
from edgekit.graph.model import (
    BITS,
    AttributeValue,
    Graph,
    Operator,
    Signature,
    Subgraph,
    TensorInfo,
    TensorQuantization,
    decode_constant,
    stored_size,
)
from edgekit.graph.tflite_names import ACTIVATIONS, DTYPES, OPERATORS, OPTIONS, PADDINGS

IDENTIFIER = b"TFL3"
_VERSION = 3
_MOST_AXES = 32
_BLOCKWISE = 2
_COMPOSITE_OPTIONS = 21
_CUSTOM_CODE = 32
# Operator codes up to here are stored in the old 8-bit field as well.
_PLACEHOLDER_CODE = 127

_Code = tuple[str, str, int]


def read(data: bytes, name: str) -> Graph:
    """The graph of a .tflite file.

    Raises: InputError with the offset where the bytes are not one.
    """
    buffer = FlatBuffer(data, name)
    model = buffer.root()
    version = model.integer(0, "I")
    if version != _VERSION:
        raise InputError(f"{name}: .tflite schema version {version}; this reads version {_VERSION}")
    if any(True for _ in model.tables(9)):
        raise InputError(
            f"{name}: weights lie in other files (external buffers); export the model in one file"
        )
    codes = [_read_code(buffer, table) for table in model.tables(1)]
    contents = [_buffer_content(buffer, table) for table in model.tables(4)]
    parts = tuple(_read_subgraph(buffer, table, codes, contents) for table in model.tables(2))
    if not parts:
        raise InputError(f"{name}: no subgraph; the file holds no model")
    return Graph(
        format="tflite",
        name=name,
        subgraphs=parts,
        signatures=tuple(_read_signature(buffer, table, parts) for table in model.tables(7)),
        metadata=tuple(table.text(0) for table in model.tables(6)),
    )


def _read_code(buffer: FlatBuffer, table: Table) -> _Code:
    """(operator's name, domain, version)."""
    code = max(table.integer(3, "i"), table.integer(0, "b"))
    version = table.integer(2, "i", 1)
    if code == _CUSTOM_CODE:
        return table.text(1), "custom", version
    if not 0 <= code < len(OPERATORS) or code == _PLACEHOLDER_CODE:
        raise buffer.fail(table.offset, f"unknown operator code {code}")
    return OPERATORS[code], "", version


def _buffer_content(buffer: FlatBuffer, table: Table) -> memoryview | None:
    """The bytes of one buffer: inside the flatbuffer, or behind it for large models."""
    offset, size = table.integer(1, "Q"), table.integer(2, "Q")
    if offset <= 1:  # 1 marks a buffer that was to be placed later and never was
        inside = table.blob(0)
        return inside if inside is not None and inside.nbytes else None
    if offset + size > len(buffer.data):
        raise buffer.fail(table.offset, f"a buffer of {size} bytes at {offset}")
    return buffer.data[offset : offset + size] if size else None


def _read_subgraph(
    buffer: FlatBuffer,
    table: Table,
    codes: Sequence[_Code],
    contents: Sequence[memoryview | None],
) -> Subgraph:
    tensors: list[TensorInfo] = []
    constants: dict[int, memoryview] = {}
    described: list[tuple[int, Table]] = []
    for item in table.tables(0):
        info, content = _read_tensor(buffer, item, len(tensors), contents)
        if content is not None:
            constants[info.index] = content
        described.append((info.index, item))
        tensors.append(info)
    for index, item in described:
        tensors[index] = _with_quantization(buffer, item, tensors, index, constants)
    count = len(tensors)
    operators = tuple(
        _read_operator(buffer, item, index, codes, count)
        for index, item in enumerate(table.tables(3))
    )
    return Subgraph(
        name=table.text(4),
        tensors=tuple(tensors),
        operators=operators,
        inputs=_indices(buffer, table, 1, count),
        outputs=_indices(buffer, table, 2, count),
        constants=constants,
    )


def _indices(buffer: FlatBuffer, table: Table, field: int, tensors: int) -> tuple[int, ...]:
    found = table.integers(field)
    for index in found:
        if not -1 <= index < tensors:
            raise buffer.fail(table.offset, f"tensor index {index} of {tensors} tensors")
    return found


def _read_tensor(
    buffer: FlatBuffer, table: Table, index: int, contents: Sequence[memoryview | None]
) -> tuple[TensorInfo, memoryview | None]:
    code = table.integer(1, "b")
    if not 0 <= code < len(DTYPES):
        raise buffer.fail(table.offset, f"unknown tensor type {code}")
    place = table.integer(2, "I")
    if place >= len(contents):
        raise buffer.fail(table.offset, f"buffer {place} of {len(contents)} buffers")
    if table.integer(10, "I"):
        raise InputError(f"{buffer.name}: tensor {index} lies in another file; export in one file")
    shape = _read_shape(buffer, table)
    content = contents[place]
    dtype = DTYPES[code]
    is_sparse = table.table(6) is not None
    if content is not None and not is_sparse:
        _check_size(buffer, table, dtype, shape, content.nbytes)
    info = TensorInfo(
        index=index,
        name=table.text(3),
        dtype=dtype,
        shape=shape,
        is_constant=content is not None,
        is_variable=bool(table.value(5, "?", default=False)),
        stored_bytes=0 if content is None else content.nbytes,
    )
    return info, content


def _read_shape(buffer: FlatBuffer, table: Table) -> tuple[int, ...]:
    shape, signature = table.integers(0), table.integers(7)
    if len(signature) == len(shape) and signature:
        shape = signature
    if len(shape) > _MOST_AXES or min(shape, default=0) < -1:
        raise buffer.fail(table.offset, f"a tensor shape {list(shape[:_MOST_AXES])}")
    return shape


def _check_size(
    buffer: FlatBuffer, table: Table, dtype: str, shape: tuple[int, ...], found: int
) -> None:
    if dtype not in BITS or min(shape, default=1) < 0:
        return
    elements = 1
    for size in shape:
        elements *= size
    wanted = stored_size(elements, dtype)
    if wanted != found:
        what = f"{found} bytes of data for {dtype} {list(shape)}, which takes {wanted}"
        raise buffer.fail(table.offset, what)


def _with_quantization(
    buffer: FlatBuffer,
    table: Table,
    tensors: Sequence[TensorInfo],
    index: int,
    constants: dict[int, memoryview],
) -> TensorInfo:
    info = tensors[index]
    entry = table.table(4)
    if entry is None:
        return info
    if entry.integer(4, "B") == _BLOCKWISE:
        details = entry.table(5)
        found = None if details is None else _blockwise(buffer, details, tensors, info, constants)
    else:
        found = _affine(buffer, entry, info)
    if found is None:
        return info
    return TensorInfo(
        index=info.index,
        name=info.name,
        dtype=info.dtype,
        shape=info.shape,
        is_constant=info.is_constant,
        is_variable=info.is_variable,
        stored_bytes=info.stored_bytes,
        quantization=found,
    )


def _affine(buffer: FlatBuffer, entry: Table, info: TensorInfo) -> TensorQuantization | None:
    scales = entry.array(2, "<f4")
    if scales is None or not len(scales):
        return None
    points = entry.array(3, "<i8")
    axis = entry.integer(6, "i")
    if len(scales) > 1 and not 0 <= axis < len(info.shape):
        raise buffer.fail(entry.offset, f"quantized axis {axis} of shape {list(info.shape)}")
    return TensorQuantization(
        scales=scales,
        zero_points=np.zeros(1, np.int64) if points is None or not len(points) else points,
        axis=axis,
    )


def _blockwise(
    buffer: FlatBuffer,
    details: Table,
    tensors: Sequence[TensorInfo],
    info: TensorInfo,
    constants: dict[int, memoryview],
) -> TensorQuantization:
    """Blocks lie along the last axis; their scales are another constant tensor."""
    place, block = details.integer(0, "i"), details.integer(2, "i")
    if place not in constants or tensors[place].dtype not in ("float16", "float32"):
        raise buffer.fail(details.offset, f"block scales in tensor {place}, which holds none")
    if block < 1 or not info.shape:
        raise buffer.fail(details.offset, f"blocks of {block} elements in {list(info.shape)}")
    held = tensors[place]
    scales = decode_constant(constants[place], held.dtype, held.shape, where=buffer.name)
    return TensorQuantization(
        scales=scales.reshape(-1).astype(np.float32),
        zero_points=np.zeros(1, np.int64),
        axis=len(info.shape) - 1,
        block_size=block,
    )


def _read_operator(
    buffer: FlatBuffer, table: Table, index: int, codes: Sequence[_Code], tensors: int
) -> Operator:
    code = table.integer(0, "I")
    if code >= len(codes):
        raise buffer.fail(table.offset, f"operator code {code} of {len(codes)}")
    name, domain, version = codes[code]
    return Operator(
        index=index,
        name=name,
        domain=domain,
        version=version,
        inputs=_indices(buffer, table, 1, tensors),
        outputs=_indices(buffer, table, 2, tensors),
        attributes=_read_attributes(buffer, table),
    )


def _read_attributes(buffer: FlatBuffer, table: Table) -> dict[str, AttributeValue]:
    options = table.table(4)
    found: dict[str, AttributeValue] = {}
    if options is not None:
        for attribute, field, kind in OPTIONS.get(table.integer(3, "B"), ()):
            found[attribute] = _read_attribute(buffer, options, field, kind)
    if table.integer(11, "B") == _COMPOSITE_OPTIONS:
        composite = table.table(12)
        if composite is not None:
            found["composite"] = composite.text(0)
            found["decomposition_subgraph"] = composite.integer(1, "i")
    return found


def _read_attribute(buffer: FlatBuffer, options: Table, field: int, kind: str) -> AttributeValue:
    if kind == "v":
        return options.integers(field)
    if kind == "f":
        return float(options.value(field, "f", default=0.0))
    if kind == "?":
        return bool(options.value(field, "?", default=False))
    if kind.startswith("i"):
        return options.integer(field, "i", int(kind[1:] or 0))
    if kind == "b":
        return options.integer(field, "b")
    names = {"p": PADDINGS, "a": ACTIVATIONS, "t": DTYPES}[kind]
    code = options.integer(field, "b")
    if not 0 <= code < len(names):
        raise buffer.fail(options.offset, f"option {code} where 0..{len(names) - 1} are known")
    return names[code]


def _read_signature(buffer: FlatBuffer, table: Table, parts: Sequence[Subgraph]) -> Signature:
    place = table.integer(4, "I")
    if place >= len(parts):
        raise buffer.fail(table.offset, f"a signature of subgraph {place} of {len(parts)}")
    count = len(parts[place].tensors)
    return Signature(
        name=table.text(2),
        subgraph=place,
        inputs=_signature_pairs(buffer, table, 0, count),
        outputs=_signature_pairs(buffer, table, 1, count),
    )


def _signature_pairs(
    buffer: FlatBuffer, table: Table, field: int, tensors: int
) -> tuple[tuple[str, int], ...]:
    pairs = []
    for item in table.tables(field):
        index = item.integer(1, "I")
        if index >= tensors:
            raise buffer.fail(item.offset, f"tensor index {index} of {tensors} tensors")
        pairs.append((item.text(0), index))
    return tuple(pairs)
