"""Which tensor is which: by name, by structure, and what is left over is named."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekit.compile.strip import strip_bytes
from edgekit.graph import read_graph
from edgekit.measure.layer_names import with_names
from edgekit.measure.layer_points import find_points
from tests.measure.quantized import net, quantized_bytes

BARE = strip_bytes(quantized_bytes(), "onnx", name="m")


def original():
    return read_graph(net().SerializeToString(), name="float")


def named():
    return with_names(read_graph(BARE, name="m"), read_graph(quantized_bytes(), name="n"))


def test_structure_finds_the_pairs_that_names_do():
    by_name = find_points(original(), named(), is_named=True)
    by_structure = find_points(original(), read_graph(BARE, name="m"), is_named=False)
    pairs = [[(item.tensor, item.float_tensor) for item in by_name.found]]
    pairs += [[(item.tensor, item.float_tensor) for item in by_structure.found]]
    assert pairs[0] == pairs[1]
    assert len(pairs[0]) == 7


def test_branches_in_another_order_keep_their_counterparts():
    model = net()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:2], nodes[3], nodes[2], *nodes[4:]])
    graph = read_graph(model.SerializeToString(), name="float")
    points = find_points(graph, read_graph(BARE, name="m"), is_named=False)
    again = find_points(graph, named(), is_named=True)
    tensors = graph.subgraphs[0].tensors
    for found in (points, again):
        names = [tensors[item.float_tensor].name for item in found.found if item.layers]
        assert sorted(names) == ["hidden", "left", "right", "scores"]
    assert [item.float_tensor for item in points.found] == [
        item.float_tensor for item in again.found
    ]


def test_sources_are_the_nearest_points_behind_an_operator():
    points = find_points(original(), named(), is_named=True).found
    by_name = {item.operator.name: item for item in points}
    places = {id(item): place for place, item in enumerate(points)}
    convolutions = [places[id(item)] for item in points if item.operator.name == "Conv"]
    assert by_name["Add"].sources == tuple(convolutions[1:])
    assert by_name["QuantizeLinear"].sources == ()


def test_an_operator_without_a_counterpart_is_left_over_by_name():
    model = net()
    for node in model.graph.node:
        node.output[:] = ["other" if name == "left" else name for name in node.output]
        node.input[:] = ["other" if name == "left" else name for name in node.input]
    points = find_points(read_graph(model.SerializeToString(), name="f"), named(), is_named=True)
    [left] = points.unmatched
    assert left.operator.name == "Conv"
    assert len(points.found) == 6


def linear(nodes, constants):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_bias_is_on_both_sides_or_on_none_whichever_operator_adds_it():
    weight, bias = np.eye(3, 4, dtype=np.float32), np.ones(4, np.float32)
    apart = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    joined = [
        helper.make_node("Gemm", ["x", "w", "b"], ["all"]),
        helper.make_node("Relu", ["all"], ["y"]),
    ]
    graphs = [
        read_graph(linear(nodes, {"w": weight, "b": bias}).SerializeToString(), name="g")
        for nodes in (apart, joined)
    ]
    for float_graph, graph in (graphs, graphs[::-1], graphs[:1] * 2, graphs[1:] * 2):
        [point] = find_points(float_graph, graph, is_named=False).found
        theirs = float_graph.subgraphs[0].tensors[point.float_tensor].name
        ours = graph.subgraphs[0].tensors[point.tensor].name
        assert {ours, theirs} in ({"sum", "all"}, {"product"}, {"all"})
