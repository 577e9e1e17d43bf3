"""What is inside a run, against numpy and against onnx's own way to add outputs."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.core.errors import SessionError
from edgekit.graph import read_graph
from edgekit.measure.watch import open_watch, with_outputs
from tests.measure.artifacts import (
    INPUT_SCALE,
    INPUT_ZERO,
    OUTPUT_SCALE,
    OUTPUT_ZERO,
    expected,
    write_int8_tflite,
)

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4) / 10
X = np.array([[1.0, -2.0, 0.5]], dtype=np.float32)


@pytest.fixture
def model():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Relu", ["product"], ["positive"]),
        helper.make_node("Neg", ["positive"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "inner",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_outputs_written_behind_a_model_are_those_that_onnx_adds(model):
    content = model.SerializeToString()
    names = ["product", "a" * 200, "positive"]
    longer = onnx.load_from_string(with_outputs(content, names))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    assert longer == model
    assert with_outputs(content, []) == content


def test_onnx_gives_inner_tensors_inputs_and_outputs(model):
    content = model.SerializeToString()
    graph = read_graph(content, name="m")
    tensors = {item.name: item.index for item in graph.subgraphs[0].tensors}
    watched = [tensors[name] for name in ("x", "product", "positive", "y")]
    watch = open_watch(content, graph, watched)
    with pytest.raises(SessionError, match="nothing was run"):
        watch.inside()
    [found] = watch.run([X])
    inside = watch.inside()
    np.testing.assert_allclose(inside[tensors["product"]], X @ WEIGHT, rtol=1e-6)
    np.testing.assert_allclose(inside[tensors["positive"]], np.maximum(X @ WEIGHT, 0), rtol=1e-6)
    np.testing.assert_array_equal(inside[tensors["y"]], found)
    np.testing.assert_array_equal(inside[tensors["x"]], X)
    assert len(watch.outputs) == 1
    watch.close()


def test_the_plain_session_gives_the_same_output(model):
    content = model.SerializeToString()
    graph = read_graph(content, name="m")
    watch = open_watch(content, graph, [item.index for item in graph.subgraphs[0].tensors[-2:]])
    plain = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(watch.run([X])[0], plain.run(None, {"x": X})[0])
    watch.close()


def test_litert_keeps_what_it_would_overwrite(tmp_path):
    write_int8_tflite(tmp_path)
    content = (tmp_path / "model.tflite").read_bytes()
    watch = open_watch(content, read_graph(content, name="m"), [0, 3])
    x = np.array([[10, -20, 30]], dtype=np.int8)
    [found] = watch.run([x])
    inside = watch.inside()
    np.testing.assert_array_equal(inside[0], x)
    np.testing.assert_array_equal(inside[3], found)
    reals = expected((x.astype(np.float64) - INPUT_ZERO) * INPUT_SCALE)
    stored = np.rint(reals / OUTPUT_SCALE) + OUTPUT_ZERO
    assert np.abs(inside[3] - stored).max() <= 1  # weights are rounded, too
    watch.close()
    with pytest.raises(SessionError, match="closed"):
        watch.inside()
