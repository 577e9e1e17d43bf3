"""The audit accepts what the quantizers did as asked, and names every kind of sabotage."""

from dataclasses import replace

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper

from edgekit.core.errors import StepError
from edgekit.core.strategy import Override, Quantize
from edgekit.graph import read_graph
from edgekit.measure.audit import audit_quantization
from tests.graph import artifacts

STATIC8 = Quantize(precision="int8", activations="static")
DYNAMIC8 = Quantize(precision="int8", activations="dynamic")
WEIGHT8 = Quantize(precision="int8", activations="none")
FP16 = Quantize(precision="fp16", activations="none")
WEIGHT4 = Quantize(precision="int4", activations="none")
STATIC4 = Quantize(precision="int4", activations="static")
DYNAMIC4 = Quantize(
    precision="int4", activations="dynamic", block_size=32, keep_first_last_int8=False
)
FORMATS = {
    "tflite": (artifacts.float_tflite, artifacts.quantized_tflite),
    "onnx": (artifacts.float_onnx, artifacts.quantized_onnx),
}
# Elements of the convolution net's weights.
STEM, DEPTHWISE, POINTWISE, CLASSIFIER = 864, 288, 2048, 640
ALL = STEM + DEPTHWISE + POINTWISE + CLASSIFIER


def audit(before, after, settings, *, tolerance=0.0, tensor_map=None):
    return audit_quantization(
        read_graph(before, name="float"),
        read_graph(after, name="quantized"),
        settings=settings,
        tensor_map=tensor_map or {},
        tolerance=tolerance,
    )


def audit_recipe(name, form, recipe, settings, **more):
    floats, quantized = FORMATS[form]
    return audit(floats(name), quantized(name, recipe), settings, **more)


def kinds(report, *severities):
    return {item.kind for item in report.findings if item.severity in severities}


def figure(report, name):
    (found,) = [item for item in report.figures if item.name == name]
    assert found.low == found.value == found.high
    return found.value


@pytest.mark.parametrize(
    ("name", "form", "recipe", "settings"),
    [
        ("conv", "tflite", "static8", STATIC8),
        ("conv", "tflite", "dynamic8", DYNAMIC8),
        ("conv", "tflite", "weight8", WEIGHT8),
        ("conv", "tflite", "fp16", FP16),
        ("text", "tflite", "fp16", FP16),
        ("text", "tflite", "dynamic8", DYNAMIC8),
        ("text", "tflite", "dynamic4", DYNAMIC4),
        ("conv", "onnx", "static8", STATIC8),
        ("conv", "onnx", "operators8", STATIC8),
        ("conv", "onnx", "dynamic8", DYNAMIC8),
        ("text", "onnx", "dynamic8", DYNAMIC8),
        ("text", "onnx", "nbits4", DYNAMIC4),
        ("conv", "onnx", "fp16", FP16),
        ("text", "onnx", "fp16", FP16),
    ],
)
def test_what_was_done_as_asked_is_accepted_without_a_word(name, form, recipe, settings):
    report = audit_recipe(name, form, recipe, settings)
    assert report.findings == ()
    assert report.is_accepted
    assert figure(report, "weights_as_asked_share") == 1.0
    wanted = 0.0 if settings.activations == "none" else 1.0
    assert figure(report, "compute_integer_share") == wanted


def test_int4_with_integer_activations_names_the_depthwise_layer_and_is_accepted():
    # AEQ's static 8/8 and then 8/4 on convolutions: depthwise stays at 8 bits, and so do the
    # classifier and (were it not overridden) the stem.
    settings = Quantize(
        precision="int4",
        activations="static",
        overrides=(Override(pattern="Conv2d_stem", precision="int4"),),
    )
    report = audit_recipe("conv", "tflite", "static4", settings)
    assert report.is_accepted
    kept, widened = report.findings
    assert (kept.kind, kept.severity) == ("kept at 8 bits", "note")
    assert "depthwise" in kept.layer
    assert (widened.kind, widened.severity) == ("widened to run", "note")
    assert figure(report, "weights_as_asked_share") == pytest.approx(1 - DEPTHWISE / ALL)


