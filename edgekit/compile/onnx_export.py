"""A captured torch program as a float ONNX model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch.onnx import OnnxExporterError

from edgekit.compile.onnx_model import OPSET, first_line
from edgekit.compile.onnx_names import map_torch_names
from edgekit.compile.silence import silence
from edgekit.core.errors import CompileError

_TARGET = re.compile(r"target=torch\.ops\.([\w.]+)")
_OVERLOAD = re.compile(r"OpOverload\(op='([\w.]+)', overload='(\w+)'\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A float graph and the module path of each of its constants."""

    model: onnx.ModelProto
    paths: dict[str, str]


def export_program(program: torch.export.ExportedProgram) -> Exported:
    """The program as ONNX, batch norm folded.

    Raises: CompileError naming the operator and its module where ONNX has no form for it.
    """
    try:
        with silence():
            exported = torch.onnx.export(
                program, dynamo=True, verbose=False, optimize=True, opset_version=OPSET
            )
    except OnnxExporterError as error:
        raise CompileError(_explain(error, program)) from error
    if exported is None:
        raise CompileError("torch.onnx.export gave no program; this is a defect of the exporter")
    model: onnx.ModelProto = exported.model_proto
    parameters = _parameters(program)
    return Exported(model=model, paths=map_torch_names(model, parameters))


def _parameters(program: torch.export.ExportedProgram) -> dict[str, np.ndarray[Any, Any]]:
    state: Mapping[str, Any] = {**program.constants, **program.state_dict}
    return {
        # numpy has no bfloat16.
        name: value.detach().cpu().float().numpy()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }


def _explain(error: OnnxExporterError, program: torch.export.ExportedProgram) -> str:
    operator = ""
    link: BaseException | None = error
    while link is not None:
        found = _TARGET.search(str(link)) or _OVERLOAD.search(str(link))
        if found:
            operator = found.group(1)
            break
        link = link.__cause__
    if not operator:
        return f"torch.onnx.export cannot convert the model: {first_line(error)}"
    name, path = _place(operator, program)
    where = f"at module '{path}'" if path else "in the model's own forward"
    return (
        f"{name} {where} has no ONNX form in torch {torch.__version__}; write it with operators "
        "that ONNX has, or choose another target (`edgekit plan` shows what each supports)"
    )


def _place(operator: str, program: torch.export.ExportedProgram) -> tuple[str, str]:
    """The captured operator that the exporter's (perhaps decomposed) one came from."""
    short = operator.replace("::", ".").split(".")[1]
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        captured = str(node.target)
        base = captured.split(".")[1] if "." in captured else captured
        if base == short or base.endswith(f"_{short}"):
            stack = node.meta.get("nn_module_stack") or {}
            path = list(stack.values())[-1][0] if stack else ""
            return captured, str(path)
    return operator, ""
