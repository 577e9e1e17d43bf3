"""Which module a constant of an exported graph came from."""

import ast
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx

from edgekit.compile.onnx_model import array_of, used_names

_SCOPES = "pkg.torch.onnx.name_scopes"
_GRID = re.compile(r"_(scales?|zero_points?)($|_)")
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
# What ONNX Runtime's fusions put before or after the name of a constant that they changed.
_FUSION_PREFIXES = ("ConvBnFusion_W_", "ConvMulFusion_W_", "ConvAddFusion_Add_B_")


def module_of(parameter: str) -> str:
    """The module path of a parameter: its name without ``.weight`` or ``.bias``."""
    path, _, last = parameter.rpartition(".")
    return path if path and last in ("weight", "bias") else parameter


def map_torch_names(
    model: onnx.ModelProto, parameters: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, str]:
    """Module path by name for every constant of floats that is more than one number.

    In this order: the parameter of that name, the parameter that its name begins with (a bias that
    was folded), the parameter of that value (perhaps transposed), the module of the node that
    reads it. Needs the exporter's metadata: call it before they are taken out.
    """
    scopes = _scopes_of_readers(model)
    found = {}
    for tensor in model.graph.initializer:
        if tensor.data_type not in _FLOATS or np.prod(tensor.dims, dtype=int) <= 1:
            continue
        name = (
            _by_name(tensor.name, parameters)
            or _by_value(array_of(tensor), parameters)
            or scopes.get(tensor.name)
        )
        if name:
            found[tensor.name] = module_of(name)
    return found


def map_file_names(model: onnx.ModelProto) -> dict[str, str]:
    """For a user's file: every constant of floats answers to its own name."""
    used = used_names(model.graph)
    return {
        item.name: item.name
        for item in model.graph.initializer
        if item.data_type in _FLOATS and item.dims and item.name in used
    }


def follow_names(model: onnx.ModelProto, paths: Mapping[str, str]) -> dict[str, str]:
    """The map for a graph that a tool rewrote: new constants keep the path of their old name.

    Scales and zero points are left out: they say how a weight is stored and are none.
    """
    found = {}
    for tensor in model.graph.initializer:
        name = tensor.name
        if name not in paths and _GRID.search(name):
            continue
        for prefix in _FUSION_PREFIXES:
            name = name.removeprefix(prefix)
        old = name if name in paths else _longest_start(name, paths)
        if old:
            found[tensor.name] = paths[old]
    return found


def _by_name(name: str, parameters: Iterable[str]) -> str | None:
    return name if name in set(parameters) else _longest_start(name, parameters)


def _longest_start(name: str, known: Iterable[str]) -> str | None:
    starts = [item for item in known if name.startswith((f"{item}_", f"{item}."))]
    return max(starts, key=len, default=None)


def _by_value(
    value: np.ndarray[Any, Any], parameters: Mapping[str, np.ndarray[Any, Any]]
) -> str | None:
    for name, parameter in parameters.items():
        if parameter.size != value.size:
            continue
        if parameter.shape == value.shape and np.array_equal(parameter, value):
            return name
        if parameter.T.shape == value.shape and np.array_equal(parameter.T, value):
            return name
    return None


def _scopes_of_readers(model: onnx.ModelProto) -> dict[str, str]:
    scopes: dict[str, str] = {}
    for node in model.graph.node:
        stack = next((item.value for item in node.metadata_props if item.key == _SCOPES), "[]")
        modules = [name for name in ast.literal_eval(stack)[:-1] if name]
        for name in node.input:
            if modules:
                scopes.setdefault(name, modules[-1])
    return scopes
