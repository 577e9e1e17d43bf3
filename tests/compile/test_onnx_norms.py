"""Sums before norms."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_norms import part_sums_from_norms

SHAPE = (1, 4, 8)


def residual(*, is_bias=False):
    """x + y (or x + a constant), normalized."""
    generator = np.random.default_rng(0)
    floats = {"weight": SHAPE[-1:], "shift": SHAPE[-1:], "bias": SHAPE[-1:]}
    nodes = [
        helper.make_node("Add", ["x", "bias" if is_bias else "y"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "weight", "shift"], ["z"], epsilon=1e-5),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy"],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, SHAPE)],
        [
            numpy_helper.from_array(generator.normal(size=shape).astype(np.float32), name)
            for name, shape in floats.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model, tmp_path):
    """The answer, and the operators that ONNX Runtime made of the graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    generator = np.random.default_rng(1)
    feed = {name: generator.normal(size=SHAPE).astype(np.float32) for name in "xy"}
    graph = onnx.load_model(tmp_path / "optimized.onnx").graph
    return session.run(None, feed)[0], [node.op_type for node in graph.node]


def test_onnx_runtime_joins_no_sum_to_its_slow_norm(tmp_path):
    model = residual()
    before, joined = run(model, tmp_path)
    assert "SkipLayerNormalization" in joined  # or there is nothing left to part
    part_sums_from_norms(model)
    after, parted = run(model, tmp_path)
    assert parted == ["Sum", "LayerNormalization"]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_a_bias_stays_an_add():
    model = residual(is_bias=True)
    part_sums_from_norms(model)
    assert [node.op_type for node in model.graph.node] == ["Add", "LayerNormalization"]
