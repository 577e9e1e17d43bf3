"""The audit of weights stored as small floats, and of activations of 16 bits."""

from functools import cache

import numpy as np
import onnx
import onnx.version_converter
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_layers import find_layers
from edgekit.compile.onnx_small_floats import store_small_floats
from edgekit.compile.onnx_store import store_as_float16
from edgekit.compile.strip_onnx import strip_onnx
from edgekit.core.strategy import Override, Quantize
from edgekit.graph import read_graph
from edgekit.graph.grid import weight_grid
from edgekit.graph.weights import weight_layers
from edgekit.measure.audit import audit_quantization
from tests.graph import artifacts

STORED_AS = {
    "bf16": "bfloat16",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "nf4": "nf4",
}
WEIGHTS = {"conv": 864 + 288 + 2048 + 640, "text": 6400 + 8192 + 8192 + 6400}
BITS = {"bf16": 16, "fp8_e4m3": 8, "fp8_e5m2": 8, "nf4": 4}


def settings_of(precision, **more):
    return Quantize(precision=precision, activations="none", **more)


@cache
def float_model(name):
    model = onnx.load_from_string(artifacts.float_onnx(name))
    return onnx.version_converter.convert_version(model, 21).SerializeToString()


def stored(name, precision):
    model = onnx.load_from_string(float_model(name))
    layers = find_layers(model, {})
    store_small_floats(model, layers, {item.weight: precision for item in layers}, 0)
    return model


def audit(name, after, settings, *, tolerance=0.0):
    return audit_quantization(
        read_graph(float_model(name), name="float"),
        read_graph(after, name="quantized"),
        settings=settings,
        tensor_map={},
        tolerance=tolerance,
    )


def kinds(report, *severities):
    return {item.kind for item in report.findings if item.severity in severities}


def constant(model, end):
    (found,) = [item for item in model.graph.initializer if item.name.endswith(end)]
    return found


@pytest.mark.parametrize("precision", STORED_AS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_small_floats_are_accepted_and_said_to_be_stored_alone(name, precision):
    report = audit(name, stored(name, precision).SerializeToString(), settings_of(precision))
    assert report.is_accepted
    (found,) = report.findings
    assert (found.kind, found.severity) == ("stored alone", "note")
    assert found.share == pytest.approx(1)
    assert STORED_AS[precision] in found.message
    assert "no speed" in found.message
    figures = {item.name: item.value for item in report.figures}
    assert figures["weights_as_asked_share"] == 1.0
    assert figures["compute_integer_share"] == 0.0
    # Blocks that are filled up take a little more.
    by_bits = WEIGHTS[name] * BITS[precision] // 8
    assert figures["float_weight_bytes"] == pytest.approx(by_bits, rel=0.02)


@pytest.mark.parametrize("precision", STORED_AS)
def test_a_file_without_names_holds_the_same_weights(precision):
    kept = stored("text", precision).SerializeToString()
    graphs = [read_graph(item, name="m") for item in (kept, strip_onnx(kept, "m"))]
    named, bare = (
        [weight_grid(graph, layer) for layer in weight_layers(graph)] for graph in graphs
    )
    assert len(named) == len(bare) == 4
    for one, other in zip(named, bare, strict=True):
        np.testing.assert_array_equal(one.values, other.values)


@pytest.mark.parametrize("precision", STORED_AS)
def test_a_float_file_that_says_it_has_small_floats_is_refused(precision):
    report = audit("conv", float_model("conv"), settings_of(precision))
    assert not report.is_accepted
    assert kinds(report, "fatal") == {"nothing changed"}
    assert kinds(report, "counted") == {"wider than asked"}


def test_one_layer_left_in_float_is_named():
    model = onnx.load_from_string(float_model("conv"))
    layers = find_layers(model, {})
    store_small_floats(model, layers[:-1], {item.weight: "bf16" for item in layers}, 0)
    report = audit("conv", model.SerializeToString(), settings_of("bf16"))
    assert not report.is_accepted
    (left,) = [item for item in report.findings if item.severity == "counted"]
    assert (left.kind, left.found) == ("wider than asked", "float32 weights")
    assert "classifier" in left.layer


def test_another_format_of_as_many_bits_is_not_what_was_asked():
    model = onnx.load_from_string(float_model("conv"))
    store_as_float16(model, [item.weight for item in find_layers(model, {})])
    report = audit("conv", model.SerializeToString(), settings_of("bf16"))
    assert not report.is_accepted
    assert kinds(report, "counted") == {"otherwise than asked"}
    asked = audit("conv", stored("conv", "fp8_e5m2").SerializeToString(), settings_of("fp8_e4m3"))
    assert not asked.is_accepted


@pytest.mark.parametrize("precision", ["fp8_e4m3", "fp8_e5m2", "nf4"])
def test_scales_of_other_channels_are_wrong_values(precision):
    model = stored("text", precision)
    scale = constant(model, "embed.weight_scale")
    values = numpy_helper.to_array(scale)
    scale.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(2 * values), scale.name))
    report = audit("text", model.SerializeToString(), settings_of(precision))
    assert not report.is_accepted
    (wrong,) = [item for item in report.findings if item.severity == "fatal"]
    assert (wrong.kind, "embed" in wrong.layer) == ("wrong values", True)


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0])
@pytest.mark.parametrize("precision", ["fp8_e4m3", "nf4"])
def test_scales_that_cannot_be_are_refused(precision, value):
    model = stored("text", precision)
    scale = constant(model, "embed.weight_scale")
    values = numpy_helper.to_array(scale).copy()
    values.reshape(-1)[0] = value
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    report = audit("text", model.SerializeToString(), settings_of(precision))
    assert "bad scale" in kinds(report, "fatal")


