"""What is a weight, how it is stored, what computes with it, and which values it stands for."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from edgekit.graph import read_graph
from edgekit.graph.grid import group_indices, is_on_grid, weight_grid
from edgekit.graph.model import TensorQuantization
from edgekit.graph.weights import weight_layers
from tests.graph import artifacts

# name, format, recipe -> (precision, activations, integer) of all layers but depthwise ones.
CASES = [
    ("conv", "tflite", "static8", ("int8", "static", True)),
    ("conv", "tflite", "dynamic8", ("int8", "dynamic", True)),
    ("conv", "tflite", "weight8", ("int8", "none", False)),
    ("conv", "tflite", "fp16", ("float16", "none", False)),
    ("text", "tflite", "dynamic4", ("int4", "dynamic", True)),
    ("conv", "onnx", "static8", ("int8", "static", True)),
    ("conv", "onnx", "operators8", ("int8", "static", True)),
    ("conv", "onnx", "dynamic8", ("int8", "dynamic", True)),
    ("conv", "onnx", "fp16", ("float16", "none", False)),
    ("text", "onnx", "nbits4", ("int4", "dynamic", True)),
    ("text", "onnx", "dynamic8", ("int8", "dynamic", True)),
]


def load(name, form, recipe):
    make = artifacts.quantized_tflite if form == "tflite" else artifacts.quantized_onnx
    return read_graph(make(name, recipe), name=f"{name}-{recipe}")


def torch_weights(name):
    return [
        parameter.detach().numpy()
        for path, parameter in artifacts.modules()[name].named_parameters()
        if path.endswith("weight")
    ]


def as_torch(values, wanted, form):
    """LiteRT keeps channels last and depthwise filters as (1, h, w, channels)."""
    if form == "tflite" and values.ndim == 4:
        return values.transpose(3, 0, 1, 2) if len(values) == 1 else values.transpose(0, 3, 1, 2)
    return values if values.shape == wanted.shape else values.T


@pytest.mark.parametrize(("name", "form", "recipe", "wanted"), CASES)
def test_storage_and_compute_are_what_the_quantizer_was_told(name, form, recipe, wanted):
    layers = weight_layers(load(name, form, recipe))
    assert len(layers) == 4
    for layer in layers:
        found = (layer.precision, layer.activations, layer.is_integer)
        if layer.kind == "embedding":
            assert layer.precision == wanted[0]
        elif layer.kind != "depthwise":
            assert found == wanted


@pytest.mark.parametrize(("name", "form", "recipe", "wanted"), CASES)
def test_values_are_the_torch_weights_rounded(name, form, recipe, wanted):
    graph = load(name, form, recipe)
    # Round to nearest is at most half a step of max/127 or max/7 off (a full one for clipped
    # ends of asymmetric 4-bit grids); float16 has 11 bits.
    worst = {"int8": 0.6 / 127, "int4": 1.0 / 7, "float16": 2.0**-11}[wanted[0]]
    for layer, weight in zip(weight_layers(graph), torch_weights(name), strict=True):
        values = as_torch(weight_grid(graph, layer).values, weight, form)
        assert np.abs(values - weight).max() <= worst * np.abs(weight).max()


def test_depthwise_layers_are_told_from_convolutions():
    for graph in (load("conv", "tflite", "static8"), load("conv", "onnx", "static8")):
        kinds = [layer.kind for layer in weight_layers(graph)]
        assert kinds == ["conv", "depthwise", "conv", "linear"]


def test_a_convolution_without_a_quantized_output_computes_in_float():
    """ONNX Runtime fuses Conv into QLinearConv only between QuantizeLinear pairs."""
    model = onnx.load_from_string(artifacts.quantized_onnx("conv", "static8"))
    conv = next(item for item in model.graph.node if item.op_type == "Conv")
    reader = next(item for item in model.graph.node if conv.output[0] in item.input)
    decode = next(item for item in model.graph.node if reader.output[0] in item.input)
    for node in model.graph.node:
        node.input[:] = [conv.output[0] if i == decode.output[0] else i for i in node.input]
    model.graph.node.remove(decode)
    model.graph.node.remove(reader)
    layers = weight_layers(read_graph(model.SerializeToString(), name="m"))
    assert [layer.is_integer for layer in layers] == [False, False, True, True]


def test_matmul_nbits_with_float_accuracy_computes_in_float():
    model = onnx.load_from_string(artifacts.quantized_onnx("text", "nbits4"))
    for node in model.graph.node:
        kept = [item for item in node.attribute if item.name != "accuracy_level"]
        copies = [onnx.AttributeProto.FromString(item.SerializeToString()) for item in kept]
        del node.attribute[:]
        node.attribute.extend(copies)
    layers = weight_layers(read_graph(model.SerializeToString(), name="m"))
    assert not any(layer.is_integer for layer in layers)


def test_asymmetric_blocks_of_matmul_nbits_use_their_packed_zero_points():
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    work = MatMulNBitsQuantizer(
        onnx.load_from_string(artifacts.float_onnx("text")), block_size=32, is_symmetric=False
    )
    work.process()
    graph = read_graph(work.model.model.SerializeToString(), name="m")
    packed = [item for item in weight_layers(graph) if item.operator.name == "MatMulNBits"]
    weights = [item for item in torch_weights("text") if item.shape != (100, 64)]
    assert len(packed) == 3
    for layer, weight in zip(packed[:2], weights, strict=True):
        # 15 steps over the range of each block, off by at most a step at its ends.
        error = np.abs(weight_grid(graph, layer).values - weight).max()
        assert error <= (weight.max() - weight.min()) / 15


def test_constants_of_one_axis_are_no_weights():
    graph = read_graph(artifacts.float_onnx("conv"), name="m")
    assert all(len(layer.shape) > 1 for layer in weight_layers(graph))


def test_a_weight_behind_a_transpose_is_found():
    weight = numpy_helper.from_array(np.ones((4, 8), np.float32), "w")
    nodes = [
        onnx.helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        onnx.helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "g", [value("x", 1, [1, 8])], [value("y", 1, [1, 4])], initializer=[weight]
    )
    data = onnx.helper.make_model(graph).SerializeToString()
    (layer,) = weight_layers(read_graph(data, name="m"))
    assert (layer.tensor.name, layer.operator.name) == ("w", "MatMul")


def test_groups_follow_the_axis_and_the_blocks():
    def groups(shape, scales, axis, block=0):
        entry = TensorQuantization(
            scales=np.ones(scales, np.float32),
            zero_points=np.zeros(1, np.int64),
            axis=axis,
            block_size=block,
        )
        found = group_indices(shape, entry)
        return None if found is None else np.broadcast_to(found, shape).tolist()

    assert groups((2, 3), 3, 1) == [[0, 1, 2], [0, 1, 2]]
    assert groups((2, 3), 3, -1) == [[0, 1, 2], [0, 1, 2]]
    assert groups((2, 4), 4, 1, 2) == [[0, 0, 1, 1], [2, 2, 3, 3]]
    assert groups((2, 3), 4, 1, 2) == [[0, 0, 1], [2, 2, 3]]
    assert groups((2, 3), 1, 0) == [[0, 0, 0], [0, 0, 0]]
    assert groups((2, 3), 5, 7) is None


def test_recurrent_weights_are_found():
    torch.manual_seed(0)
    w = numpy_helper.from_array(np.ones((1, 16, 3), np.float32), "w")
    r = numpy_helper.from_array(np.ones((1, 16, 4), np.float32), "r")
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)
    graph = onnx.helper.make_graph(
        [node], "g", [value("x", 1, [5, 1, 3])], [value("y", 1, None)], initializer=[w, r]
    )
    layers = weight_layers(read_graph(onnx.helper.make_model(graph).SerializeToString(), name="m"))
    assert [(item.kind, item.slot) for item in layers] == [("recurrent", 1), ("recurrent", 2)]


def matmul_model(nodes, tensors, opset=21):
    """``x`` (1, 64) times a weight "w" (64, 32) that the nodes make of constants."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [*nodes, onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", 1, [1, 64])],
        [value("y", 1, [1, 32])],
        initializer=tensors,
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return model.SerializeToString()


