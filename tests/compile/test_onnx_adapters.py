"""A layer with an adapter in static INT8 by ONNX Runtime: the adapter's factors are not rounded."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_quantize import apply
from edgekit.compile.onnx_ranges import Samples
from edgekit.core.progress import Reporter
from edgekit.core.strategy import Quantize
from edgekit.data.dataset import DatasetWriter, add_choices, open_dataset

IN, MIDDLE, OUT, RANK = 12, 32, 24, 3
SIZE = RANK * (MIDDLE + OUT)
DRAW = np.random.default_rng(0)


def drawn(*shape, size=1.0):
    return (DRAW.standard_normal(shape) * size).astype(np.float32)


WEIGHTS = {"first": drawn(IN, MIDDLE, size=0.3), "second": drawn(MIDDLE, OUT, size=0.2)}
# The factors of A are a hundred times those of B: one INT8 scale would leave B nothing.
ROWS = np.zeros((2, SIZE), np.float32)
ROWS[1, : RANK * MIDDLE] = drawn(RANK * MIDDLE, size=2.0)
ROWS[1, RANK * MIDDLE :] = drawn(RANK * OUT, size=0.02)


def by_hand(x, row):
    hidden = np.maximum(x @ WEIGHTS["first"], 0)
    down, up = row[: RANK * MIDDLE].reshape(RANK, MIDDLE), row[RANK * MIDDLE :].reshape(OUT, RANK)
    return hidden @ WEIGHTS["second"] + hidden @ down.T @ up.T


def graph():
    """The same as ONNX, as the exporter writes it for a batch of 1."""
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h0"], name="first_product"),
        helper.make_node("Relu", ["h0"], ["h"], name="relu"),
        helper.make_node("MatMul", ["h", "second"], ["own"], name="second_product"),
        helper.make_node("Slice", ["row", "start_a", "end_a", "axes"], ["a"], name="cut_a"),
        helper.make_node("Slice", ["row", "start_b", "end_b", "axes"], ["b"], name="cut_b"),
        helper.make_node("Reshape", ["a", "shape_a"], ["a2"], name="shape_a"),
        helper.make_node("Reshape", ["b", "shape_b"], ["b2"], name="shape_b"),
        helper.make_node("Transpose", ["a2"], ["a3"], name="turn_a", perm=[0, 2, 1]),
        helper.make_node("Transpose", ["b2"], ["b3"], name="turn_b", perm=[0, 2, 1]),
        helper.make_node("Reshape", ["h", "shape_h"], ["h2"], name="shape_h"),
        helper.make_node("MatMul", ["h2", "a3"], ["down"], name="down"),
        helper.make_node("MatMul", ["down", "b3"], ["up"], name="up"),
        helper.make_node("Reshape", ["up", "shape_y"], ["change"], name="shape_y"),
        helper.make_node("Add", ["own", "change"], ["y"], name="sum"),
    ]
    whole = {
        "axes": [1],
        "start_a": [0],
        "end_a": [RANK * MIDDLE],
        "start_b": [RANK * MIDDLE],
        "end_b": [SIZE],
        "shape_a": [1, RANK, MIDDLE],
        "shape_b": [1, OUT, RANK],
        "shape_h": [1, 1, MIDDLE],
        "shape_y": [1, OUT],
    }
    constants = [numpy_helper.from_array(value, name) for name, value in WEIGHTS.items()]
    constants += [numpy_helper.from_array(np.array(item), name) for name, item in whole.items()]
    sizes = {"x": IN, "row": SIZE, "y": OUT}
    tensors = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in sizes.items()
    }
    made = helper.make_graph(
        nodes, "adapted", [tensors["x"], tensors["row"]], [tensors["y"]], constants
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration") / "set"
    with DatasetWriter(folder) as writer:
        for _ in range(64):
            writer.append({"x": drawn(IN)})
    add_choices(folder, "adapter", ROWS)
    return Samples(
        dataset=lambda: open_dataset(folder),
        batch=1,
        inputs={"x": "x", "adapter": "row"},
        reporter=Reporter(stage="test"),
        adapter="row",
    )


@pytest.mark.parametrize("is_unsigned", [True, False])
def test_factors_stay_float_and_layers_are_integers(samples, tmp_path, is_unsigned):
    settings = Quantize(precision="int8", activations="static", is_unsigned=is_unsigned)
    model = apply(graph(), {}, settings, samples, tmp_path).model
    onnx.checker.check_model(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    reads_row = [node.op_type for node in model.graph.node if "row" in node.input]
    assert reads_row == ["Slice", "Slice"]
    products = {node.name: node for node in model.graph.node if node.op_type == "MatMul"}
    assert {makers[products[name].input[1]].op_type for name in ("down", "up")} == {"Transpose"}
    for weight in WEIGHTS:
        (layer,) = (item for item in model.graph.node if f"{weight}_Deq" in " ".join(item.input))
        assert {makers[name].op_type for name in layer.input[:2]} == {"DequantizeLinear"}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = drawn(20, IN)
    for row in ROWS:
        found = np.concatenate(
            [session.run(None, {"x": item[None], "row": row[None]})[0] for item in x]
        )
        expected = by_hand(x, row)
        # Two layers of INT8 round to about a hundredth of the span.
        assert np.abs(found - expected).max() < 0.04 * np.ptp(expected)
    difference = by_hand(x, ROWS[1]) - by_hand(x, ROWS[0])
    assert np.abs(difference).max() > 0.1 * np.ptp(expected)
