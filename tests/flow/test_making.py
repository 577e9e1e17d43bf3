"""From an exported model to the file that ships, and the largest layers of it."""

from types import SimpleNamespace

import numpy as np
import pytest

import edgekit
from edgekit.catalog import load_profile, load_target
from edgekit.compile import ONNX
from edgekit.core.planned import PlannedStep
from edgekit.flow import making
from edgekit.flow.making import Made, Maker, largest_layers
from edgekit.measure.audit import AuditReport
from edgekit.measure.audit_finding import Finding
from tests.flow.tiny import pictures
from tests.measure.artifacts import write_onnx


def made(folder, **options):
    """An artifact as a stage gives it."""
    artifact = write_onnx(folder, **options)
    outcome = SimpleNamespace(folder=folder, digest="0" * 64, name="export", key="1" * 64)
    return Made(artifact=artifact, outcome=outcome)


def test_the_largest_layers_come_first_under_their_modules_names(tmp_path):
    item = made(tmp_path, weight=np.ones((8, 3), np.float32), bias=np.ones(8, np.float32))
    (tmp_path / "tensor_map.json").write_text('{"w": "head.linear"}')
    found = [(layer.layer, layer.bytes, layer.dtype) for layer in largest_layers(item)]
    assert found == [("head.linear", 8 * 3 * 4, "float32"), ("b", 8 * 4, "float32")]


def test_an_artifact_without_a_map_keeps_its_own_names(tmp_path):
    item = made(tmp_path)
    assert item.tensor_map() == {}
    assert item.file == tmp_path / "model.onnx"
    assert {layer.layer for layer in largest_layers(item)} == {"w", "b"}


def maker(device, target="onnx"):
    """A maker that is asked small questions; it runs nothing."""
    plan = SimpleNamespace(
        compiler=ONNX, profile=load_profile(device), target=load_target(target), strategy=None
    )
    model = SimpleNamespace(contract=None)
    return Maker(model, plan, runner=None, toolchain=None, reporter=None)


@pytest.mark.parametrize(("device", "platform"), [("phone", "arm"), ("edge-server", "amd64")])
def test_a_mobile_format_is_made_for_the_devices_processor(device, platform):
    assert maker(device)._platform() == platform


@pytest.mark.slow
def test_a_phone_gets_an_ort_file_whose_integers_are_not_timed_on_another_processor(builds):
    result = builds.build("phone", target="onnx")
    (component,) = result.manifest.components
    assert component.artifact.entry == "model/model.ort"
    assert component.artifact.format == "ort"
    content = (result.bundle / component.artifact.entry).read_bytes()
    assert content[4:8] == b"ORTM"  # the identifier of ONNX Runtime's flatbuffer
    images, labels = pictures(32, 9)
    with edgekit.open(result.bundle) as session:
        assert (session.run(images)["scores"].argmax(axis=1) == labels).mean() > 0.9
    names = [item.name for item in result.manifest.lineage.stages]
    assert names == ["export", "quantize", "mobile"]


def test_a_refusal_names_what_counts_and_what_may_be_done_and_no_notes():
    def finding(severity, message):
        return Finding(
            kind="k",
            layer="up",
            wanted="a",
            found="b",
            share=0.1,
            message=message,
            severity=severity,
        )

    findings = (finding("counted", "up: wider"), finding("note", "widened to run"))
    report = AuditReport(findings=findings, figures=(), is_accepted=False)
    said = str(making._refusal(PlannedStep(name="quantize", is_run=True, reason=""), report))
    assert said.startswith("step 'quantize' did not do what the strategy asks")
    assert "\n  up: wider\n" in said
    assert "widened to run" not in said
    assert "--layer PATTERN=int8, PATTERN=float" in said
