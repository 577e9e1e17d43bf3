"""What quantization did to each layer's weights, against arithmetic on the same numbers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.graph import read_graph
from edgekit.measure.weight_errors import weight_errors

WEIGHT = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32)


def model(weight, *, scale=None):
    """One convolution; its weight is a float initializer, or integers behind DequantizeLinear."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")]
    held = [numpy_helper.from_array(weight, "w")]
    if scale is not None:
        integers = np.clip(np.round(weight / scale), -127, 127).astype(np.int8)
        held = [
            numpy_helper.from_array(integers, "w_quantized"),
            numpy_helper.from_array(np.float32(scale), "w_scale"),
            numpy_helper.from_array(np.int8(0), "w_zero_point"),
        ]
        inputs = ["w_quantized", "w_scale", "w_zero_point"]
        nodes.insert(0, helper.make_node("DequantizeLinear", inputs, ["w"]))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 3, 3])],
        held,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    onnx.checker.check_model(made)
    return read_graph(made.SerializeToString(), name="model.onnx")


@pytest.mark.parametrize("scale", [0.03, 0.2])
def test_the_error_is_the_norm_of_the_difference_over_the_norm(scale):
    (found,) = weight_errors(model(WEIGHT), model(WEIGHT, scale=scale), {"w": "net.conv"})
    rounded = np.clip(np.round(WEIGHT / np.float32(scale)), -127, 127) * np.float32(scale)
    wanted = np.linalg.norm(rounded - WEIGHT) / np.linalg.norm(WEIGHT)
    assert found.relative_error == pytest.approx(wanted, rel=1e-5)
    assert (found.layer, found.bits) == ("net.conv", 8)


def test_weights_that_stayed_float_have_no_error():
    assert weight_errors(model(WEIGHT), model(WEIGHT), {}) == ()
