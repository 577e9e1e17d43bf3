"""What ONNX Runtime computes in float though the file has it as integers."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.core.strategy import Quantize
from edgekit.graph import read_graph
from edgekit.measure import audit_loaded
from edgekit.measure.audit import audit_quantization
from edgekit.measure.audit_loaded import floats_when_loaded, why_unseen
from tests.graph import artifacts

STATIC8 = Quantize(precision="int8", activations="static", is_unsigned=True)
WIDTH = 64


def two_layers(*, beta=1.0):
    """Two layers in QDQ form; with another beta the second has no integer kernel."""
    generator = np.random.default_rng(0)
    constants = {"scale": np.float32(0.05), "zero": np.uint8(128), "per_bias": np.float32(5e-4)}
    constants |= {"step": np.float32(0.01), "none": np.int8(0), "no_bias": np.int32(0)}
    nodes = []
    for place, (given, made) in enumerate((("x", "y"), ("y", "z"))):
        weight = generator.integers(-127, 128, (WIDTH, WIDTH))
        constants[f"weight_{place}"] = weight.astype(np.int8)
        constants[f"bias_{place}"] = np.arange(WIDTH, dtype=np.int32)
        nodes += [
            *_pair(given, f"{given}_float"),
            _decode(f"weight_{place}", "step", "none"),
            _decode(f"bias_{place}", "per_bias", "no_bias"),
            helper.make_node(
                "Gemm",
                [f"{given}_float", f"weight_{place}_float", f"bias_{place}_float"],
                [made],
                beta=beta if place else 1.0,
            ),
        ]
    graph = helper.make_graph(
        [*nodes, *_pair("z", "out")],
        "two_layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, WIDTH))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, (1, WIDTH))],
        [numpy_helper.from_array(np.asarray(item), name) for name, item in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def in_floats():
    """The same weights before they were rounded."""
    model = onnx.load_from_string(two_layers(beta=2.0))
    stored = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    weights = [
        stored[name].astype(np.float32) * stored["step"] for name in ("weight_0", "weight_1")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "weight_0"], ["y"]),
        helper.make_node("MatMul", ["y", "weight_1"], ["out"]),
    ]
    named = zip(weights, ("weight_0", "weight_1"), strict=True)
    graph = helper.make_graph(
        nodes,
        "in_floats",
        model.graph.input,
        model.graph.output,
        [numpy_helper.from_array(weight, name) for weight, name in named],
    )
    return helper.make_model(graph, opset_imports=model.opset_import).SerializeToString()


def _pair(given, made):
    return (
        helper.make_node("QuantizeLinear", [given, "scale", "zero"], [f"{given}_stored"]),
        helper.make_node("DequantizeLinear", [f"{given}_stored", "scale", "zero"], [made]),
    )


def _decode(name, scale, zero):
    return helper.make_node("DequantizeLinear", [name, scale, zero], [f"{name}_float"])


def test_a_layer_that_no_integer_kernel_takes_is_found():
    for is_x86 in (True, False):
        assert floats_when_loaded(two_layers(), STATIC8, is_x86=is_x86) == frozenset()
        assert floats_when_loaded(two_layers(beta=2.0), STATIC8, is_x86=is_x86) == {1}


def test_nothing_is_said_of_what_is_not_static_onnx():
    dynamic = Quantize(precision="int8", activations="dynamic")
    assert floats_when_loaded(two_layers(beta=2.0), dynamic, is_x86=True) == frozenset()
    tflite = artifacts.quantized_tflite("conv", "static8")
    assert floats_when_loaded(tflite, STATIC8, is_x86=True) == frozenset()


def test_a_file_too_large_to_ask_about_is_told(monkeypatch):
    model = two_layers(beta=2.0)
    assert why_unseen(model, STATIC8) == ""
    monkeypatch.setattr(audit_loaded, "LARGEST_BYTES", len(model) - 1)
    assert "is not evaluated" in why_unseen(model, STATIC8)
    assert why_unseen(model, Quantize(precision="int8", activations="dynamic")) == ""
    assert floats_when_loaded(model, STATIC8, is_x86=True) == frozenset()


def test_the_audit_counts_such_a_layer_as_float():
    report = audit_quantization(
        read_graph(in_floats(), name="floats"),
        read_graph(two_layers(beta=2.0), name="integers"),
        settings=STATIC8,
        tensor_map={},
        tolerance=1.0,
        floats_when_loaded={1},
    )
    assert [it.layer for it in report.findings if it.kind == "float compute"] == ["weight_1"]
    (share,) = [item for item in report.figures if item.name == "compute_integer_share"]
    assert share.value == 0.5
