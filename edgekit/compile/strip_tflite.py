"""Stripping of .tflite: names, signatures and notes leave; what repeats is written once."""

from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgekit.core.errors import CompileError

_IDENTIFIER = b"TFL3"
# What the runtime reads: the oldest runtime that can run the file, and leave for float16.
_KEPT_METADATA = (b"min_runtime_version", b"reduced_precision_support")
# Offsets inside a flatbuffer are 32 bits wide, signed in places.
_MOST_INLINE_BYTES = 2**31 - 2**20
# XNNPACK and the reference kernels expect constants on such addresses (schema.fbs: force_align).
_ALIGNMENT = 16


def strip_tflite(data: bytes, name: str) -> bytes:
    """The same model without names, metadata and repetitions.

    Signatures stay only where there are several: then they are the way to the other subgraphs.
    Raises: CompileError when the result would not fit one flatbuffer.
    """
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    contents = [_content(item, data) for item in model.buffers or []]
    model.description = None
    model.metadataBuffer = None
    if len(model.signatureDefs or []) < 2:
        model.signatureDefs = None
    model.metadata = [item for item in model.metadata or [] if item.name in _KEPT_METADATA]
    for subgraph in model.subgraphs:
        _strip_subgraph(subgraph, data)
    model.buffers = _share_buffers(model, contents)
    if sum(len(item.data) for item in model.buffers[1:]) > _MOST_INLINE_BYTES:
        raise CompileError(f"{name}: more than 2 GiB of weights do not fit one .tflite")
    builder = _CompactBuilder(len(data) + 1024)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _content(buffer: Any, data: bytes) -> NDArray[np.uint8] | None:
    """A buffer's bytes, from inside the flatbuffer or from behind it."""
    if buffer.offset > 1:
        return np.frombuffer(data, np.uint8, count=buffer.size, offset=buffer.offset)
    if buffer.data is None or not len(buffer.data):
        return None
    return np.asarray(buffer.data, np.uint8)


def _strip_subgraph(subgraph: Any, data: bytes) -> None:
    subgraph.name = None
    subgraph.debugMetadataIndex = -1
    seen: dict[Any, _PackedOnce] = {}
    for tensor in subgraph.tensors or []:
        # Empty, not absent: other readers of the format take a name for granted.
        tensor.name = ""
        if tensor.shapeSignature is not None and (tensor.shapeSignature >= 0).all():
            tensor.shapeSignature = None
        tensor.quantization = _strip_quantization(tensor.quantization, seen)
    # CompiledModel finds the buffers of inputs and outputs by name where there is no signature.
    for letter, places in (("o", subgraph.outputs), ("i", subgraph.inputs)):
        for position, index in enumerate(_numbers(places)):
            subgraph.tensors[index].name = f"{letter}{position}"
    for operator in subgraph.operators or []:
        operator.debugMetadataIndex = -1
        _inline_custom_options(operator, data)
        if operator.builtinOptions is not None:
            operator.builtinOptions = _once(operator.builtinOptions, seen)


def _strip_quantization(entry: Any, seen: "dict[Any, _PackedOnce]") -> "_PackedOnce | None":
    """Scales without the statistics that they came from; None where there is nothing."""
    if entry is None:
        return None
    entry.min = entry.max = None
    has_scales = entry.scale is not None and len(entry.scale)
    if not has_scales and entry.details is None:
        return None
    if entry.details is not None:
        entry.details = _once(entry.details, seen)
    return _once(entry, seen)


def _inline_custom_options(operator: Any, data: bytes) -> None:
    if operator.largeCustomOptionsOffset > 1:
        operator.customOptions = np.frombuffer(
            data,
            np.uint8,
            count=operator.largeCustomOptionsSize,
            offset=operator.largeCustomOptionsOffset,
        )
        operator.largeCustomOptionsOffset = operator.largeCustomOptionsSize = 0


def _share_buffers(model: Any, contents: list[NDArray[np.uint8] | None]) -> list[Any]:
    """New buffers, each used; buffer 0 is the empty one of tensors without data.

    Equal constants share a buffer only where dtype, shape and scales are equal too: XNNPACK
    caches what it packed by the buffer's address, and packs the scales in.
    """
    buffers = [schema.BufferT()]
    places: dict[Any, int] = {}

    def place(key: Any, content: NDArray[np.uint8]) -> int:
        if key not in places:
            places[key] = len(buffers)
            buffers.append(schema.BufferT(data=content))
        return places[key]

    for subgraph in model.subgraphs:
        used = _used_tensors(subgraph)
        for index, tensor in enumerate(subgraph.tensors or []):
            content = contents[tensor.buffer]
            if content is None or index not in used:
                tensor.buffer = 0
                continue
            key = (tensor.type, _freeze(tensor.shape), tensor.isVariable, content.tobytes())
            tensor.buffer = place((*key, id(tensor.quantization)), content)
    for item in model.metadata:
        content = contents[item.buffer]
        item.buffer = 0 if content is None else place((item.name, content.tobytes()), content)
    return buffers


def _used_tensors(subgraph: Any) -> set[int]:
    """Tensors that an operator, the interface or another tensor's block scales refer to."""
    used = {*_numbers(subgraph.inputs), *_numbers(subgraph.outputs)}
    for operator in subgraph.operators or []:
        used.update(_numbers(operator.inputs), _numbers(operator.outputs))
        used.update(_numbers(operator.intermediates))
    for tensor in subgraph.tensors or []:
        entry = tensor.quantization
        if entry is not None and entry.content.details is not None:
            details = vars(entry.content.details.content)
            used.update(int(details.get(key, -1)) for key in ("scales", "zeroPoints"))
    return used


def _numbers(vector: NDArray[np.int32] | None) -> list[int]:
    return [] if vector is None else [int(item) for item in vector]


class _PackedOnce:
    """A table of the object API that is written once and pointed to from everywhere."""

    def __init__(self, content: Any) -> None:
        self.content = content
        self._offset: int | None = None

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802  (the object API's name)
        """The offset of the table, written on the first call."""
        if self._offset is None:
            self._offset = self.content.Pack(builder)
        return self._offset


def _once(content: Any, seen: dict[Any, _PackedOnce]) -> _PackedOnce:
    """One ``_PackedOnce`` for all tables with this content."""
    key = (type(content).__name__, *((name, _freeze(item)) for name, item in vars(content).items()))
    return seen.setdefault(key, _PackedOnce(content))


def _freeze(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, list):
        return tuple(_freeze(item) for item in value)
    return id(value) if isinstance(value, _PackedOnce) else value


class _CompactBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """A builder that aligns bytes at 16 and writes equal strings and number vectors once."""

    def __init__(self, initial_bytes: int) -> None:
        super().__init__(initial_bytes)
        self._written: dict[Any, int] = {}

    def _share(self, key: Any, write: Callable[[], int]) -> int:
        if key not in self._written:
            self._written[key] = write()
        return self._written[key]

    def CreateString(self, s: Any, *args: Any) -> int:  # noqa: N802
        return self._share(("text", s), lambda: super(_CompactBuilder, self).CreateString(s, *args))

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802
        if x.dtype == np.uint8:
            return self._aligned_bytes(x)
        write = super().CreateNumpyVector
        return self._share(_freeze(x), lambda: write(x))

    def _aligned_bytes(self, content: NDArray[np.uint8]) -> int:
        self.StartVector(1, content.size, _ALIGNMENT)
        self.head = self.Head() - content.size
        self.Bytes[self.Head() : self.Head() + content.size] = content.tobytes()
        self.vectorNumElems = content.size
        end: int = self.EndVector()
        return end