def test_int4_that_came_out_int8_beyond_first_and_last_is_refused():
    report = audit_recipe("conv", "tflite", "static8", STATIC4)
    assert not report.is_accepted
    wider = [item for item in report.findings if item.kind == "wider than asked"]
    assert [item.layer.count("pointwise") for item in wider] == [1]
    assert wider[0].share == pytest.approx(POINTWISE / ALL)


def test_first_and_last_at_8_bits_are_refused_where_4_were_asked():
    settings = Quantize(precision="int4", activations="static", keep_first_last_int8=False)
    report = audit_recipe("conv", "tflite", "static4", settings)
    wider = [item for item in report.findings if item.kind == "wider than asked"]
    assert [("classifier" in item.layer, item.found) for item in wider] == [(True, "int8 weights")]


def test_a_layer_that_the_quantizer_skipped_is_named():
    report = audit_recipe("conv", "tflite", "skip", STATIC8)
    assert not report.is_accepted
    (finding,) = report.findings
    assert finding.kind == "wider than asked"
    assert "pointwise" in finding.layer
    assert (finding.found, finding.wanted) == ("float32 weights", "int8 weights")
    assert figure(report, "weights_as_asked_share") == pytest.approx(1 - POINTWISE / ALL)
    assert figure(report, "compute_integer_share") == 0.75
    assert figure(report, "float_weight_bytes") == 4 * POINTWISE


def test_a_skipped_layer_within_the_tolerance_is_named_and_accepted():
    report = audit_recipe("conv", "tflite", "skip", STATIC8, tolerance=POINTWISE / ALL + 0.001)
    assert report.is_accepted
    assert kinds(report, "counted") == {"wider than asked"}


def test_an_override_that_asks_for_float_is_honoured_by_module_path():
    settings = Quantize(
        precision="int8",
        activations="static",
        overrides=(
            Override(pattern=".*", precision="int8"),
            Override(pattern=r"^features\.2$", precision="float"),
        ),
    )
    graph = read_graph(artifacts.quantized_tflite("conv", "skip"), name="q")
    name = next(
        item.name
        for item in graph.subgraphs[0].tensors
        if "pointwise" in item.name and item.is_constant and len(item.shape) == 4
    )
    report = audit_recipe("conv", "tflite", "skip", settings, tensor_map={name: "features.2"})
    assert report.is_accepted
    assert report.findings == ()
    # The other way round: the layer was quantized although it was to stay float.
    report = audit_recipe("conv", "tflite", "static8", settings, tensor_map={name: "features.2"})
    assert kinds(report, "counted") == {"narrower than asked"}
    assert report.findings[0].layer == "features.2"
    assert not report.is_accepted


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_a_float_model_passed_off_as_quantized_is_refused_whatever_the_tolerance(form):
    floats, _ = FORMATS[form]
    for settings in (STATIC8, DYNAMIC8, FP16, STATIC4):
        report = audit(floats("conv"), floats("conv"), settings, tolerance=1.0)
        assert "nothing changed" in kinds(report, "fatal")
        assert not report.is_accepted
        assert figure(report, "weights_as_asked_share") == 0.0
        assert figure(report, "float_weight_bytes") == 4 * ALL


def test_an_int8_model_that_a_second_step_left_alone_is_refused():
    quantized = artifacts.quantized_tflite("conv", "static8")
    report = audit(quantized, quantized, STATIC8, tolerance=1.0)
    assert kinds(report, "fatal") == {"nothing changed"}


@pytest.mark.parametrize("settings", [STATIC8, DYNAMIC8])
def test_weights_that_are_dequantized_to_float_are_a_fallback(settings):
    report = audit_recipe("conv", "tflite", "weight8", settings)
    assert not report.is_accepted
    assert kinds(report, "counted") == {"float compute"}
    assert len(report.findings) == 4
    assert figure(report, "compute_integer_share") == 0.0
    assert figure(report, "weights_as_asked_share") == 1.0


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_dynamic_activations_where_static_were_asked_are_named(form):
    report = audit_recipe("conv", form, "dynamic8", STATIC8)
    assert not report.is_accepted
    assert kinds(report, "counted") == {"activations"}
    report = audit_recipe("conv", form, "static8", DYNAMIC8)
    assert not report.is_accepted
    assert kinds(report, "counted") == {"activations"}


