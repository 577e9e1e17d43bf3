import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from edgekit.compile import litert
from edgekit.compile.capture import capture
from edgekit.compile.litert_parity import relative_error
from edgekit.compile.strip_tflite import strip_tflite
from edgekit.core.codec import to_plain
from edgekit.core.contract import Contract, Image, InputContract, OutputContract, Tensor
from edgekit.core.errors import CompileError, InputError, StepError
from edgekit.core.stage import StageRequest
from edgekit.core.strategy import Override, Quantize
from edgekit.data.dataset import DatasetWriter
from edgekit.graph.reader import read_graph
from edgekit.graph.weights import weight_layers
from edgekit.runtime.litert import LiteRtEngine
from tests.compile import models
from tests.compile.conftest import (
    WORKLOADS,
    export_request,
    quantize_request,
    write_calibration,
)

STATIC8 = Quantize(precision="int8", activations="static")
DYNAMIC8 = Quantize(precision="int8", activations="dynamic")
STATIC4 = Quantize(precision="int4", activations="static")
FP16 = Quantize(precision="fp16", activations="none")


def run_raw(path, artifact, inputs):
    """Outputs by name, from LiteRT's own interpreter, sample by sample, scaled by hand."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    given = interpreter.get_input_details()
    position = {item["name"]: item["position"] for item in artifact["inputs"]}
    rows = []
    for row in range(len(next(iter(inputs.values())))):
        for name, values in inputs.items():
            interpreter.resize_tensor_input(
                given[position[name]]["index"], (1, *values.shape[1:]), strict=False
            )
        interpreter.allocate_tensors()
        for name, values in inputs.items():
            details = given[position[name]]
            interpreter.set_tensor(details["index"], to_stored(values[row : row + 1], details))
        interpreter.invoke()
        results = interpreter.get_output_details()
        rows.append(
            {
                item["name"]: to_real(interpreter.get_tensor(out["index"]), out)
                for item in artifact["outputs"]
                for out in [results[item["position"]]]
            }
        )
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def to_stored(values, details):
    scale, zero_point = details["quantization"]
    if not scale:
        return values.astype(details["dtype"])
    return np.clip(np.round(values / scale) + zero_point, -128, 127).astype(np.int8)


def to_real(values, details):
    scale, zero_point = details["quantization"]
    return (values.astype(np.float32) - zero_point) * scale if scale else values


def torch_outputs(model, inputs):
    with torch.no_grad():
        result = model.workload.model(
            *(torch.from_numpy(inputs[name]) for name in model.workload.inputs)
        )
    named = result if isinstance(result, dict) else {next(iter(model.workload.outputs)): result}
    return {name: value.numpy() for name, value in named.items()}


def precisions(folder):
    graph = read_graph((folder / "model.tflite").read_bytes(), name="model")
    return {item.operator.name: item.precision for item in weight_layers(graph)}


def quantized(model, settings, root, reporter, samples=32):
    out = root / "quantized"
    out.mkdir()
    calibration = write_calibration(model, root / "calibration", samples)
    answer = litert.quantize(quantize_request(model, settings, calibration), out, reporter)
    return out, answer


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_an_exported_model_gives_torchs_outputs_by_name(name, exported):
    model = exported(name)
    inputs = model.inputs(4)
    found = run_raw(model.folder / "model.tflite", model.artifact, inputs)
    for output, wanted in torch_outputs(model, inputs).items():
        assert found[output].shape == wanted.shape
        # Float kernels on both sides; sums in another order through a handful of layers.
        np.testing.assert_allclose(found[output], wanted, rtol=1e-3, atol=1e-4)


def test_only_a_dynamic_model_takes_any_batch(exported):
    assert exported("dynamic cnn").artifact["batch"] == 0
    assert exported("cnn").artifact["batch"] == 1


def test_every_folded_weight_is_mapped_to_its_convolution(exported):
    model = exported("cnn")
    graph = read_graph((model.folder / "model.tflite").read_bytes(), name="model")
    paths = json.loads((model.folder / "tensor_map.json").read_bytes())
    module = model.workload.model
    seen = {}
    for layer in weight_layers(graph):
        seen[paths[layer.tensor.name]] = graph.constant_array(layer.tensor.index)
    assert set(seen) == {"stem", "body", "depthwise", "pointwise", "classifier"}
    for name, norm in (("stem", module.stem_norm), ("body", module.body_norm)):
        # Batch norm folded by hand: w * gamma / sqrt(var + eps).
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        folded = getattr(module, name).weight * factor[:, None, None, None]
        wanted = folded.detach().numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(seen[name], wanted, rtol=1e-4, atol=1e-6)


def test_an_embedding_and_all_attention_layers_are_mapped(exported):
    model = exported("transformer")
    graph = read_graph((model.folder / "model.tflite").read_bytes(), name="model")
    paths = json.loads((model.folder / "tensor_map.json").read_bytes())
    found = {paths[layer.tensor.name] for layer in weight_layers(graph)}
    layers = {f"layers.{i}.{name}" for i in (0, 1) for name in ("qkv", "out", "up", "down")}
    assert found == {"tokens"} | layers


EXPORT_TWICE = """
import hashlib, sys
from pathlib import Path
from edgekit.compile import litert
from edgekit.core.progress import Reporter
from edgekit.core.codec import from_plain
from edgekit.core.contract import Contract
from edgekit.core.stage import StageRequest
import json
settings, model, calibration, out, quantize = sys.argv[1:]
out = Path(out)
(out / "float").mkdir(parents=True); (out / "int8").mkdir()
plain = json.loads(settings)
reporter = Reporter(stage="x")
request = StageRequest(name="e", handler="", settings=plain, inputs={"model": model})
answer = litert.export(request, out / "float", reporter)
plain = {**plain, "artifact": answer["artifact"], "quantize": json.loads(quantize)}
inputs = {"float": str(out / "float"), "calibration": calibration}
request = StageRequest(name="q", handler="", settings=plain, inputs=inputs)
litert.quantize(request, out / "int8", reporter)
"""


def test_two_processes_write_the_same_bytes_and_say_nothing(exported, tmp_path):
    model = exported("cnn")
    calibration = write_calibration(model, tmp_path / "calibration")
    digests = []
    for seed in ("1", "2"):
        settings = json.dumps({"contract": to_plain(model.contract)})
        arguments = (settings, model.captured, calibration, tmp_path / seed)
        done = subprocess.run(
            [
                *(sys.executable, "-c", EXPORT_TWICE),
                *map(str, arguments),
                json.dumps(to_plain(STATIC8)),
            ],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        )
        assert (done.stdout, done.stderr) == ("", "")
        files = sorted((tmp_path / seed).rglob("*.*"))
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert len(digests[0]) == 5
    assert digests[0] == digests[1]


def capture_into(root, model, inputs, outputs, told):
    root.mkdir()
    return capture(models.workload_of(model.eval(), inputs, outputs), root, told.reporter).contract


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Deep(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.solver = Calls(function)

    def forward(self, x):
        return torch.relu(self.solver(x))


@pytest.mark.parametrize(
    ("function", "operator"),
    [(torch.linalg.inv, "aten.linalg_inv_ex"), (torch.special.bessel_j0, "special_bessel_j0")],
)
def test_an_operator_that_litert_has_not_is_named_with_its_module(
    function, operator, tmp_path, told
):
    inputs = {"x": Tensor(shape=(3, 3))}
    contract = capture_into(tmp_path / "captured", Deep(function), inputs, ["y"], told)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CompileError, match=rf"no form of the operator .*{operator}.* in 'solver'"):
        litert.export(export_request(tmp_path / "captured", contract), out, told.reporter)
    assert list(out.iterdir()) == []


def test_a_graph_that_computes_something_else_is_refused(exported, tmp_path, told, monkeypatch):
    other, model = exported("mlp"), exported("mlp")
    content = bytearray((other.folder / "model.tflite").read_bytes())
    graph = read_graph(bytes(content), name="model")
    weight = weight_layers(graph)[0].tensor
    place = bytes(content).index(bytes(graph.constant_data(weight.index)))
    damaged = np.frombuffer(content, np.float32, count=200, offset=place)
    damaged *= 1.5
    monkeypatch.setattr(litert, "convert_program", lambda *args, **keywords: bytes(content))
    with pytest.raises(CompileError, match="differs from torch by"):
        litert.export(export_request(model.captured, model.contract), tmp_path, told.reporter)


def test_an_open_batch_that_the_engine_refuses_becomes_a_batch_of_one(tmp_path, told):
    model = nn.Conv2d(3, 1, 1).eval()
    inputs = {"x": Tensor(shape=(3, 8, 8))}
    workload = models.workload_of(model, inputs, ["y"], has_dynamic_batch=True)
    captured, out = tmp_path / "captured", tmp_path / "out"
    captured.mkdir()
    out.mkdir()
    contract = capture(workload, captured, told.reporter).contract
    answer = litert.export(export_request(captured, contract), out, told.reporter)
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    found = LiteRtEngine((out / "model.tflite").read_bytes()).run([x])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert answer["artifact"]["batch"] == 1
    assert any("batch axis cannot stay open" in text for text in told.of("warning"))


def test_relative_error_is_a_share_of_the_largest_value():
    wanted = np.array([0.0, 10.0])
    assert relative_error([np.array([0.1, 10.0])], [wanted]) == pytest.approx(0.01)
    assert relative_error([np.array([np.nan, 10.0])], [wanted]) == float("inf")
    assert relative_error([wanted], [np.array([np.inf, 10.0])]) == float("inf")


def test_an_input_that_the_model_does_not_use_is_named(tmp_path, told):
    class Ignores(nn.Module):
        def forward(self, x, unused):
            return x * 2

    inputs = {"x": Tensor(shape=(4,)), "unused": Tensor(shape=(4,))}
    contract = capture_into(tmp_path / "captured", Ignores(), inputs, ["y"], told)
    out = tmp_path / "out"
    out.mkdir()
    request = export_request(tmp_path / "captured", contract)
    try:
        answer = litert.export(request, out, told.reporter)
    except CompileError as error:
        assert "unused" in str(error)  # noqa: PT017  # either is right, silence is not
    else:
        assert [item["name"] for item in answer["artifact"]["inputs"]] == ["x", "unused"]


def take_file(path, contract, out, told):
    request = StageRequest(
        name="export",
        handler="",
        settings={"contract": to_plain(contract)},
        inputs={"model": str(path.parent)},
    )
    return litert.export(request, out, told.reporter)


def plain_contract(inputs=1, outputs=1, head=1):
    source = Tensor(shape=(64,))
    return Contract(
        inputs=tuple(
            InputContract(name=f"i{n}", dtype="float32", shape=(head, 64), source=source)
            for n in range(inputs)
        ),
        outputs=tuple(
            OutputContract(name=f"o{n}", dtype="float32", shape=(head, 10)) for n in range(outputs)
        ),
    )


def test_a_users_float_file_is_taken_as_it_is_and_quantized(exported, tmp_path, told):
    model = exported("mlp")
    out = tmp_path / "out"
    out.mkdir()
    contract = plain_contract()
    answer = take_file(model.folder / "model.tflite", contract, out, told)
    assert (out / "model.tflite").read_bytes() == (model.folder / "model.tflite").read_bytes()
    assert answer["artifact"]["inputs"] == [{"name": "i0", "position": 0}]
    assert answer["artifact"]["batch"] == 1
    request = StageRequest(
        name="quantize",
        handler="",
        settings={"artifact": answer["artifact"], "quantize": to_plain(DYNAMIC8)},
        inputs={"float": str(out), "calibration": str(tmp_path)},
    )
    result = tmp_path / "int8"
    result.mkdir()
    assert litert.quantize(request, result, told.reporter)["changed"]
    assert precisions(result) == {"FULLY_CONNECTED": "int8"}


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 1), (1, 2)])
def test_a_users_file_with_another_interface_is_refused(inputs, outputs, exported, tmp_path, told):
    model = exported("mlp")
    with pytest.raises(CompileError, match="the contract 2"):
        take_file(model.folder / "model.tflite", plain_contract(inputs, outputs), tmp_path, told)


def test_a_users_quantized_file_is_refused(exported, tmp_path, told):
    model = exported("mlp")
    folder, _ = quantized(model, DYNAMIC8, tmp_path, told.reporter)
    with pytest.raises(CompileError, match="quantized already"):
        take_file(folder / "model.tflite", plain_contract(), tmp_path, told)


def test_static_int8_makes_every_layer_integer_and_stays_close(exported, tmp_path, told):
    model = exported("cnn")
    folder, answer = quantized(model, STATIC8, tmp_path, told.reporter)
    assert answer["changed"]
    assert answer["artifact"]["precision"] == "int8"
    assert set(precisions(folder).values()) == {"int8"}
    inputs = model.inputs(16, seed=2)
    found = run_raw(folder / "model.tflite", answer["artifact"], inputs)["logits"]
    wanted = torch_outputs(model, inputs)["logits"]
    # 8 bits of the calibrated range a layer, five layers: a few hundredths of the largest value.
    assert np.abs(found - wanted).max() < 0.06 * np.abs(wanted).max()


def test_int8_weights_are_what_rounding_a_channel_by_hand_gives(exported, tmp_path, told):
    model = exported("mlp")
    folder, _ = quantized(model, DYNAMIC8, tmp_path, told.reporter)
    graph = read_graph((folder / "model.tflite").read_bytes(), name="model")
    layer = weight_layers(graph)[0]
    weight = model.workload.model.layers[0].weight.detach().numpy()
    scale = np.abs(weight).max(1, keepdims=True) / 127
    by_hand = np.round(weight / scale)
    # A value halfway between two steps may go either way.
    assert np.abs(graph.constant_array(layer.tensor.index) - by_hand).max() <= 1
    np.testing.assert_allclose(layer.tensor.quantization.scales, scale[:, 0], rtol=1e-5)


def test_dynamic_int8_takes_the_embedding_as_well(exported, tmp_path, told):
    model = exported("transformer")
    folder, answer = quantized(model, DYNAMIC8, tmp_path, told.reporter)
    assert precisions(folder) == {"EMBEDDING_LOOKUP": "int8", "FULLY_CONNECTED": "int8"}
    inputs = model.inputs(8, seed=2)
    found = run_raw(folder / "model.tflite", answer["artifact"], inputs)["embedding"]
    wanted = torch_outputs(model, inputs)["embedding"]
    cosine = (
        (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    )
    assert cosine.min() > 0.99


def test_int4_keeps_ends_and_depthwise_at_8_bits_and_says_so(exported, tmp_path, told):
    model = exported("cnn")
    folder, answer = quantized(model, STATIC4, tmp_path, told.reporter)
    graph = read_graph((folder / "model.tflite").read_bytes(), name="model")
    paths = json.loads((folder / "tensor_map.json").read_bytes())
    assert {paths[item.tensor.name]: item.precision for item in weight_layers(graph)} == {
        "stem": "int8",
        "body": "int4",
        "depthwise": "int8",
        "pointwise": "int4",
        "classifier": "int8",
    }
    assert "stem and 1 more layer: 8 bits, as the first or last layer" in answer["notes"][0]
    assert answer["notes"][1] == "depthwise: 8 bits; LiteRT has no 4-bit DEPTHWISE_CONV_2D"
    assert told.of("note") == answer["notes"]
    inputs = model.inputs(16, seed=2)
    found = run_raw(folder / "model.tflite", answer["artifact"], inputs)["logits"]
    assert np.corrcoef(found.ravel(), torch_outputs(model, inputs)["logits"].ravel())[0, 1] > 0.95


def test_int4_in_blocks_where_the_columns_allow_it(exported, tmp_path, told):
    model = exported("mlp")
    settings = Quantize(
        precision="int4", activations="dynamic", block_size=64, keep_first_last_int8=False
    )
    folder, answer = quantized(model, settings, tmp_path, told.reporter)
    assert precisions(folder) == {"FULLY_CONNECTED": "int4"}
    assert answer["notes"] == ["layers.2: a scale for each channel; 96 columns are no blocks of 64"]
    inputs = model.inputs(16, seed=2)
    found = run_raw(folder / "model.tflite", answer["artifact"], inputs)["logits"]
    assert np.corrcoef(found.ravel(), torch_outputs(model, inputs)["logits"].ravel())[0, 1] > 0.97


def test_float16_halves_the_weights_and_hardly_moves_the_outputs(exported, tmp_path, told):
    model = exported("cnn")
    folder, answer = quantized(model, FP16, tmp_path, told.reporter)
    assert set(precisions(folder).values()) == {"float16"}
    inputs = model.inputs(4, seed=2)
    found = run_raw(folder / "model.tflite", answer["artifact"], inputs)["logits"]
    # float16 has 11 bits: 2 ** -11 a weight.
    np.testing.assert_allclose(found, torch_outputs(model, inputs)["logits"], rtol=2e-2, atol=1e-2)


def test_overrides_reach_layers_by_module_path(exported, tmp_path, told):
    model = exported("cnn")
    settings = Quantize(
        precision="int8",
        activations="static",
        overrides=(
            Override(pattern="^body$", precision="float"),
            Override(pattern="classifier", precision="fp16"),
            Override(pattern="pointwise", precision="int4"),
        ),
    )
    folder, _ = quantized(model, settings, tmp_path, told.reporter)
    graph = read_graph((folder / "model.tflite").read_bytes(), name="model")
    paths = json.loads((folder / "tensor_map.json").read_bytes())
    assert {paths[item.tensor.name]: item.precision for item in weight_layers(graph)} == {
        "stem": "int8",
        "body": "float32",
        "depthwise": "int8",
        "pointwise": "int4",
        "classifier": "float16",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            Quantize(
                precision="int8",
                activations="dynamic",
                overrides=(Override(pattern="nothing", precision="float"),),
            ),
            r"'nothing' matches no layer; there are: layers\.0, layers\.2, layers\.4",
        ),
        (
            Quantize(
                precision="int8",
                activations="dynamic",
                overrides=(Override(pattern="(", precision="float"),),
            ),
            "is no regular expression",
        ),
        (
            Quantize(
                precision="int8",
                activations="dynamic",
                overrides=(Override(pattern=".", precision="float"),),
            ),
            "no layer of model.tflite would change",
        ),
        (Quantize(precision="int4", activations="dynamic", block_size=48), "32, 64, 128, 256"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings, message, exported, tmp_path, told):
    with pytest.raises(StepError, match=message):
        quantized(exported("mlp"), settings, tmp_path, told.reporter)


def test_static_quantization_without_calibration_data_is_refused(exported, tmp_path, told):
    model = exported("mlp")
    with pytest.raises(InputError):
        litert.quantize(
            quantize_request(model, STATIC8, tmp_path / "none"), tmp_path, told.reporter
        )


def test_settings_without_an_effect_on_litert_are_said(exported, tmp_path, told):
    settings = Quantize(
        precision="int8", activations="dynamic", is_unsigned=True, is_range_reduced=True
    )
    _, answer = quantized(exported("mlp"), settings, tmp_path, told.reporter)
    assert [note.rpartition("; ")[2] for note in answer["notes"]] == [
        "is_unsigned changes nothing here",
        "is_range_reduced changes nothing here",
    ]


def test_several_inputs_are_calibrated_by_name(exported, tmp_path, told):
    model = exported("two by two")
    folder, answer = quantized(model, STATIC8, tmp_path, told.reporter, samples=64)
    inputs = model.inputs(16, seed=2)
    found = run_raw(folder / "model.tflite", answer["artifact"], inputs)
    for name, wanted in torch_outputs(model, inputs).items():
        # 8 bits at the input, inside and at the output.
        assert np.abs(found[name] - wanted).max() < 0.1 * np.abs(wanted).max()


@pytest.mark.slow
def test_resnet_20_reaches_the_figures_that_the_tools_reach_by_hand(data_dir, tmp_path, told):
    inputs = {"image": Image(height=32, width=32)}
    resnet = models.pretrained_resnet(data_dir, 20)
    contract = capture_into(tmp_path / "captured", resnet, inputs, ["logits"], told)
    folder = tmp_path / "float"
    folder.mkdir()
    artifact = litert.export(
        export_request(tmp_path / "captured", contract), folder, told.reporter
    )["artifact"]
    train, _ = models.cifar_images(data_dir / "cifar10_train5000_jpeg.npz")
    with DatasetWriter(tmp_path / "calibration") as writer:
        for image in train[:256]:
            writer.append({"image": image})
    images, labels = models.cifar_images(data_dir / "cifar10_test_dev2000_jpeg.npz")
    original = strip_tflite((folder / "model.tflite").read_bytes(), "float")
    top1 = {}
    for name, settings, share in (
        ("int8", STATIC8, 0.285),
        ("int4", STATIC4, 0.17),
        ("fp16", FP16, 0.52),
    ):
        out = tmp_path / name
        out.mkdir()
        request = StageRequest(
            name="quantize",
            handler="",
            settings={"artifact": artifact, "quantize": to_plain(settings)},
            inputs={"float": str(folder), "calibration": str(tmp_path / "calibration")},
        )
        litert.quantize(request, out, told.reporter)
        stripped = strip_tflite((out / "model.tflite").read_bytes(), name)
        assert len(stripped) <= share * len(original), name
        (out / "stripped.tflite").write_bytes(stripped)
        logits = run_raw(out / "stripped.tflite", artifact, {"image": images})["logits"]
        top1[name] = 100 * (logits.argmax(1) == labels).mean()
    # 81.10 is the float model on these images (SOURCES.md).
    assert top1["int8"] >= 81.10 - 0.3
    assert top1["fp16"] >= 81.10 - 0.1
    assert top1["int4"] >= 78
