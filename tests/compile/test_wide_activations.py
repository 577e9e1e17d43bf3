"""INT8 weights with activations of 16 bits, in both runtimes."""

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgekit.compile.litert_quantize import quantize_model
from edgekit.compile.onnx_quantize import apply
from edgekit.compile.onnx_ranges import Samples
from edgekit.core.artifact import Artifact, Binding
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.strategy import Override, Quantize
from edgekit.data.dataset import DatasetWriter, open_dataset
from edgekit.graph import read_graph
from edgekit.graph.weights import weight_layers
from tests.graph import artifacts

REPORTER = Reporter(stage="test")
IMAGES = artifacts.images(16)


def settings(bits, **more):
    return Quantize(precision="int8", activations="static", activation_bits=bits, **more)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide") / "set"
    with DatasetWriter(folder) as writer:
        for image in IMAGES:
            writer.append({"image": image})
    return folder


def litert(calibration, chosen):
    artifact = Artifact(
        format="tflite",
        runtime="litert",
        entry="model.tflite",
        precision="float32",
        inputs=(Binding(name="image", position=0),),
        outputs=(Binding(name="scores", position=0),),
        batch=1,
    )
    content, data = artifacts.float_tflite("conv"), open_dataset(calibration)
    return quantize_model(content, artifact, {}, chosen, data, REPORTER)


def float_onnx():
    model = onnx.load_from_string(artifacts.float_onnx("conv"))
    return onnx.version_converter.convert_version(model, 21)


def in_onnx(calibration, chosen, scratch):
    model = float_onnx()
    samples = Samples(
        dataset=lambda: open_dataset(calibration),
        batch=1,
        inputs={"image": model.graph.input[0].name},
        reporter=REPORTER,
    )
    return apply(model, {}, chosen, samples, scratch)


def run_litert(content):
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (taken,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for image in IMAGES:
        value = image[None]
        if given["dtype"] == np.int16:
            value = np.clip(np.rint(value / given["quantization"][0]), -32768, 32767)
        interpreter.set_tensor(given["index"], value.astype(given["dtype"]))
        interpreter.invoke()
        found = interpreter.get_tensor(taken["index"]).astype(np.float32)
        rows.append(found * (taken["quantization"][0] or 1))
    return np.concatenate(rows)


def run_onnx(model):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in IMAGES])


def error(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_litert_runs_16_bits_in_integers_and_is_nearer_to_float(calibration):
    wanted = run_litert(artifacts.float_tflite("conv"))
    eight, sixteen = (litert(calibration, settings(bits)) for bits in (8, 16))
    # What is left is the rounding of the weights, which both have alike.
    assert error(run_litert(sixteen.content), wanted) < 0.6 * error(
        run_litert(eight.content), wanted
    )
    found = {
        (item.precision, item.activations, item.activation_bits, item.is_integer)
        for item in weight_layers(read_graph(sixteen.content, name="m"))
    }
    assert found == {("int8", "static", 16, True)}
    assert any("16 bits" in note and "slower" in note for note in sixteen.notes)


def test_litert_takes_integers_of_16_bits_where_all_is_integer(calibration):
    made = litert(calibration, settings(16, is_integer_only=True))
    graph = read_graph(made.content, name="m").subgraphs[0]
    assert [graph.tensors[index].dtype for index in (*graph.inputs, *graph.outputs)] == [
        "int16"
    ] * 2
    wanted = run_litert(artifacts.float_tflite("conv"))
    assert error(run_litert(made.content), wanted) < 0.01


def test_litert_refuses_4_bit_layers_beside_them(calibration):
    mixed = settings(16, overrides=(Override(pattern="pointwise", precision="int4"),))
    with pytest.raises(StepError, match="16 bits go with int8 weights"):
        litert(calibration, mixed)


@pytest.mark.parametrize("is_unsigned", [False, True])
def test_onnx_runtime_runs_16_bits_as_floats_and_is_nearer_to_float(
    calibration, tmp_path, is_unsigned
):
    wanted = run_onnx(float_onnx())
    eight, sixteen = (
        in_onnx(calibration, settings(bits, is_unsigned=is_unsigned), tmp_path) for bits in (8, 16)
    )
    assert error(run_onnx(sixteen.model), wanted) < 0.6 * error(run_onnx(eight.model), wanted)
    layers = weight_layers(read_graph(sixteen.model.SerializeToString(), name="m"))
    found = {(item.precision, item.activations, item.activation_bits) for item in layers}
    assert found == {("int8", "static", 16)}
    assert not any(item.is_integer for item in layers)
    assert any("no 16-bit kernels" in note for note in sixteen.notes)
