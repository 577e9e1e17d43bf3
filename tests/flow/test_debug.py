"""debug on real bundles of both targets: healthy ones, and ones with a layer spoiled on purpose."""

from dataclasses import replace
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper

import edgekit
from edgekit.bundle.seal import seal_bundle
from edgekit.bundle.verify import verify_bundle
from edgekit.core.errors import BundleError, InputError
from edgekit.store import Store
from tests.flow import tiny

STATIC = {"quantize": {"precision": "int8", "activations": "static"}}
SECOND = "network.second"


def make(builds, target, **settings):
    return builds.build(
        "edge-server",
        tiny.workload(),
        target=target,
        settings={"quantize": {**STATIC["quantize"], **settings}},
        limits={"latency_ratio": 1000.0, "metric_drop": 1000.0},
    ).bundle


@pytest.fixture(scope="module", params=["litert", "onnx"])
def bundle(request, builds):
    """A bundle with static INT8, on each target."""
    return make(builds, request.param)


def shipped(bundle):
    found = verify_bundle(bundle)
    return bytes(found.read(found.manifest.components[0].artifact.entry))


def with_artifact(bundle, content, out):
    """The same bundle with another artifact, sealed again."""
    found = verify_bundle(bundle)
    files = {**found.contents, found.manifest.components[0].artifact.entry: content}
    manifest = replace(found.manifest, files=())
    seal_bundle(out, manifest, files, lambda name: replace(found.evidence, bundle_id=name))
    return out


def float_file(bundle, folder):
    """The float export of a bundle, as a user would keep it."""
    found = verify_bundle(bundle)
    [record] = [item for item in found.manifest.lineage.stages if item.name == "export"]
    with Store() as store:
        result = store.get(record.key)
        [source] = [path for path in result.folder.iterdir() if path.name.startswith("model.")]
        target = Path(folder) / source.name
        target.write_bytes(source.read_bytes())
    return target


def spoil_onnx(content, change):
    model = onnx.load_from_string(content)
    constants = {item.name: item for item in model.graph.initializer}
    change(model, constants)
    return model.SerializeToString()


def spoil_tflite(content, change):
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model, model.subgraphs[0])
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def set_constant(tensor, values):
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def garbage(content):
    """The second convolution's weights in another order."""
    draw = np.random.default_rng(0)

    def in_onnx(model, constants):
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        maker = {node.output[0]: node for node in model.graph.node}
        tensor = constants[maker[convolutions[1].input[1]].input[0]]
        values = numpy_helper.to_array(tensor)
        set_constant(tensor, draw.permutation(values.ravel()).reshape(values.shape))

    def in_tflite(model, graph):
        [first, _] = [item for item in graph.operators if _code(model, item) == "CONV_2D"]
        buffer = model.buffers[graph.tensors[first.inputs[1]].buffer]
        buffer.data = draw.permutation(np.asarray(buffer.data))

    return (
        spoil_tflite(content, in_tflite)
        if content[4:8] == b"TFL3"
        else spoil_onnx(content, in_onnx)
    )


def narrow(content):
    """The third convolution's output with a tenth of its range."""

    def in_onnx(model, constants):
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        [reader] = [node for node in model.graph.node if convolutions[2].output[0] in node.input]
        assert reader.op_type == "QuantizeLinear"
        tensor = constants[reader.input[1]]
        set_constant(tensor, numpy_helper.to_array(tensor) * np.float32(0.1))

    def in_tflite(model, graph):
        [_, last] = [item for item in graph.operators if _code(model, item) == "CONV_2D"]
        [moved] = [item for item in graph.operators if _code(model, item) == "TRANSPOSE"]
        quantizations = {
            id(item): item
            for operator in (last, moved)
            for item in [graph.tensors[operator.outputs[0]].quantization]
        }
        for item in quantizations.values():
            item.scale = np.asarray(item.scale, np.float32) * np.float32(0.1)

    return (
        spoil_tflite(content, in_tflite)
        if content[4:8] == b"TFL3"
        else spoil_onnx(content, in_onnx)
    )


def _code(model, operator):
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    return names[model.operatorCodes[operator.opcodeIndex].builtinCode]


