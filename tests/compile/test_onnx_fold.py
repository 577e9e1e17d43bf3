"""Constant look-ups are answered before the model runs, and nothing else is touched."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_fold import fold_layouts, fold_lookups

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model_of(nodes, constants, *, outputs=("y",), rank=2):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [3, 4])],
        [helper.make_tensor_value_info(name, FLOAT, [None] * rank) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    return model


def run(model):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    return session.run(None, {"x": x})


TABLE = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("operator", "axis", "places"),
    [
        ("Gather", 0, np.array([5, 0, -1])),
        ("Gather", 1, np.array([[0, 3], [1, -1]])),
        ("GatherElements", 0, np.array([[7, -8, 2, 3], [0, 1, -1, 3], [2, 2, 2, 2]])),
        ("GatherElements", 0, np.array([[7, -8], [0, 1]])),  # a corner of the other axis
        ("GatherElements", -1, np.array([[3], [-4], [1]])),
    ],
)
def test_a_constant_look_up_is_answered_as_onnx_runtime_does(operator, axis, places):
    rank = 3 if operator == "Gather" and places.ndim == 2 else 2
    constants = {"table": TABLE, "places": places, "one": np.ones(1, np.float32)}
    nodes = [
        helper.make_node(operator, ["table", "places"], ["rows"], axis=axis),
        helper.make_node("Mul", ["rows", "one"], ["y"]),
    ]
    model = model_of(nodes, constants, rank=rank)
    expected = run(model)[0]
    paths = fold_lookups(model, {"table": "net.positions"})
    assert [node.op_type for node in model.graph.node] == ["Mul"]
    np.testing.assert_array_equal(run(model)[0], expected)
    assert paths["rows"] == "net.positions"


def test_a_look_up_of_a_look_up_is_answered():
    constants = {"ids": np.arange(8)[::-1].copy(), "first": np.arange(3), "table": TABLE}
    nodes = [
        helper.make_node("Gather", ["ids", "first"], ["some"]),
        helper.make_node("Gather", ["table", "some"], ["rows"]),
        helper.make_node("Add", ["rows", "x"], ["y"]),
    ]
    model = model_of(nodes, constants)
    expected = run(model)[0]
    assert "rows" not in fold_lookups(model, {})
    assert [node.op_type for node in model.graph.node] == ["Add"]
    np.testing.assert_array_equal(run(model)[0], expected)


def test_what_depends_on_an_input_or_is_an_output_stays():
    constants = {"table": TABLE, "places": np.arange(3), "rows": np.array([0, 1])}
    nodes = [
        helper.make_node("Gather", ["table", "places"], ["z"]),
        helper.make_node("Gather", ["x", "rows"], ["y"]),
    ]
    model = model_of(nodes, constants, outputs=("y", "z"))
    assert fold_lookups(model, {}) == {}
    assert [node.op_type for node in model.graph.node] == ["Gather", "Gather"]


def recurrent(*extra):
    """A weight that is cut in two, put together the other way round, and turned."""
    nodes = [
        helper.make_node("Slice", ["w", "zero", "four", "zero"], ["top"]),
        helper.make_node("Slice", ["w", "four", "eight", "zero"], ["bottom"]),
        helper.make_node("Concat", ["bottom", "top"], ["swapped"], axis=0),
        helper.make_node("Transpose", ["swapped"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"]),
        *extra,
    ]
    constants = {
        "w": TABLE,
        "zero": np.array([0]),
        "four": np.array([4]),
        "eight": np.array([8]),
    }
    outputs = ("y", "z") if extra else ("y",)
    return model_of(nodes, constants, outputs=outputs)


def test_a_weight_that_is_cut_and_joined_becomes_one_constant_of_its_module():
    model = recurrent()
    expected = run(model)[0]
    paths = fold_layouts(model, {"w": "net.rnn"})
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    assert paths["turned"] == "net.rnn"
    np.testing.assert_array_equal(run(model)[0], expected)


def test_a_weight_that_is_also_read_as_it_is_is_not_shipped_twice():
    model = recurrent(helper.make_node("Gather", ["w", "four"], ["z"]))
    assert fold_layouts(model, {"w": "net.rnn"}) == {"w": "net.rnn"}
    assert [node.op_type for node in model.graph.node][:4] == [
        *("Slice", "Slice", "Concat", "Transpose")
    ]
    assert len(run(model)) == 2