def test_4_bit_convolutions_of_onnx_are_noted_to_compute_in_float():
    settings = Quantize(precision="int4", activations="static", keep_first_last_int8=False)
    report = audit_recipe("conv", "onnx", "dq4", settings)
    assert {item.kind for item in report.findings if item.severity == "note"} == {"float compute"}
    # The classifier stayed float in that model.
    assert [item.layer for item in report.findings if item.severity == "counted"] == [
        "classifier.weight"
    ]
    assert figure(report, "compute_integer_share") == 0.0


def test_a_4_bit_convolution_that_was_asked_for_by_name_is_noted_too():
    convolutions = Override(pattern="stem|depth|point", precision="int4")
    settings = replace(DYNAMIC8, overrides=(convolutions,))
    report = audit_recipe("conv", "onnx", "dq4", settings)
    assert kinds(report, "note") == {"float compute"}
    assert [item.layer for item in report.findings if item.severity == "counted"] == [
        "classifier.weight"
    ]


def repacked(data, change):
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    for item in model.buffers:  # AEQ puts data behind the flatbuffer
        if item.offset > 1:
            item.data = np.frombuffer(data, np.uint8, item.size, item.offset)
            item.offset = item.size = 0
    for item in model.buffers:  # numpy sees the file in place, and read-only
        item.data = None if item.data is None else np.array(item.data)
    for item in model.subgraphs[0].tensors:
        if item.quantization is not None and item.quantization.scale is not None:
            item.quantization.scale = item.quantization.scale.copy()
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def weight(model, part):
    return next(
        item
        for item in model.subgraphs[0].tensors
        if part in item.name.decode()
        and len(item.shape) in (2, 4)
        and item.buffer
        and model.buffers[item.buffer].data is not None
    )


@pytest.mark.parametrize("factor", [2.0, 0.5, 1.3, 0.8])
@pytest.mark.parametrize("channels", [slice(None), slice(3, 4)], ids=["all", "one channel"])
def test_a_wrong_scale_is_caught_in_tflite(factor, channels):
    def change(model):
        weight(model, "pointwise").quantization.scale[channels] *= factor

    data = repacked(artifacts.quantized_tflite("conv", "static8"), lambda model: None)
    assert audit(artifacts.float_tflite("conv"), data, STATIC8).is_accepted
    data = repacked(artifacts.quantized_tflite("conv", "static8"), change)
    report = audit(artifacts.float_tflite("conv"), data, STATIC8, tolerance=1.0)
    assert not report.is_accepted
    (finding,) = report.findings
    assert (finding.kind, finding.severity) == ("wrong values", "fatal")
    assert "pointwise" in finding.layer


@pytest.mark.parametrize("factor", [2.0, 0.5])
@pytest.mark.parametrize("channels", [slice(None), slice(7, 8)], ids=["all", "one channel"])
def test_a_wrong_scale_is_caught_in_4_bits(factor, channels):
    def change(model):
        weight(model, "pointwise").quantization.scale[channels] *= factor

    data = repacked(artifacts.quantized_tflite("conv", "static4"), change)
    report = audit(artifacts.float_tflite("conv"), data, STATIC4, tolerance=1.0)
    assert "wrong values" in kinds(report, "fatal")


def onnx_with_scale(recipe, name, factor):
    model = onnx.load_from_string(artifacts.quantized_onnx("conv", recipe))
    tensor = next(item for item in model.graph.initializer if item.name == name)
    values = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return model.SerializeToString()


@pytest.mark.parametrize("recipe", ["static8", "operators8"])
@pytest.mark.parametrize("factor", [1.5, 0.5])
def test_a_wrong_scale_is_caught_in_onnx(recipe, factor):
    data = onnx_with_scale(recipe, "pointwise.weight_scale", factor)
    report = audit(artifacts.float_onnx("conv"), data, STATIC8, tolerance=1.0)
    assert [item.layer for item in report.findings] == ["pointwise.weight_quantized"]
    assert kinds(report, "fatal") == {"wrong values"}


