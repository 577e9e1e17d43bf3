"""What a ``.pt2`` program says of its own inputs and outputs."""

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from edgekit.core.errors import CompileError

Interface = tuple[dict[str, tuple[str, tuple[int, ...]]], tuple[str, ...], bool]


def describe_program(program: ExportedProgram) -> Interface:
    """(dtype, shape of one sample) by input name, names of the outputs, whether the batch varies.

    Raises: CompileError when an axis other than the first varies, or an input is no tensor.
    """
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    names = [
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    ]
    inputs = {name: _describe(name, values.get(name)) for name in names}
    outputs = [
        spec for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT
    ]
    labels = tuple(f"output_{index}" for index in range(len(outputs)))
    is_dynamic = all(not isinstance(values[name].shape[0], int) for name in names)
    return inputs, labels if len(labels) > 1 else ("output",), is_dynamic


def _describe(name: str, value: object) -> tuple[str, tuple[int, ...]]:
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        raise CompileError(f"input '{name}' of the program is no tensor with a batch axis")
    shape = tuple(value.shape[1:])
    if not all(isinstance(length, int) for length in shape):
        raise CompileError(
            f"input '{name}' has shape {list(value.shape)}; only the first axis, the batch, may "
            "vary: export the program with the other axes fixed"
        )
    return str(value.dtype).removeprefix("torch."), shape
