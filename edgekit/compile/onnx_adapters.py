"""The products with an adapter stay float in a static INT8 graph, between layers in integers."""

from collections.abc import Iterable, Mapping

import onnx
from onnx import helper

from edgekit.compile.onnx_model import replace_nodes

# What a change x A^T B^T is made of: the pieces of the row, and the products.
_PRODUCTS = ("FusedMatMul", "MatMul")
_MOVES = ("Reshape", "Squeeze", "Transpose", "Unsqueeze")
_PIECES = ("Gather", "Slice", "Split")


def adapter_nodes(model: onnx.ModelProto, adapter: str) -> frozenset[str]:
    """The nodes that cut an adapter out of an input and multiply with it.

    One scale for all factors of all layers would leave the small ones few of its 256 steps. The sum
    with the layer's own result is no longer among them.
    """
    reached, chosen = {adapter}, set()
    for node in model.graph.node:
        is_ours = node.op_type in (*_PRODUCTS, *_MOVES, *_PIECES)
        if is_ours and reached.intersection(node.input):
            reached.update(node.output)
            chosen.add(node.name)
    return frozenset(chosen)


def close_moves(model: onnx.ModelProto, floats: Iterable[str]) -> None:
    """Put a pair of its own behind integers that are only moved on their way to these nodes.

    ONNX Runtime (1.31.1, x86) puts one there itself, whose ``output_dtype`` stays INT8 when it then
    turns signed integers into unsigned ones, and refuses the model.
    """
    chosen = set(floats)
    makers = {name: node for node in model.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.name in chosen and node.op_type in _PRODUCTS:
            for place, name in enumerate(node.input):
                source = _moved_from(name, makers)
                if source is not None:
                    pair = _pair(name, source, node.name)
                    nodes.extend(pair)
                    node.input[place] = pair[-1].output[0]
        nodes.append(node)
    replace_nodes(model, nodes)


def _moved_from(name: str, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The DequantizeLinear whose result a value is, in another shape alone."""
    move = makers.get(name)
    source = makers.get(move.input[0]) if move is not None and move.op_type in _MOVES else None
    return source if source is not None and source.op_type == "DequantizeLinear" else None


def _pair(name: str, source: onnx.NodeProto, reader: str) -> list[onnx.NodeProto]:
    """Into the integers that a value came from, and back: nothing is lost."""
    start, grid = f"{name}_of_{reader}", list(source.input[1:])
    stored, real = f"{start}_stored", f"{start}_real"
    return [
        helper.make_node("QuantizeLinear", [name, *grid], [stored], name=f"{start}_QuantizeLinear"),
        helper.make_node("DequantizeLinear", [stored, *grid], [real], name=f"{start}_Dequantize"),
    ]
