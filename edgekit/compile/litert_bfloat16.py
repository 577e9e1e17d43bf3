"""Weights of a .tflite kept as bfloat16, each behind a CAST to float32.

LiteRT's CAST takes bfloat16, its DEQUANTIZE does not (2.3.0). It runs at every invocation, and
XNNPACK leaves a layer whose weights are no constant to slower kernels: ResNet-20 takes 4 times as
long as in float (x86-64, one thread, 2026-11). Half-precision floats have the same bytes and
float's speed.
"""

from collections.abc import Collection
from typing import Any

import flatbuffers
import ml_dtypes
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgekit.core.errors import StepError

_IDENTIFIER = b"TFL3"
SUFFIX = "_bf16"


def store_as_bfloat16(content: bytes, names: Collection[str]) -> bytes:
    """The file with these float32 constants of its main subgraph as bfloat16.

    names: of their tensors. Raises: StepError for a value past bfloat16's range.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    subgraph = model.subgraphs[0]
    cast = _add_cast_code(model)
    wanted = [
        index
        for index, item in enumerate(subgraph.tensors)
        if item.type == schema.TensorType.FLOAT32 and _name(item) in names
    ]
    casts = [_cast(model, subgraph, index, cast, content) for index in wanted]
    subgraph.operators = [*casts, *subgraph.operators]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _add_cast_code(model: Any) -> int:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CAST
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _cast(model: Any, subgraph: Any, index: int, code: int, content: bytes) -> Any:
    """Move a constant into a new tensor of bfloat16; the operator that fills the old one again."""
    wide = subgraph.tensors[index]
    values = _floats(model.buffers[wide.buffer], content)
    name = _name(wide)
    if np.abs(values).max(initial=0) > float(ml_dtypes.finfo(ml_dtypes.bfloat16).max):
        raise StepError(
            f"quantize: {name} has values past bfloat16's range; keep that layer in float "
            "(--layer PATTERN=float)"
        )
    small = schema.TensorT()
    small.name, small.shape, small.hasRank = f"{name}{SUFFIX}", wide.shape, True
    small.type, small.buffer = schema.TensorType.BFLOAT16, len(model.buffers)
    stored = values.astype(ml_dtypes.bfloat16).view(np.uint8)
    model.buffers.append(schema.BufferT(data=stored))
    subgraph.tensors.append(small)
    wide.buffer = 0
    options = schema.CastOptionsT()
    options.inDataType, options.outDataType = schema.TensorType.BFLOAT16, schema.TensorType.FLOAT32
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.builtinOptions = code, options
    operator.builtinOptionsType = schema.BuiltinOptions.CastOptions
    operator.inputs = np.array([len(subgraph.tensors) - 1], np.int32)
    operator.outputs = np.array([index], np.int32)
    return operator


def _name(tensor: Any) -> str:
    return tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name or ""


def _floats(buffer: Any, content: bytes) -> NDArray[np.float32]:
    """A constant's values, from inside the flatbuffer or from behind it."""
    if buffer.offset > 1:
        raw = content[buffer.offset : buffer.offset + buffer.size]
        return np.frombuffer(raw, np.float32)
    return np.asarray(buffer.data, np.uint8).view(np.float32)
