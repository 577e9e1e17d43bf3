"""A captured torch program as the bytes of a float .tflite, by litert-torch."""

import os
from types import TracebackType
from typing import Any

from torch.export import Dim, ExportedProgram
from torch.fx import Node

from edgekit.compile.capture import BATCH_AXIS, MODEL_ERRORS, first_line
from edgekit.compile.facts import module_path
from edgekit.compile.silence import silence
from edgekit.core.errors import CompileError, MissingDependencyError

_NO_LOWERING = "Lowering not found: "


def convert_program(program: ExportedProgram, *, is_dynamic: bool) -> bytes:
    """The float .tflite of a program; the same program gives the same bytes.

    64-bit integers become 32-bit ones, at inputs and outputs as well: most devices have no others.
    Raises: CompileError with the operator and its module path.
    """
    os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
    with silence():
        litert_torch, converter_error = _import()
        args = program.example_inputs[0] if program.example_inputs else ()
        axes = {0: Dim(BATCH_AXIS, min=1)}
        shapes = tuple(axes for _ in args) if is_dynamic else None
        try:
            model = litert_torch.convert(program.module(), tuple(args), dynamic_shapes=shapes)
            content: bytes = model.model_content()
        except (*MODEL_ERRORS, converter_error) as error:
            raise CompileError(_explain(error, program)) from error
    return content


def _import() -> tuple[Any, type[Exception]]:
    # Not at the top: importing it writes pages of notices about GPUs to stderr.
    try:
        import litert_torch  # noqa: PLC0415
        from litert_converter.mlir import ir  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"the LiteRT compiler needs litert-torch, which cannot be imported ({error}): "
            "pip install 'edgekit[litert]'"
        ) from error
    return litert_torch, ir.MLIRError


def _explain(error: BaseException, program: ExportedProgram) -> str:
    node = _failing_node(error)
    message = first_line(error)
    name = message.removeprefix(_NO_LOWERING) if message.startswith(_NO_LOWERING) else ""
    operator = name or (str(node.target) if node is not None else "")
    path = _path_of(node, operator, program)
    if name:
        return (
            f"LiteRT has no form of the operator {name}{path}; replace it in the model, or build "
            "for another target (`edgekit plan` lists every operator)"
        )
    place = f" at {operator}{path}" if operator else ""
    return f"litert-torch cannot convert the model{place}: {type(error).__name__}: {message}"


def _failing_node(error: BaseException) -> Node | None:
    found = None
    trace: TracebackType | None = error.__traceback__
    while trace:
        node = trace.tb_frame.f_locals.get("node")
        if isinstance(node, Node) and node.op == "call_function":
            found = node
        trace = trace.tb_next
    return found


def _path_of(node: Node | None, operator: str, program: ExportedProgram) -> str:
    nodes = [node] if node is not None else []
    nodes += [item for item in program.graph.nodes if str(item.target) == operator]
    path = next((module_path(item) for item in nodes if module_path(item)), "")
    return f" in '{path}'" if path else " in the model's own forward" if nodes else ""
