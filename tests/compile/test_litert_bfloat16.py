import flatbuffers
import ml_dtypes
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgekit.compile.litert_bfloat16 import store_as_bfloat16
from edgekit.compile.litert_names import follow_names
from edgekit.compile.litert_quantize import quantize_model
from edgekit.compile.strip_tflite import strip_tflite
from edgekit.core.artifact import Artifact, Binding
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.strategy import Override, Quantize
from edgekit.graph import read_graph
from edgekit.graph.weights import weight_layers
from edgekit.measure.audit import audit_quantization
from tests.graph import artifacts

BF16 = Quantize(precision="bf16", activations="none")
ARTIFACT = Artifact(
    format="tflite",
    runtime="litert",
    entry="model.tflite",
    precision="float32",
    inputs=(Binding(name="image", position=0),),
    outputs=(Binding(name="scores", position=0),),
    batch=1,
)


def quantized(settings, content=None):
    content = content or artifacts.float_tflite("conv")
    return quantize_model(content, ARTIFACT, {}, settings, None, Reporter(stage="test"))


def run(content):
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], artifacts.images(1))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def with_weights(change):
    """The float file with its large constants changed: (values by index of buffer) -> values."""
    content = artifacts.float_tflite("conv")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for tensor in model.subgraphs[0].tensors:
        if tensor.type == schema.TensorType.FLOAT32 and len(tensor.shape) > 1:
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data):
                values = np.asarray(data, np.uint8).view(np.float32)
                model.buffers[tensor.buffer].data = change(values).view(np.uint8)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_litert_computes_with_the_weights_of_ml_dtypes():
    rounded = with_weights(lambda values: values.astype(ml_dtypes.bfloat16).astype(np.float32))
    found = run(quantized(BF16).content)
    # Other kernels than XNNPACK's sum in another order: float32's rounding.
    np.testing.assert_allclose(found, run(rounded), rtol=1e-4, atol=1e-5)
    assert np.abs(found - run(artifacts.float_tflite("conv"))).max() > 0


def test_the_audit_finds_bfloat16_and_says_that_it_buys_no_speed():
    made = quantized(BF16)
    for content in (made.content, strip_tflite(made.content, "m")):
        graph = read_graph(content, name="m")
        assert {item.precision for item in weight_layers(graph)} == {"bfloat16"}
    before = read_graph(artifacts.float_tflite("conv"), name="float")
    report = audit_quantization(
        before,
        read_graph(made.content, name="m"),
        settings=BF16,
        tensor_map={},
        tolerance=0.0,
    )
    assert report.is_accepted
    (note,) = report.findings
    assert "at every run" in note.message
    assert any("several times slower" in item for item in made.notes)


def test_one_layer_in_bfloat16_leaves_the_others_to_their_own_precision():
    settings = Quantize(
        precision="int8",
        activations="dynamic",
        overrides=(Override(pattern="pointwise", precision="bf16"),),
    )
    made = quantized(settings)
    found = [item.precision for item in weight_layers(read_graph(made.content, name="m"))]
    assert sorted(found) == ["bfloat16", "int8", "int8", "int8"]
    assert np.isfinite(run(made.content)).all()


def test_a_layer_in_bfloat16_keeps_its_module_path():
    before = weight_layers(read_graph(artifacts.float_tflite("conv"), name="float"))
    paths = {item.tensor.name: f"module.{place}" for place, item in enumerate(before)}
    graph = read_graph(quantized(BF16).content, name="m")
    followed = follow_names(graph, paths)
    assert [followed[item.tensor.name] for item in weight_layers(graph)] == list(paths.values())


def test_values_past_bfloat16_are_refused_by_the_tensor():
    large = with_weights(
        lambda values: np.where(values == values.max(), 3.4e38, values).astype("f4")
    )
    with pytest.raises(StepError, match="past bfloat16's range; keep that layer in float"):
        quantized(BF16, large)


def test_names_that_no_constant_has_change_nothing_but_the_tables():
    content = artifacts.float_tflite("conv")
    np.testing.assert_array_equal(run(store_as_bfloat16(content, ["other"])), run(content))


@pytest.mark.parametrize("precision", ["fp8_e4m3", "fp8_e5m2", "nf4"])
def test_other_small_floats_are_refused_with_what_litert_stores(precision):
    with pytest.raises(StepError, match=f"no storage for {precision}.*int8, int4, fp16, bf16"):
        quantized(Quantize(precision=precision, activations="none"))