def test_a_wrong_scale_is_caught_in_dynamic_onnx():
    data = onnx_with_scale("dynamic8", "pointwise.weight_scale", 2.0)
    report = audit(artifacts.float_onnx("conv"), data, DYNAMIC8, tolerance=1.0)
    assert kinds(report, "fatal") == {"wrong values"}


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.0, "not positive"), (-0.01, "not positive"), (np.nan, "nan"), (np.inf, "inf")],
)
def test_scales_that_are_no_scales_are_fatal(value, message):
    def change(model):
        weight(model, "stem").quantization.scale[1] = value

    data = repacked(artifacts.quantized_tflite("conv", "static8"), change)
    report = audit(artifacts.float_tflite("conv"), data, STATIC8, tolerance=1.0)
    bad = [item for item in report.findings if item.kind == "bad scale"]
    assert len(bad) == 1
    assert message in bad[0].message
    assert not report.is_accepted


def test_too_few_scales_are_fatal():
    def change(model):
        entry = weight(model, "stem").quantization
        entry.scale, entry.zeroPoint = entry.scale[:5], entry.zeroPoint[:5]

    data = repacked(artifacts.quantized_tflite("conv", "static8"), change)
    report = audit(artifacts.float_tflite("conv"), data, STATIC8)
    bad = [item for item in report.findings if item.kind == "bad scale"]
    assert "5 scales where 1 or 32 belong" in bad[0].message


def test_zero_points_that_do_not_match_the_scales_are_fatal():
    def change(model):
        entry = weight(model, "stem").quantization
        entry.zeroPoint = entry.zeroPoint[:7]

    data = repacked(artifacts.quantized_tflite("conv", "static8"), change)
    report = audit(artifacts.float_tflite("conv"), data, STATIC8)
    assert any("7 zero points for 32 scales" in item.message for item in report.findings)


def test_an_activation_scale_of_zero_is_fatal():
    data = artifacts.quantized_onnx("conv", "static8")
    model = onnx.load_from_string(data)
    node = next(item for item in model.graph.node if item.op_type == "QuantizeLinear")
    tensor = next(item for item in model.graph.initializer if item.name == node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(np.float32(0), tensor.name))
    report = audit(artifacts.float_onnx("conv"), model.SerializeToString(), STATIC8)
    assert "bad scale" in kinds(report, "fatal")


def test_scales_given_as_an_operators_input_are_checked():
    data = onnx_with_scale("operators8", "stem.weight_scale", -1)
    report = audit(artifacts.float_onnx("conv"), data, STATIC8)
    assert "bad scale" in kinds(report, "fatal")


def test_negative_scales_of_4_bit_blocks_are_no_fault_but_nan_is():
    """ONNX Runtime's symmetric blocks take the sign of their largest weight into the scale."""
    model = onnx.load_from_string(artifacts.quantized_onnx("text", "nbits4"))
    scales = [item for item in model.graph.initializer if "scales" in item.name]
    assert any((numpy_helper.to_array(item) < 0).any() for item in scales)
    values = numpy_helper.to_array(scales[1]).copy()
    values.reshape(-1)[3] = np.nan
    scales[1].CopyFrom(numpy_helper.from_array(values, scales[1].name))
    report = audit(artifacts.float_onnx("text"), model.SerializeToString(), DYNAMIC4)
    assert {"bad scale"} <= kinds(report, "fatal")


def test_scales_that_are_all_zero_are_fatal_in_blocks_too():
    model = onnx.load_from_string(artifacts.quantized_onnx("text", "nbits4"))
    tensor = next(item for item in model.graph.initializer if item.name == "val_2_scales")
    zeros = np.zeros_like(numpy_helper.to_array(tensor))
    tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    report = audit(artifacts.float_onnx("text"), model.SerializeToString(), DYNAMIC4)
    assert {"bad scale", "wrong values"} <= kinds(report, "fatal")


