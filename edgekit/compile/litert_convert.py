"""A captured torch program as the bytes of a float .tflite, by litert-torch."""

import os
from types import TracebackType

from torch.export import Dim, ExportedProgram
from torch.fx import Node

from edgekit.compile.capture import BATCH_AXIS, MODEL_ERRORS, first_line
from edgekit.compile.facts import module_path
from edgekit.compile.litert_rewrite import rewrite_
from edgekit.compile.silence import silence
from edgekit.core.errors import CompileError, MissingDependencyError

# Importing it writes pages of notices about GPUs to stderr.
with silence():
    try:
        import litert_torch
        from litert_converter.mlir.ir import MLIRError  # type: ignore[import-untyped]
        from litert_torch import fx_infra
        from litert_torch.backend import lowerings
    except ImportError as missing:
        raise MissingDependencyError(
            f"the LiteRT compiler needs litert-torch, which cannot be imported ({missing}): "
            "pip install 'edgekit[litert]'"
        ) from missing

_NO_LOWERING = "Lowering not found: "


def convert_program(program: ExportedProgram, *, is_dynamic: bool) -> bytes:
    """The float .tflite of a program; the same program gives the same bytes.

    is_dynamic: keep the batch axis open; else it is 1, whatever the program's own is.
    64-bit integers become 32-bit ones, at inputs and outputs as well: most devices have no others.
    Raises: CompileError with the operator and its module path.
    """
    os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
    args = program.example_inputs[0] if program.example_inputs else ()
    if not is_dynamic:
        args = tuple(value[:1] for value in args)
    shapes = tuple({0: Dim(BATCH_AXIS, min=1)} for _ in args) if is_dynamic else None
    with silence():
        try:
            module = program.module()
            rewrite_(module, is_dynamic=is_dynamic)
            model = litert_torch.convert(module, tuple(args), dynamic_shapes=shapes)
            content: bytes = model.model_content()
        except (*MODEL_ERRORS, MLIRError) as error:
            raise CompileError(_explain(error, program)) from error
    return content


def _explain(error: BaseException, program: ExportedProgram) -> str:
    message = first_line(error)
    node = _failing_node(error)
    has_form = node is not None and lowerings.lookup(node.target) is not None
    if message.startswith(_NO_LOWERING):
        operator = message.removeprefix(_NO_LOWERING)
        places = {operator: _path_of(node, operator, program)}
    else:
        # An operator that has a form and still fails is itself what is wrong.
        places = {} if has_form else _without_form(program)
    if places:
        named = ", ".join(f"{operator}{path}" for operator, path in places.items())
        return (
            f"LiteRT has no form of the operator {named}; replace it in the model, or build for "
            "another target (`edgekit plan` lists every operator)"
        )
    place = f" at {node.target}{_path(node)}" if node is not None else ""
    return f"litert-torch cannot convert the model{place}: {type(error).__name__}: {message}"


def _without_form(program: ExportedProgram) -> dict[str, str]:
    """Operators that stay without a lowering once everything was taken apart that can be."""
    try:
        apart = program.run_decompositions(fx_infra.decomp.pre_convert_decomp())
        # The first round keeps convolutions whole on purpose: they have a form after the second.
        apart = apart.run_decompositions(fx_infra.decomp.pre_lower_decomp())
    except MODEL_ERRORS:
        apart = program
    found = {}
    for node in apart.graph.nodes:
        is_operator = node.op == "call_function" and hasattr(node.target, "_schema")
        if is_operator and lowerings.lookup(node.target) is None:
            found[str(node.target)] = _path(node)
    return found


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
    return next((_path(item) for item in nodes if module_path(item)), "")


def _path(node: Node) -> str:
    path = module_path(node)
    return f" in '{path}'" if path else ""
