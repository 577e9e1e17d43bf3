"""What goes into a manifest, and what stays in the evidence."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import edgekit
from edgekit.core.artifact import Artifact
from edgekit.core.target import Toolchain
from edgekit.flow import sealing
from tests.flow.tiny import network, pictures

ROOT = Path(edgekit.__file__).parents[1]


@pytest.mark.parametrize(
    ("requirement", "name"),
    [("onnx==1.23.2", "onnx"), ("torch >=2", "torch"), ("a[b]~=1", "a"), ("plain", "plain")],
)
def test_the_package_of_a_requirement(requirement, name):
    assert sealing._package(requirement) == name


def test_a_package_of_another_environment_has_the_version_that_is_pinned():
    target = SimpleNamespace(toolchain=Toolchain(requirements=("no-such-package==7.1", "numpy")))
    found = sealing._versions(SimpleNamespace(target=target))
    assert found == {
        "edgekit": edgekit.__version__,
        "no-such-package": "==7.1",
        "numpy": np.__version__,
    }


def test_a_golden_output_may_differ_by_two_hundredths_of_its_span():
    assert sealing._tolerance(np.array([[-10.0, 40.0]], np.float32)) == 1.0
    assert sealing._tolerance(np.array([[0.5, 0.5]], np.float32)) == 1e-3
    assert sealing._tolerance(np.array([[1, 900]], np.int64)) == 0.0


def test_an_artifact_ships_below_one_folder():
    artifact = Artifact(
        format="onnx", runtime="onnx", entry="a/b.onnx", precision="fp16", inputs=(), outputs=()
    )
    assert sealing.shipped_artifact(artifact).entry == "model/b.onnx"


@pytest.mark.slow
def test_lineage_names_the_very_files_that_decided(builds):
    lineage = builds.honest("phone").manifest.lineage
    files = {Path(name).name: digest for name, digest in lineage.files.items()}
    for path in (
        ROOT / "device_profiles" / "phone.toml",
        ROOT / "targets" / "litert" / "target.toml",
        ROOT / "targets" / "litert" / "operators.toml",
    ):
        assert files[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [item.name for item in lineage.stages] == ["export", "quantize", "strip"]
    assert lineage.calibration != lineage.evaluation
    assert lineage.selection == ""


@pytest.mark.slow
def test_golden_inputs_are_the_first_samples_and_outputs_are_the_artifacts_own(builds):
    bundle = builds.honest("edge-server").bundle
    images, _ = pictures(800, 2)
    np.testing.assert_array_equal(np.load(bundle / "golden/inputs/image.npy"), images[:8])
    import torch

    with torch.no_grad():
        wanted = network()(torch.from_numpy(images[:8]))[0].numpy()
    golden = np.load(bundle / "golden/outputs/scores.npy")
    # Half-precision weights: three digits of numbers of about 30.
    np.testing.assert_allclose(golden, wanted, atol=0.1)


@pytest.mark.slow
def test_a_manifest_says_nothing_of_the_machine_that_built_it(builds):
    result = builds.honest("phone")
    text = (result.bundle / "manifest.json").read_text()
    host = result.evidence.host
    assert host.processor
    assert host.processor not in text
    for word in ("latency_ms", "created", str(result.bundle.parent), str(Path.home())):
        assert f'"{word}' not in text
    assert result.evidence.created.endswith("Z")
    assert [step.name for step in result.evidence.steps] == ["float model", "export", "quantize"]
    card = (result.bundle / "MODEL_CARD.md").read_text()
    assert "tiny-of-two" in card
