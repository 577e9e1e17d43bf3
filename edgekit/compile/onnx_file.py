"""A user's own float .onnx file, checked and brought to the form that the steps expect."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import version_converter

from edgekit.compile.onnx_export import Exported
from edgekit.compile.onnx_model import (
    OPSET,
    check,
    first_line,
    initializers,
    load,
    name_nodes,
)
from edgekit.compile.onnx_names import follow_names, map_file_names
from edgekit.compile.onnx_static import preprocess
from edgekit.core.errors import CompileError
from edgekit.core.progress import Reporter

INTEGER_OPERATORS = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "MatMulInteger",
    "ConvInteger",
    "MatMulNBits",
)


def read_file(folder: Path, scratch: Path, reporter: Reporter) -> Exported:
    """A user's float ``model.onnx``, checked, with external data taken in and batch norm folded.

    Raises: CompileError when it is broken or quantized already.
    """
    model = _load_whole(folder)
    where = "model.onnx"
    check(model, where)
    _require_float(model, where)
    _drop_constant_inputs(model)
    model = _raise_opset(model, reporter)
    name_nodes(model)
    paths = map_file_names(model)
    model = preprocess(model, scratch)
    return Exported(model=model, paths=follow_names(model, paths))


def _load_whole(folder: Path) -> onnx.ModelProto:
    try:
        return load(folder)
    except (OSError, ValueError, DecodeError, onnx.checker.ValidationError) as error:
        raise CompileError(
            f"model.onnx or its external data cannot be read: {first_line(error)}; "
            "external data must lie beside the file"
        ) from error


def _require_float(model: onnx.ModelProto, where: str) -> None:
    for node in model.graph.node:
        if node.op_type in INTEGER_OPERATORS:
            raise CompileError(
                f"{where}: it holds {node.op_type}, so it is quantized already; give the float "
                "model that it was made from"
            )


def _drop_constant_inputs(model: onnx.ModelProto) -> None:
    """Before IR version 4 constants had to be inputs, too, and nothing could be folded."""
    constants = initializers(model)
    kept = [item for item in model.graph.input if item.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _raise_opset(model: onnx.ModelProto, reporter: Reporter) -> onnx.ModelProto:
    versions = {item.domain: item.version for item in model.opset_import}
    now = versions.get("", versions.get("ai.onnx", OPSET))
    if now >= OPSET:
        return model
    try:
        raised = version_converter.convert_version(model, OPSET)
    except (RuntimeError, ValueError) as error:
        raise CompileError(
            f"model.onnx: operator set {now} cannot be raised to {OPSET}, which INT4 needs: "
            f"{first_line(error)}; export the model again with a newer operator set"
        ) from error
    reporter.note(f"model.onnx: operator set {now} raised to {OPSET}")
    return raised