def test_codes_of_another_table_are_not_nf4():
    model = stored("text", "nf4")
    levels = constant(model, "nf4_levels")
    straight = np.linspace(-1, 1, 16, dtype=np.float32)
    levels.CopyFrom(numpy_helper.from_array(straight, levels.name))
    report = audit("text", model.SerializeToString(), settings_of("nf4"))
    assert not report.is_accepted


def test_weights_of_bfloat16_that_are_others_are_refused():
    model = stored("text", "bf16")
    kept = constant(model, "embed.weight_bf16")
    kept.raw_data = kept.raw_data[::-1]
    report = audit("text", model.SerializeToString(), settings_of("bf16"))
    assert "wrong values" in kinds(report, "fatal")


def test_a_layer_of_another_precision_is_judged_by_it():
    model = onnx.load_from_string(float_model("text"))
    layers = find_layers(model, {})
    chosen = {item.weight: "bf16" if "embed" in item.weight else "nf4" for item in layers}
    store_small_floats(model, layers, chosen, 0)
    content = model.SerializeToString()
    overrides = (Override(pattern="embed", precision="bf16"),)
    assert audit("text", content, settings_of("nf4", overrides=overrides)).is_accepted
    report = audit("text", content, settings_of("nf4"))
    assert not report.is_accepted
    assert kinds(report, "counted") == {"wider than asked"}


def qdq(kind):
    """One product between quantize and dequantize, with INT8 weights; and its float form."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((32, 32)).astype(np.float32)
    step = np.float32(np.abs(weight).max() / 127)
    integers = np.rint(weight / step).astype(np.int8)
    point = np.array(0, kind)
    grid = [numpy_helper.from_array(np.float32(0.01), "s"), numpy_helper.from_array(point, "z")]
    stored_weight = [
        numpy_helper.from_array(integers, "w_quantized"),
        numpy_helper.from_array(step, "w_step"),
        numpy_helper.from_array(np.array(0, np.int8), "w_zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w_quantized", "w_step", "w_zero"], ["w"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    plain = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32])] for name in ("x", "y")
    ]
    return tuple(
        helper.make_model(
            helper.make_graph(parts, "g", *ends, held),
            opset_imports=[helper.make_opsetid("", 21)],
            ir_version=10,
        ).SerializeToString()
        for parts, held in (
            (plain, [numpy_helper.from_array(weight, "w")]),
            (nodes, [*grid, *stored_weight]),
        )
    )


@pytest.mark.parametrize(
    ("kind", "asked", "is_accepted", "said"),
    [
        (np.int8, 8, True, set()),
        (np.uint16, 16, True, {"float compute"}),
        (np.int16, 16, True, {"float compute"}),
        (np.int8, 16, False, {"activations"}),
        (np.int16, 8, False, {"activations"}),
    ],
)
def test_bits_of_static_activations_are_those_that_were_asked(kind, asked, is_accepted, said):
    before, after = qdq(kind)
    report = audit_quantization(
        read_graph(before, name="float"),
        read_graph(after, name="quantized"),
        settings=Quantize(precision="int8", activations="static", activation_bits=asked),
        tensor_map={},
        tolerance=0.0,
    )
    assert report.is_accepted is is_accepted
    assert {item.kind for item in report.findings} == said