def test_weights_that_became_zeros_are_caught():
    def change(model):
        model.buffers[weight(model, "pointwise").buffer].data[:] = 0

    data = repacked(artifacts.quantized_tflite("conv", "static8"), change)
    report = audit(artifacts.float_tflite("conv"), data, STATIC8, tolerance=1.0)
    assert kinds(report, "fatal") == {"wrong values"}


def test_swapped_rows_are_caught():
    def change(model):
        content = model.buffers[weight(model, "pointwise").buffer].data.reshape(64, 32)
        model.buffers[weight(model, "pointwise").buffer].data = content[::-1].reshape(-1)

    data = repacked(artifacts.quantized_tflite("conv", "static8"), change)
    report = audit(artifacts.float_tflite("conv"), data, STATIC8, tolerance=1.0)
    assert "wrong values" in kinds(report, "fatal")


def test_half_precision_weights_with_an_infinity_are_caught():
    data = onnx.load_from_string(artifacts.quantized_onnx("conv", "fp16"))
    tensor = next(item for item in data.graph.initializer if item.name == "pointwise.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = np.inf
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    report = audit(artifacts.float_onnx("conv"), data.SerializeToString(), FP16, tolerance=1.0)
    assert [item.message for item in report.findings if item.severity == "fatal"] == [
        "pointwise.weight: NaN or infinity among its weights (float16): a wrong scale or layout"
    ]


def test_a_layer_that_vanished_is_named():
    """The classifier's weight becomes an input of the graph: nobody can say what it is."""
    model = onnx.load_from_string(artifacts.quantized_onnx("conv", "static8"))
    name = "classifier.weight_quantized"
    tensor = next(item for item in model.graph.initializer if item.name == name)
    model.graph.initializer.remove(tensor)
    model.graph.input.append(onnx.helper.make_tensor_value_info(name, 3, list(tensor.dims)))
    report = audit(artifacts.float_onnx("conv"), model.SerializeToString(), STATIC8)
    assert not report.is_accepted
    (finding,) = [item for item in report.findings if item.kind == "missing"]
    assert finding.layer == "classifier.weight"
    assert finding.share == pytest.approx(CLASSIFIER / ALL)
    assert figure(report, "weights_as_asked_share") == pytest.approx(1 - CLASSIFIER / ALL)


def test_a_model_without_weights_is_refused():
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, [2])], [value("y", 1, [2])])
    data = onnx.helper.make_model(graph).SerializeToString()
    report = audit(data, data, STATIC8)
    assert kinds(report, "fatal") == {"no weights"}
    assert not report.is_accepted


def test_a_model_of_small_layers_only_is_audited_all_the_same():
    tiny = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "g", [value("x", 1, [1, 4])], [value("y", 1, [1, 4])], initializer=[tiny]
    )
    data = onnx.helper.make_model(graph).SerializeToString()
    report = audit(data, data, STATIC8)
    assert kinds(report, "fatal") == {"nothing changed"}
    assert kinds(report, "counted") == {"wider than asked"}


def test_everything_kept_float_by_override_is_what_was_asked():
    settings = Quantize(
        precision="int8",
        activations="static",
        overrides=(Override(pattern=".", precision="float"),),
    )
    floats = artifacts.float_onnx("conv")
    assert audit(floats, floats, settings).is_accepted


def test_weights_that_absorbed_a_factor_are_compared_by_direction():
    """ONNX Runtime folds a multiplication into the convolution before it and renames the weight."""
    model = onnx.load_from_string(artifacts.quantized_onnx("conv", "static8"))
    old, new = "pointwise.weight_quantized", "ConvMulFusion_W_pointwise.weight_quantized"
    factors = np.linspace(0.5, 2, 64, dtype=np.float32)
    for tensor in model.graph.initializer:
        if tensor.name == "pointwise.weight_scale":
            values = numpy_helper.to_array(tensor) * factors
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        if tensor.name == old:
            integers, tensor.name = numpy_helper.to_array(tensor), new
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
    assert audit(artifacts.float_onnx("conv"), model.SerializeToString(), STATIC8).is_accepted
    for tensor in model.graph.initializer:
        if tensor.name == new:
            tensor.CopyFrom(numpy_helper.from_array(integers[::-1].copy(), new))
    report = audit(artifacts.float_onnx("conv"), model.SerializeToString(), STATIC8)
    assert kinds(report, "fatal") == {"wrong values"}


