"""The two models of a bundle: out of the cache by key and digest, and nothing else for them."""

from dataclasses import replace

import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgekit.bundle.manifest import StageRecord
from edgekit.bundle.seal import seal_bundle
from edgekit.bundle.verify import verify_bundle
from edgekit.compile.strip import strip_bytes
from edgekit.core.codec import canonical_json, to_plain
from edgekit.core.errors import InputError
from edgekit.core.planned import PlannedStep, Strategy
from edgekit.flow.debug import debug
from edgekit.flow.debug_files import find_files
from edgekit.store import Store
from tests.cli.conftest import onnx_bytes, seal_picture_bundle

KEYS = {"export": "a" * 64, "export compressed": "b" * 64, "quantize": "c" * 64}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


def keep(name, content, artifact, paths):
    """A stage's result in the cache, and the manifest's record of it."""

    def produce(out):
        (out / "model.onnx").write_bytes(content)
        (out / "tensor_map.json").write_bytes(canonical_json(paths))
        return {"artifact": to_plain(replace(artifact, entry="model.onnx"))}

    with Store() as store:
        result = store.fill(KEYS[name], produce)
    return StageRecord(name=name, key=KEYS[name], output=result.digest)


def make(folder, *, export="export", steps=(), output=None):
    """A bundle of the tiny model with 8-bit weights, its two models in the cache."""
    plain = seal_picture_bundle(folder / "float")
    found = verify_bundle(plain)
    (folder / "f.onnx").write_bytes(onnx_bytes())
    quantize_dynamic(folder / "f.onnx", folder / "q.onnx", weight_type=QuantType.QInt8)
    quantized = (folder / "q.onnx").read_bytes()
    artifact = found.manifest.components[0].artifact
    paths = {"weights": "head"}
    records = (
        keep(export, onnx_bytes(), artifact, paths),
        keep("quantize", quantized, artifact, paths),
    )
    if output is not None:
        records = tuple(replace(item, output=output) for item in records)
    manifest = replace(
        found.manifest,
        files=(),
        lineage=replace(found.manifest.lineage, stages=records),
        strategy=Strategy(
            steps=tuple(PlannedStep(name=name, is_run=True, reason="asked") for name in steps)
        ),
    )
    files = {**found.contents, artifact.entry: strip_bytes(quantized, "onnx", name="m")}
    out = folder / "bundle"
    seal_bundle(out, manifest, files, lambda name: replace(found.evidence, bundle_id=name))
    return out


def test_both_models_come_out_of_the_cache_with_their_names(tmp_path):
    result = debug(make(tmp_path))
    assert (result.float_source, result.matched_by) == ("the cache", "name")
    [layer] = result.layers
    assert (layer.layer, layer.weights) == ("head", "int8")
    assert result.notes == ()


def test_what_steps_changed_before_is_said_to_be_left_out(tmp_path):
    result = debug(make(tmp_path, export="export compressed", steps=("round", "quantize")))
    [note] = result.notes
    assert "is what round left" in note
    assert "--float FILE" in note


def test_another_result_of_the_same_key_is_not_taken(tmp_path):
    bundle = make(tmp_path, output="d" * 64)
    with pytest.raises(InputError, match="its float model is not in the cache"):
        debug(bundle)
    result = debug(bundle, float_file=tmp_path / "f.onnx")
    assert (result.matched_by, result.layers[0].layer) == ("structure", "weights")


def test_the_file_that_ships_is_the_one_that_is_run(tmp_path):
    found = verify_bundle(make(tmp_path))
    with find_files(found, None) as files:
        assert files.side.model == bytes(found.read("model/model.onnx"))
        assert files.original.side.model == onnx_bytes()
        assert files.named is not None
