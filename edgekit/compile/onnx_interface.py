"""The inputs and outputs of a graph under the contract's names."""

from collections.abc import Iterator
from typing import Any

import onnx

from edgekit.compile.onnx_model import initializers
from edgekit.core.contract import Contract
from edgekit.core.errors import CompileError


def rename_interface(model: onnx.ModelProto, contract: Contract) -> None:
    """Give inputs and outputs the contract's names, by position.

    Raises: CompileError when their number, dtypes or shapes are not the contract's.
    """
    graph = model.graph
    _require_same(graph.input, contract.inputs, "input")
    _require_same(graph.output, contract.outputs, "output")
    names_in = [item.name for item in contract.inputs]
    names_out = [item.name for item in contract.outputs]
    _free_names(model, {*names_in, *names_out})
    for item, want in zip(graph.input, contract.inputs, strict=True):
        _rename(model, item.name, want.name)
        for output in graph.output:
            if output.name == item.name:
                output.name = want.name
        item.name = want.name
        _name_axes(item, want.shape)
    for item, result in zip(graph.output, contract.outputs, strict=True):
        # An output may be an input or a constant itself, or stand there twice: copy its value.
        graph.node.append(onnx.helper.make_node("Identity", [item.name], [result.name]))
        item.name = result.name
        _name_axes(item, result.shape)
    _drop_identities(model, set(names_out))


def _require_same(found: Any, wanted: Any, kind: str) -> None:
    if len(found) != len(wanted):
        raise CompileError(
            f"the ONNX graph has {len(found)} {kind}s ({', '.join(item.name for item in found)}), "
            f"the contract {len(wanted)} ({', '.join(item.name for item in wanted)})"
        )
    for position, (item, want) in enumerate(zip(found, wanted, strict=True)):
        tensor = item.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        shape = [axis.dim_value or axis.dim_param for axis in tensor.shape.dim]
        fits = len(shape) == len(want.shape) and all(
            isinstance(length, str) or isinstance(expected, str) or length == expected
            for length, expected in zip(shape, want.shape, strict=True)
        )
        if dtype != want.dtype or not fits:
            raise CompileError(
                f"{kind} {position} ('{want.name}') is {dtype} {shape} in the ONNX graph, "
                f"{want.dtype} {list(want.shape)} in the contract"
            )


def _free_names(model: onnx.ModelProto, wanted: set[str]) -> None:
    """Rename inner tensors that carry a name which the contract wants."""
    taken = {name for node in model.graph.node for name in node.output}
    taken |= set(initializers(model)) | {item.name for item in model.graph.input}
    for name in sorted(wanted & taken):
        fresh = f"{name}.inner"
        while fresh in taken or fresh in wanted:
            fresh += "_"
        _rename(model, name, fresh)
        for item in (*model.graph.initializer, *model.graph.input, *model.graph.output):
            if item.name == name:
                item.name = fresh


def _rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in _nodes(model.graph):
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for item in node.attribute:
            if item.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(item.g)


def _drop_identities(model: onnx.ModelProto, outputs: set[str]) -> None:
    """Let the maker of a value write the output itself wherever nothing forbids it."""
    graph = model.graph
    makers = {name for node in graph.node for name in node.output}
    for node in list(graph.node):
        if node.op_type != "Identity" or node.output[0] not in outputs:
            continue
        source, result = node.input[0], node.output[0]
        if source in makers and source not in outputs:
            graph.node.remove(node)
            _rename(model, source, result)
            makers = {name for other in graph.node for name in other.output}


def _name_axes(item: onnx.ValueInfoProto, shape: tuple[int | str, ...]) -> None:
    for axis, length in zip(item.type.tensor_type.shape.dim, shape, strict=True):
        if isinstance(length, str):
            axis.dim_param = length
        elif not axis.dim_value:
            axis.dim_value = length
