"""Which module each constant of a .tflite came from.

litert-torch builds a tensor's name of the modules that it came from, class and attribute a level
(``models.Net/torch.nn.modules.conv.Conv2d_stem;``), one such text for each operator that was fused
into it. The same texts made from the captured graph lead back to module paths.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from edgekit.compile.facts import module_path
from edgekit.graph.model import Graph, Operator, Subgraph

_FLOATS = ("float32", "float16", "bfloat16", "int8", "int4", "int2", "int32")


def map_tensors(
    graph: Graph, program: ExportedProgram, with_weights: Collection[str]
) -> dict[str, str]:
    """Module path by tensor name, for every constant of floats that is more than one number.

    In this order: a parameter of the same value (perhaps transposed), the tensor's own name, the
    name of what its operator gives.
    """
    paths = {_hierarchy(node): module_path(node) for node in program.graph.nodes if _stack(node)}
    parameters = _parameters(program)
    found: dict[str, str] = {}
    subgraph = graph.subgraphs[0]
    for operator in subgraph.operators:
        for index in operator.inputs:
            info = subgraph.tensors[index] if index >= 0 else None
            if info is None or not info.is_constant or info.dtype != "float32":
                continue
            if info.elements <= 1 or info.name in found:
                continue
            value = graph.constant_array(index)
            path = (
                _by_value(value, parameters)
                or _by_name(info.name, paths, with_weights)
                or _by_outputs(operator, subgraph, paths, with_weights)
            )
            if path:
                found[info.name] = path
    return found


def map_own_names(graph: Graph) -> dict[str, str]:
    """For a user's file: every constant of floats answers to its own name."""
    subgraph = graph.subgraphs[0]
    used = {index for operator in subgraph.operators for index in operator.inputs if index >= 0}
    tensors = (subgraph.tensors[index] for index in sorted(used))
    return {
        item.name: item.name
        for item in tensors
        if item.is_constant and item.dtype == "float32" and item.elements > 1
    }


def follow_names(graph: Graph, paths: Mapping[str, str]) -> dict[str, str]:
    """The map for a graph that was quantized: constants that were copied keep their module."""
    found = {}
    for item in graph.subgraphs[0].tensors:
        if not item.is_constant or item.dtype not in _FLOATS:
            continue
        starts = [name for name in paths if item.name.startswith(name)]
        if starts:
            found[item.name] = paths[max(starts, key=len)]
    return found


def _parameters(program: ExportedProgram) -> dict[str, NDArray[Any]]:
    tensors = {**program.constants, **program.state_dict}
    return {
        name: value.detach().numpy()
        for name, value in tensors.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1
    }


def _by_value(value: NDArray[Any], parameters: Mapping[str, NDArray[Any]]) -> str:
    # A constant that is the same everywhere (zeros, ones) says nothing about where it is from.
    if value.size and (value == value.flat[0]).all():
        return ""
    for name, parameter in parameters.items():
        if parameter.size == value.size and _is_same(value, parameter):
            path, _, last = name.rpartition(".")
            return path if path and last in ("weight", "bias") else name
    return ""


def _is_same(value: NDArray[Any], parameter: NDArray[Any]) -> bool:
    flat = value.reshape(-1)
    if np.array_equal(flat, parameter.reshape(-1)) or np.array_equal(flat, parameter.T.reshape(-1)):
        return True
    # Convolutions: torch has (out, in, height, width), LiteRT (out, height, width, in).
    return parameter.ndim == 4 and any(
        np.array_equal(flat, parameter.transpose(order).reshape(-1))
        for order in ((0, 2, 3, 1), (1, 2, 3, 0))
    )


def _by_name(name: str, paths: Mapping[str, str], with_weights: Collection[str]) -> str:
    parts = [f"{part};" for part in name.split(";") if part]
    found = [paths[part] for part in parts if paths.get(part)]
    # Batch norm is folded into the convolution: of the two, the layer that has the weights.
    preferred = [path for path in found if path in with_weights]
    return (preferred or found or [""])[-1]


def _by_outputs(
    operator: Operator, subgraph: Subgraph, paths: Mapping[str, str], with_weights: Collection[str]
) -> str:
    names = [subgraph.tensors[index].name for index in operator.outputs if index >= 0]
    return next(filter(None, (_by_name(name, paths, with_weights) for name in names)), "")


def _stack(node: Node) -> list[tuple[str, object]]:
    return list((node.meta.get("nn_module_stack") or {}).values())


def _hierarchy(node: Node) -> str:
    levels = []
    for path, kind in _stack(node):
        name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"  # type: ignore[attr-defined]
        levels.append(f"{name}_{path.rpartition('.')[2]}" if path else name)
    return "/".join(levels) + ";"