def run_onnx(data, x):
    return onnxruntime.InferenceSession(data).run(None, {"x": x})[0]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("grouping", ["tensor", "channel", "block"])
def test_weights_that_a_cast_and_a_factor_widen_are_read_with_their_scales(bits, grouping):
    """The values must be those that ONNX Runtime multiplies with."""
    rng = np.random.default_rng(0)
    shape, sizes = {
        "tensor": ((64, 32), ()),
        "channel": ((64, 32), (1, 32)),
        "block": ((64, 2, 16), (64, 2, 1)),
    }[grouping]
    top = 2 ** (bits - 1) - 1
    integers = rng.integers(-top, top + 1, shape).astype(np.int8)
    scales = rng.uniform(0.01, 1, sizes).astype(np.float32)
    code = onnx.TensorProto.INT8 if bits == 8 else onnx.TensorProto.INT4
    tensors = [
        onnx.helper.make_tensor("q", code, shape, integers.reshape(-1)),
        numpy_helper.from_array(scales, "s"),
        numpy_helper.from_array(np.array([64, 32]), "shape"),
    ]
    nodes = [
        onnx.helper.make_node("Cast", ["q"], ["wide"], to=1),
        onnx.helper.make_node("Mul", ["wide", "s"], ["real"]),
        onnx.helper.make_node("Reshape", ["real", "shape"], ["w"]),
    ]
    data = matmul_model(nodes, tensors)
    graph = read_graph(data, name="m")
    (layer,) = weight_layers(graph)
    assert (layer.precision, layer.activations, layer.is_integer) == (f"int{bits}", "none", False)
    values = weight_grid(graph, layer).values.reshape(64, 32)
    np.testing.assert_array_equal(values, (integers * scales).reshape(64, 32))
    x = rng.normal(size=(1, 64)).astype(np.float32)
    np.testing.assert_allclose(run_onnx(data, x), x @ values, rtol=1e-4, atol=1e-4)


