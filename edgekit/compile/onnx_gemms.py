"""Products with a bias as ONNX Runtime computes them in integers: one Gemm over all rows."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekit.compile.onnx_model import initializers, replace_nodes


def join_biases(model: onnx.ModelProto) -> None:
    """Write each MatMul with a constant matrix and the Add of its bias as one Gemm.

    A session does so itself, but after quantization, when the bias is a float, which no integer
    Gemm takes; before it, its optimizer passes over products that look like attention's (1.31.1).
    Products whose shape is not known stay as they are: those have an integer kernel as they are.
    """
    constants, readers = initializers(model), _readers(model)
    shapes = {item.name: _shape(item) for item in (*model.graph.value_info, *model.graph.input)}
    joined: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        shape = shapes.get(node.input[0], ()) if node.op_type == "MatMul" else ()
        add = readers.get(node.output[0], [])
        if len(shape) < 3 or len(add) != 1 or add[0].op_type != "Add":
            continue
        bias = next((name for name in add[0].input if name != node.output[0]), "")
        if bias not in constants or node.input[1] not in constants:
            continue
        columns = list(constants[node.input[1]].dims)[1:]
        if len(columns) == 1 and list(constants[bias].dims) == columns:
            sizes = (*shape[:-1], columns[0])
            joined[add[0].name] = _gemm(model, node, add[0], bias, sizes)
            joined[node.name] = []
    nodes = [new for node in model.graph.node for new in joined.get(node.name, [node])]
    replace_nodes(model, nodes)


def _gemm(
    model: onnx.ModelProto,
    product: onnx.NodeProto,
    add: onnx.NodeProto,
    bias: str,
    sizes: tuple[int, ...],
) -> list[onnx.NodeProto]:
    """The nodes in the place of both; between them the rows of all samples stand in one matrix."""
    name, (rows, weight) = product.name, product.input
    flat, made = f"{name}_rows", f"{name}_sum"
    for end, shape in (("rows_shape", (-1, _width(model, weight))), ("shape", sizes)):
        values = numpy_helper.from_array(np.array(shape, np.int64), f"{name}_{end}")
        model.graph.initializer.append(values)
    return [
        helper.make_node("Reshape", [rows, f"{name}_rows_shape"], [flat], name=f"{name}_to_rows"),
        helper.make_node("Gemm", [flat, weight, bias], [made], name=name),
        helper.make_node("Reshape", [made, f"{name}_shape"], [add.output[0]], name=add.name),
    ]


def _width(model: onnx.ModelProto, weight: str) -> int:
    return int(initializers(model)[weight].dims[0])


def _readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    # What leaves the graph must keep its name.
    for item in model.graph.output:
        found.pop(item.name, None)
    return found


def _shape(item: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The sizes of a tensor; () where one of them is not known."""
    sizes = tuple(axis.dim_value for axis in item.type.tensor_type.shape.dim)
    return sizes if all(size > 0 for size in sizes) else ()