def test_a_healthy_bundle_is_good_with_every_layer_compared(bundle):
    result = edgekit.debug(bundle)
    assert result.is_good
    assert result.first_wrong is None
    assert (result.compared_layers, result.all_layers, result.unmatched) == (4, 4, ())
    assert (result.matched_by, result.float_source, result.samples) == ("name", "the cache", 8)
    labels = [item.layer for item in result.layers if item.weights]
    assert labels == ["network.first", SECOND, "network.third", "network.scores"]
    assert result.engine_difference <= 1
    assert all(item.snr_db > 30 for item in result.layers)


def test_weights_replaced_by_garbage_are_the_first_that_goes_wrong(bundle, tmp_path):
    spoiled = with_artifact(bundle, garbage(shipped(bundle)), tmp_path / "spoiled")
    result = edgekit.debug(spoiled)
    assert result.wrong.layer == SECOND
    assert result.wrong.weight_snr_db < 3
    assert "no rounding explains that" in result.mends[0].evidence
    assert not result.is_good


def test_a_range_cut_to_a_tenth_is_the_first_that_goes_wrong(bundle, tmp_path):
    spoiled = with_artifact(bundle, narrow(shipped(bundle)), tmp_path / "spoiled")
    result = edgekit.debug(spoiled)
    assert result.wrong.layer == "network.third"
    assert result.wrong.outside_share > 0.1
    assert "calibrate on more samples" in result.mends[0].remedy


def test_a_float_file_stands_in_for_an_empty_cache(bundle, tmp_path, monkeypatch):
    given, before = float_file(bundle, tmp_path), edgekit.debug(bundle, samples=3)
    spoiled = with_artifact(bundle, garbage(shipped(bundle)), tmp_path / "spoiled")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"--float FILE, or build it again.*--target"):
        edgekit.debug(bundle)
    result = edgekit.debug(bundle, float_file=given, samples=3)
    assert (result.matched_by, result.samples) == ("structure", 3)
    assert [item.snr_db for item in result.layers] == [item.snr_db for item in before.layers]
    wrong = edgekit.debug(spoiled, float_file=given).wrong
    assert wrong.weight_snr_db < 3
    assert "second" in wrong.layer


def test_samples_of_the_users_own_are_compared_on(bundle):
    images, _ = tiny.pictures(2, 9)
    result = edgekit.debug(bundle, inputs=list(images))
    assert result.samples == 2
    assert result.engine_difference is None
    assert result.is_good
    with pytest.raises(InputError, match="no sample"):
        edgekit.debug(bundle, inputs=[])
    with pytest.raises(InputError, match="NaN"):
        edgekit.debug(bundle, inputs=[np.full(tiny.SHAPE, np.nan, np.float32)])


def test_a_damaged_bundle_is_refused_before_anything_runs(bundle, tmp_path):
    found = verify_bundle(bundle)
    for path, content in found.contents.items():
        (tmp_path / "b" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / path).write_bytes(content)
    for name in ("manifest.json", "evidence.json"):
        (tmp_path / "b" / name).write_bytes((Path(bundle) / name).read_bytes())
    edgekit.debug(tmp_path / "b", samples=1)
    entry = tmp_path / "b" / found.manifest.components[0].artifact.entry
    entry.write_bytes(entry.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BundleError):
        edgekit.debug(tmp_path / "b")


def test_float_files_that_do_not_fit_are_refused(bundle, tmp_path):
    kind = Path(verify_bundle(bundle).manifest.components[0].artifact.entry).suffix
    (tmp_path / f"quantized{kind}").write_bytes(shipped(bundle))
    with pytest.raises(InputError, match="has weights stored as int8"):
        edgekit.debug(bundle, float_file=tmp_path / f"quantized{kind}")
    with pytest.raises(InputError, match="cannot be read"):
        edgekit.debug(bundle, float_file=tmp_path / "absent.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InputError):
        edgekit.debug(bundle, float_file=tmp_path / "text.onnx")
    with pytest.raises(InputError, match="samples is 0"):
        edgekit.debug(bundle, samples=0)


@pytest.mark.slow
def test_weights_alone_in_four_bits_are_compared_by_their_outputs(builds):
    made = make(builds, "onnx", precision="int4", activations="none")
    result = edgekit.debug(made)
    assert {item.weights for item in result.layers} >= {"int4"}
    assert all(item.saturated_share is None for item in result.layers)
    fours = [item for item in result.layers if item.weights == "int4"]
    assert all(10 < item.weight_snr_db < 25 for item in fours)
    assert result.compared_layers == result.all_layers == 4
