"""The command debug: what it prints, and how it ends where there is nothing to compare."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgekit.bundle.manifest import StageRecord
from edgekit.bundle.seal import seal_bundle
from edgekit.bundle.verify import verify_bundle
from edgekit.compile.strip import strip_bytes
from tests.cli.conftest import onnx_bytes


@pytest.fixture
def quantized_bundle(picture_bundle, tmp_path):
    """The tiny bundle with weights of 8 bits, as ONNX Runtime's own tool makes them."""
    source, result = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    source.write_bytes(onnx_bytes())
    quantize_dynamic(source, result, weight_type=QuantType.QInt8)
    found = verify_bundle(picture_bundle)
    artifact = strip_bytes(result.read_bytes(), "onnx", name="m")
    # Keys that no cache knows: one is no key at all, as a bundle from anywhere may have it.
    stages = tuple(
        StageRecord(name=name, key=name[0] * 64, output="0" * 64) for name in ("export", "quantize")
    )
    lineage = replace(found.manifest.lineage, stages=stages)
    manifest = replace(found.manifest, files=(), lineage=lineage)
    files = {**found.contents, "model/model.onnx": artifact}
    out = tmp_path / "int8.edgekit"
    seal_bundle(out, manifest, files, lambda name: replace(found.evidence, bundle_id=name))
    return out


def sealed_as(bundle, out, **changes):
    """The bundle once more, with another description of its artifact."""
    found = verify_bundle(bundle)
    [component] = found.manifest.components
    component = replace(component, artifact=replace(component.artifact, **changes))
    manifest = replace(found.manifest, files=(), components=(component,))
    seal_bundle(
        out, manifest, dict(found.contents), lambda name: replace(found.evidence, bundle_id=name)
    )
    return out


def test_debug_prints_every_layer_and_what_it_means(quantized_bundle, tmp_path, command):
    found = command("debug", quantized_bundle, "--float", tmp_path / "float.onnx")
    assert found.code == 0
    assert "1 of 1 layers with weights, matched by structure" in found.out
    assert "No layer goes wrong" in found.out
    assert "note: debug: comparing 1 operators" in found.err


def test_debug_gives_one_json_document(quantized_bundle, tmp_path, command):
    given = ("debug", quantized_bundle, "--float", tmp_path / "float.onnx", "--json")
    plain = json.loads(command(*given, "--samples", 1).out)
    assert plain["is_good"] is True
    assert plain["first_wrong"] is None
    [layer] = plain["comparison"]["layers"]
    assert (layer["layer"], layer["weights"]) == ("weights", "int8")
    assert plain["comparison"]["samples"] == 1
    np.save(tmp_path / "many.npy", np.full((3, 2, 2, 1), 200, np.uint8))
    many = command(*given, tmp_path / "many.npy", "--batch")
    assert json.loads(many.out)["comparison"]["samples"] == 3
    both = command(*given, tmp_path / "many.npy", "--batch", "--samples", 1)
    assert both.code == 2
    assert "leave it out where you give inputs" in json.loads(both.out)["error"]["message"]


def test_what_cannot_be_compared_ends_with_a_code_and_a_way_on(
    quantized_bundle, picture_bundle, tmp_path, command
):
    absent = command("debug", quantized_bundle)
    assert absent.code == 2
    assert "its float model is not in the cache" in absent.err
    assert "edgekit build WORKLOAD --device" in absent.err
    as_it_is = command("debug", picture_bundle)
    assert as_it_is.code == 2
    assert "nothing to debug" in as_it_is.err
    assert command("debug", tmp_path / "nowhere").code == 6
    mobile = command("debug", sealed_as(quantized_bundle, tmp_path / "ort", format="ort"))
    assert mobile.code == 2
    assert "an .ort file cannot be read layer by layer" in mobile.err
    (quantized_bundle / "model" / "model.onnx").write_bytes(b"other")
    assert command("debug", quantized_bundle, "--float", tmp_path / "float.onnx").code == 6


def test_another_model_is_not_taken_for_the_float_one(quantized_bundle, tmp_path, command):
    model = onnx.load_from_string(onnx_bytes())
    model.graph.output.extend([onnx.ValueInfoProto(name="flat")])
    onnx.save(model, tmp_path / "other.onnx")
    found = command("debug", quantized_bundle, "--float", tmp_path / "other.onnx")
    assert found.code == 2
    assert "has 1 inputs and 2 outputs, the bundle 1 and 1" in found.err


def test_patterns_that_match_nothing_are_told(quantized_bundle, tmp_path, command):
    given = ("debug", quantized_bundle, "--float", tmp_path / "float.onnx", "--only")
    assert "weights" in command(*given, "^weights$").out
    nothing = command(*given, "encoder")
    assert nothing.code == 2
    assert "no layer matches 'encoder'; allowed: " in nothing.err
    assert "is no regular expression" in command(*given, "(").err
