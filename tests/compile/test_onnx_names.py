import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_names import follow_names, map_torch_names, module_of

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def graph(tensors, nodes=()):
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    return helper.make_model(made)


def test_a_parameter_belongs_to_the_module_before_its_last_dot():
    assert module_of("layer.0.conv.weight") == "layer.0.conv"
    assert module_of("layer.0.conv.bias") == "layer.0.conv"
    assert module_of("positions") == "positions"
    assert module_of("attention.in_proj_weight") == "attention.in_proj_weight"


def test_names_are_matched_before_values_and_values_before_scopes():
    node = helper.make_node("MatMul", ["x", "val_3"], ["y"])
    entry = node.metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'body', 'body.last', 'matmul']"
    model = graph(
        {
            "conv.weight": np.ones((2, 2), np.float32),
            "conv.weight_bias": np.ones(2, np.float32),
            "val_1": WEIGHT.T,
            "val_2": WEIGHT,
            "val_3": np.full((2, 2), 7, np.float32),
            "val_4": np.full((2, 2), 8, np.float32),
            "axes": np.int64([1, 2]),
            "eps": np.float32(1e-5),
        },
        [node],
    )
    parameters = {"conv.weight": np.zeros((2, 2), np.float32), "fc.weight": WEIGHT}
    assert map_torch_names(model, parameters) == {
        "conv.weight": "conv",
        "conv.weight_bias": "conv",
        "val_1": "fc",
        "val_2": "fc",
        "val_3": "body.last",
    }


def test_a_rewritten_graph_keeps_paths_but_not_for_scales():
    paths = {"conv.weight": "conv", "conv.weight_bias": "conv", "logit_scale": "logit_scale"}
    model = graph(
        {
            "conv.weight_quantized": np.int8([1]),
            "conv.weight_quantized_int4": np.int8([1]),
            "conv.weight_scale": np.float32([1]),
            "conv.weight_zero_point": np.int8([1]),
            "conv.weight_bias_quantized": np.int32([1]),
            "conv.weight_bias_quantized_scale": np.float32([1]),
            "ConvBnFusion_W_conv.weight": np.float32([1]),
            "logit_scale": np.float32([1]),
            "new": np.float32([1]),
        }
    )
    assert follow_names(model, paths) == {
        "conv.weight_quantized": "conv",
        "conv.weight_quantized_int4": "conv",
        "conv.weight_bias_quantized": "conv",
        "ConvBnFusion_W_conv.weight": "conv",
        "logit_scale": "logit_scale",
    }


def test_the_onnx_library_reads_the_graphs_of_these_tests():
    assert isinstance(graph({"a": np.float32([1])}), onnx.ModelProto)