def test_a_factor_that_fits_no_channel_or_block_is_not_guessed_at():
    tensors = [
        numpy_helper.from_array(np.ones((64, 32), np.int8), "q"),
        numpy_helper.from_array(np.ones((64, 32), np.float32), "s"),
    ]
    nodes = [
        onnx.helper.make_node("Cast", ["q"], ["wide"], to=1),
        onnx.helper.make_node("Mul", ["wide", "s"], ["w"]),
    ]
    graph = read_graph(matmul_model(nodes, tensors), name="m")
    (layer,) = weight_layers(graph)
    assert weight_grid(graph, layer) is None


def test_4_bit_weights_that_are_cast_to_8_bits_run_on_integer_kernels():
    model = onnx.load_from_string(artifacts.quantized_onnx("conv", "static8"))
    model.opset_import[0].version = 21
    constants = {item.name: item for item in model.graph.initializer}
    name = "pointwise.weight_quantized"
    integers = numpy_helper.to_array(constants[name]) // 16
    model.graph.initializer.remove(constants[name])
    model.graph.initializer.append(
        onnx.helper.make_tensor("small", onnx.TensorProto.INT4, integers.shape, integers.ravel())
    )
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["small"], [name], to=3))
    graph = read_graph(model.SerializeToString(), name="m")
    layer = next(item for item in weight_layers(graph) if item.tensor.name == "small")
    assert (layer.precision, layer.activations, layer.is_integer) == ("int4", "static", True)
    scales = numpy_helper.to_array(constants["pointwise.weight_scale"]).reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(weight_grid(graph, layer).values, integers * scales)


def test_rows_that_are_looked_up_with_their_scales_are_read_with_them():
    rng = np.random.default_rng(0)
    integers = rng.integers(-127, 128, (50, 16)).astype(np.int8)
    scales = rng.uniform(0.01, 1, (50, 1)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Gather", ["q", "x"], ["rows"]),
        onnx.helper.make_node("Gather", ["s", "x"], ["steps"]),
        onnx.helper.make_node("Cast", ["rows"], ["wide"], to=1),
        onnx.helper.make_node("Mul", ["wide", "steps"], ["y"]),
    ]
    value = onnx.helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(integers, "q"), numpy_helper.from_array(scales, "s")]
    inner = onnx.helper.make_graph(
        nodes, "g", [value("x", 7, [3])], [value("y", 1, [3, 16])], initializer=tensors
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(inner, opset_imports=opsets, ir_version=10)
    data = model.SerializeToString()
    graph = read_graph(data, name="m")
    (layer,) = weight_layers(graph)
    values = weight_grid(graph, layer).values
    ids = np.array([4, 49, 0])
    np.testing.assert_allclose(run_onnx(data, ids), values[ids], rtol=1e-6)


def test_rows_that_go_into_an_integer_product_use_its_first_scale():
    """quantize_dynamic on a graph whose embedding feeds a matrix directly."""
    integers = np.arange(64, dtype=np.int8).reshape(4, 16)
    weight = np.ones((16, 8), np.int8)
    nodes = [
        onnx.helper.make_node("Gather", ["q", "x"], ["rows"]),
        onnx.helper.make_node("Mul", ["qs", "ws"], ["both"]),
        onnx.helper.make_node("MatMulInteger", ["rows", "w"], ["sum"]),
        onnx.helper.make_node("Cast", ["sum"], ["wide"], to=1),
        onnx.helper.make_node("Mul", ["wide", "both"], ["y"]),
    ]
    tensors = [
        numpy_helper.from_array(integers, "q"),
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(np.float32(0.5), "qs"),
        numpy_helper.from_array(np.float32(0.25), "ws"),
    ]
    value = onnx.helper.make_tensor_value_info
    inner = onnx.helper.make_graph(
        nodes, "g", [value("x", 7, [2])], [value("y", 1, [2, 8])], initializer=tensors
    )
    graph = read_graph(onnx.helper.make_model(inner).SerializeToString(), name="m")
    embedding, matrix = weight_layers(graph)
    np.testing.assert_array_equal(weight_grid(graph, embedding).values, integers * 0.5)
    np.testing.assert_array_equal(weight_grid(graph, matrix).values, weight * 0.25)


def test_a_scale_that_is_computed_is_not_guessed_at():
    tensors = [numpy_helper.from_array(np.ones((64, 32), np.int8), "q")]
    nodes = [
        onnx.helper.make_node("ReduceMax", ["x"], ["s"], keepdims=0),
        onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
    ]
    graph = read_graph(matmul_model(nodes, tensors), name="m")
    (layer,) = weight_layers(graph)
    assert weight_grid(graph, layer) is None


def test_whole_steps_of_the_largest_weight_are_on_the_grid():
    steps = np.array([[7, -3, 0], [1, 2, -7], [0, 0, 0]], np.float32)
    values = steps * np.array([[0.013], [2.7], [1.0]], np.float32)
    assert is_on_grid(values, 4)
    assert not is_on_grid(values + np.float32(0.004), 4)


def test_random_weights_are_on_no_grid():
    values = np.random.default_rng(0).standard_normal((8, 9)).astype(np.float32)
    assert not is_on_grid(values, 4)
