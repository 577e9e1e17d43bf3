"""A model with a flat interface: tensors in by position, a tuple of the named outputs out."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx.graph import CodeGen
from torch.utils._pytree import tree_leaves, tree_unflatten

from edgekit.core.errors import WorkloadError


def flatten_interface(
    model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> nn.Module:
    """The same model (the same weights, the same module paths) with a flat ``forward``.

    Inputs go to the parameters of ``forward`` that bear their names, or by position where the
    names differ. It is a shallow copy of a derived class and not a wrapper around the model, so
    that module paths stay as the user knows them.
    Raises: WorkloadError for a model with forward hooks of its own, which see the old interface.
    """
    if model._forward_hooks or model._forward_pre_hooks:  # noqa: SLF001  # torch has no other way
        raise WorkloadError(
            "the model has forward hooks on its outermost module; remove them, or register them "
            "on an inner module"
        )
    is_named = takes_by_name(model, inputs)
    original = type(model).forward

    def forward(self: nn.Module, *args: Tensor) -> tuple[Tensor, ...]:
        if is_named:
            return select_outputs(original(self, **dict(zip(inputs, args, strict=True))), outputs)
        return select_outputs(original(self, *args), outputs)

    flat = copy.copy(model)
    # The class keeps its name: it is part of the names of tensors in a .tflite file.
    body = {"forward": forward, "__module__": type(model).__module__}
    flat.__class__ = type(type(model).__name__, (type(model),), body)
    return flat


def flatten_program(
    program: ExportedProgram, inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> nn.Module:
    """The graph of a program with a flat interface.

    torch.export reads the interface of a graph module from its graph and not from ``forward``, so
    it is the graph's own inputs and outputs that are put in order.
    """
    spec = program.call_spec.out_spec
    unlifted = program.module()
    graph = unlifted.graph
    graph.set_codegen(CodeGen())
    placeholders = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    if set(inputs) == set(placeholders):
        first = next(iter(graph.nodes))
        for name in inputs:
            first.prepend(placeholders[name])
    output = next(node for node in graph.nodes if node.op == "output")
    flat = tree_leaves(output.args[0])
    # Numbers in the places of the outputs show which of them each name stands for.
    numbers = tree_unflatten([torch.tensor(i) for i in range(len(flat))], spec)
    chosen = select_outputs(numbers, outputs)
    output.args = (tuple(flat[int(number)] for number in chosen),)
    module = GraphModule(unlifted, graph)
    module.training = False
    return module


def takes_by_name(model: nn.Module, inputs: tuple[str, ...]) -> bool:
    """Whether a model's ``forward`` has parameters of these names."""
    return set(inputs) <= set(_parameter_names(model)) and bool(inputs)


def _parameter_names(model: nn.Module) -> tuple[str, ...]:
    parameters = inspect.signature(type(model).forward).parameters.values()
    return tuple(item.name for item in parameters if item.kind is not item.POSITIONAL_ONLY)


def select_outputs(result: Any, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """The named outputs of what a model returned: a tensor, a sequence, a dict or a dataclass.

    Of a dict or dataclass the named ones are taken; a sequence must have as many as are named.
    Raises: WorkloadError that says what came.
    """
    by_name = _by_name(result)
    if by_name is not None and (isinstance(result, Mapping) or set(names) <= set(by_name)):
        return tuple(_named(by_name, name) for name in names)
    found = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    if len(found) != len(names):
        raise WorkloadError(
            f"the workload names {len(names)} outputs ({', '.join(names)}), the model returns "
            f"{len(found)}: {', '.join(_described(item) for item in found)}; name each of them"
        )
    for name, value in zip(names, found, strict=True):
        _require_tensor(name, value)
    return found


def _by_name(result: Any) -> dict[str, Any] | None:
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    if is_dataclass(result) and not isinstance(result, type):
        return {item.name: getattr(result, item.name) for item in fields(result)}
    if isinstance(result, tuple) and hasattr(result, "_asdict"):
        return dict(result._asdict())
    return None


def _named(by_name: Mapping[str, Any], name: str) -> Tensor:
    if name not in by_name:
        there = ", ".join(f"'{key}'" for key in by_name)
        raise WorkloadError(f"the model returns no output '{name}'; it returns: {there}")
    return _require_tensor(name, by_name[name])


def _require_tensor(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise WorkloadError(f"output '{name}' is a {_described(value)}; it must be a tensor")
    return value


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}".replace("torch.", "")
    return type(value).__name__
