"""What stays float between products of matrices, and that the rest of a graph does not."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_gemms import join_biases
from edgekit.compile.onnx_islands import float_islands, keep_floats_whole
from edgekit.compile.onnx_model import name_nodes


def graph_of(nodes, constants, shape, out, value_info=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        value_info=value_info,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    name_nodes(model)
    return model


def attention_like():
    """A product, its bias, a softmax under a mask, another product, a norm."""
    draw = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Add", ["sum", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["shares"]),
        helper.make_node("MatMul", ["shares", "v"], ["mixed"]),
        helper.make_node("Add", ["mixed", "x"], ["residual"]),
        helper.make_node("LayerNormalization", ["residual", "gain"], ["y"]),
    ]
    constants = {
        "w": draw.standard_normal((8, 8)).astype(np.float32),
        "v": draw.standard_normal((8, 8)).astype(np.float32),
        "bias": draw.standard_normal(8).astype(np.float32),
        "mask": np.float32([0, 0, 0, 0, 0, 0, -1e9, -1e9]),
        "gain": np.ones(8, np.float32),
    }
    return graph_of(nodes, constants, [2, 5, 8], [2, 5, 8])


def kinds(model, names):
    return sorted(node.op_type for node in model.graph.node if node.name in names)


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": x})[0]


def test_all_between_products_stays_float():
    model = attention_like()
    found = kinds(model, float_islands(model))
    assert found == ["Add", "Add", "Add", "LayerNormalization", "Softmax"]


def test_a_graph_of_convolutions_has_no_islands():
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["r", "r"], ["a"]),
        helper.make_node("Conv", ["a", "k"], ["d"]),
        helper.make_node("Flatten", ["d"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["y"]),
    ]
    constants = {"k": np.ones((3, 3, 1, 1), np.float32), "w": np.ones((12, 2), np.float32)}
    assert not float_islands(graph_of(nodes, constants, [1, 3, 2, 2], [1, 2]))


def test_convolutions_beside_products_keep_their_own_neighbours():
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("Add", ["c", "c"], ["a"]),
        helper.make_node("Conv", ["a", "k"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    constants = {
        "k": np.ones((3, 3, 1, 1), np.float32),
        "w": np.ones((4, 2), np.float32),
        "shape": np.int64([1, 3, 4]),
    }
    model = graph_of(nodes, constants, [1, 3, 2, 2], [1, 3, 2])
    assert kinds(model, float_islands(model)) == ["Relu", "Reshape"]


def test_a_product_with_its_bias_is_one_gemm_that_computes_the_same():
    model, x = attention_like(), np.random.default_rng(1).standard_normal((2, 5, 8))
    x = x.astype(np.float32)
    before = run(model, x)
    join_biases(model)
    onnx.checker.check_model(model)
    operators = [node.op_type for node in model.graph.node]
    # The second product's sum is with x, which is no bias.
    assert operators.count("Gemm") == 1
    assert operators.count("MatMul") == 1
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


def test_a_product_of_open_shape_stays_as_it_is():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
    ]
    constants = {"w": np.ones((8, 4), np.float32), "b": np.ones(4, np.float32)}
    model = graph_of(nodes, constants, ["batch", 5, 8], ["batch", 5, 4])
    join_biases(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Add"]


def test_float_nodes_read_what_was_not_rounded():
    constants = {
        "scale": np.float32(0.5),
        "zero": np.uint8(0),
        "w": np.eye(4, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Exp", ["x"], ["e"], name="before"),
        helper.make_node("QuantizeLinear", ["e", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["m"]),
        helper.make_node("Add", ["m", "d"], ["y"], name="residual"),
    ]
    model = graph_of(nodes, constants, [1, 4], [1, 4])
    keep_floats_whole(model, {"before", "residual"})
    x = np.float32([[0.1, 0.2, 0.3, 0.4]])
    exact = np.exp(x)
    np.testing.assert_allclose(run(model, x), np.rint(exact / 0.5) * 0.5 + exact, rtol=1e-6)