def test_a_pattern_that_is_no_regular_expression_is_the_users_mistake():
    settings = Quantize(
        precision="int8", activations="static", overrides=(Override(pattern="(", precision="int8"),)
    )
    with pytest.raises(StepError, match=r"'\(' is no regular expression"):
        audit_recipe("conv", "onnx", "static8", settings)


def cell(operator, gates, stored):
    """A recurrent layer; ``stored`` keeps its weights as INT8 with a scale, widened when loaded."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal((1, gates * 16, size)).astype(np.float32)
        for name, size in (("w", 8), ("r", 16))
    }
    nodes = [onnx.helper.make_node(operator, ["x", "w", "r"], ["y"], hidden_size=16)]
    constants = dict(weights)
    if stored:
        constants = {}
        for name, value in weights.items():
            scale = np.abs(value).max(axis=2, keepdims=True) / 127
            constants[f"{name}_quantized"] = np.round(value / scale).astype(np.int8)
            constants[f"{name}_scale"] = scale.astype(np.float32)
            wide = f"{name}_wide"
            cast = onnx.helper.make_node("Cast", [f"{name}_quantized"], [wide], to=1)
            nodes[:0] = [cast, onnx.helper.make_node("Mul", [wide, f"{name}_scale"], [name])]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [4, 1, 8])],
        [onnx.helper.make_tensor_value_info("y", 1, [4, 1, 1, 16])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    sets = [onnx.helper.make_opsetid("", 21)]
    return onnx.helper.make_model(graph, opset_imports=sets, ir_version=10).SerializeToString()


@pytest.mark.parametrize(
    ("operator", "gates", "settings"),
    [("GRU", 3, DYNAMIC8), ("GRU", 3, STATIC8), ("LSTM", 4, STATIC8)],
)
def test_a_recurrent_layer_that_no_engine_runs_in_integers_is_noted(operator, gates, settings):
    report = audit(cell(operator, gates, False), cell(operator, gates, True), settings)
    assert report.is_accepted
    assert kinds(report, "note") == {"float compute"}
    assert figure(report, "compute_integer_share") == 0.0


def test_an_lstm_that_could_have_run_in_integers_is_a_fallback():
    report = audit(cell("LSTM", 4, False), cell("LSTM", 4, True), DYNAMIC8)
    assert not report.is_accepted
    assert kinds(report, "counted") == {"float compute"}


def test_four_bit_convolutions_are_said_to_run_in_eight():
    report = audit_recipe("conv", "tflite", "static4", STATIC4, tolerance=1.0)
    (found,) = [item for item in report.findings if item.kind == "widened to run"]
    assert found.severity == "note"
    assert found.share == pytest.approx((STEM + POINTWISE) / ALL)
    assert found.message.startswith("2 convolutions with int4 weights")
    assert found.found == "int4 weights, int8 compute"
    assert figure(report, "compute_integer_share") == 1.0


def test_four_bit_weights_of_float_layers_are_said_to_be_made_floats_once():
    report = audit_recipe("conv", "tflite", "weight4", WEIGHT4, tolerance=1.0)
    (found,) = [item for item in report.findings if item.kind == "widened to run"]
    assert found.severity == "note"
    assert found.found == "int4 weights, float32 compute"
    # ai-edge-quantizer leaves the depthwise one in floats.
    assert found.share == pytest.approx(1 - DEPTHWISE / ALL)
    assert found.message.startswith("3 layers with int4 weights")
    assert figure(report, "compute_integer_share") == 0.0


@pytest.mark.parametrize(
    ("name", "recipe", "settings"), [("conv", "static8", STATIC8), ("text", "dynamic4", DYNAMIC4)]
)
def test_other_layers_are_not_said_to_run_in_more_bits_than_stored(name, recipe, settings):
    report = audit_recipe(name, "tflite", recipe, settings)
    assert "widened to run" not in kinds(report, "note", "counted", "fatal")
