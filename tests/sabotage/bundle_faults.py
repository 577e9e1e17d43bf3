"""Faults in a finished bundle; nothing of it is believed that cannot be checked."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest

import edgekit
from edgekit.bundle.seal import pack
from edgekit.core.errors import BundleError
from edgekit.core.figure import Place, Provenance
from edgekit.core.verdict import Status
from tests.sabotage.kit import forge_evidence, forge_manifest, replace_file, with_figure
from tests.sabotage.registry import fault

MODEL = "model/model.tflite"


def _is_refused(bundle, match):
    with pytest.raises(BundleError, match=match):
        edgekit.verify(bundle)
    with pytest.raises(BundleError, match=match):
        edgekit.open(bundle)


@fault("verification")
def one_byte_of_the_model_was_changed(kit):
    """A single bit flips in the artifact."""
    bundle = kit.copy(kit.phone)
    content = bytearray((bundle / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / MODEL).write_bytes(content)
    _is_refused(bundle, f"'{MODEL}' was changed: its sha256 differs")


@fault("verification")
def a_file_was_added(kit):
    """Something that the manifest does not know."""
    bundle = kit.copy(kit.phone)
    (bundle / "model" / "extra.bin").write_bytes(b"x")
    _is_refused(bundle, r"'model/extra.bin' is not listed in manifest.json")


@fault("verification")
def a_file_was_removed(kit):
    """Half of what the self-test expects is gone."""
    bundle = kit.copy(kit.phone)
    (bundle / "golden" / "outputs" / "other.npy").unlink()
    _is_refused(bundle, "'golden/outputs/other.npy' is missing")


@fault("verification")
def a_file_was_renamed(kit):
    """All bytes are there, one under another name."""
    bundle = kit.copy(kit.phone)
    (bundle / MODEL).rename(bundle / "model" / "other.tflite")
    _is_refused(bundle, f"'{MODEL}' is missing")


@fault("verification")
def a_file_is_a_symlink(kit):
    """The model lies outside of the bundle."""
    bundle = kit.copy(kit.phone)
    outside = kit.new("outside")
    (bundle / MODEL).rename(outside)
    (bundle / MODEL).symlink_to(outside)
    _is_refused(bundle, "symbolic link|symlink")


@fault("verification")
def the_model_is_swapped_between_check_and_load(kit):
    """What is loaded is what was checked, whatever lies there by then."""
    bundle = kit.copy(kit.phone)
    verified = edgekit.verify(bundle)
    honest = verified.read(MODEL)
    (bundle / MODEL).write_bytes(b"\0" * len(honest))
    from edgekit.runtime.session import TensorSession

    with TensorSession(verified) as session:
        assert session.self_test().is_passed
    _is_refused(bundle, "was changed")


@fault("verification")
def the_evidence_belongs_to_another_bundle(kit):
    """Good figures, of somebody else."""
    bundle = kit.copy(kit.phone)
    other = (kit.server / "evidence.json").read_bytes()
    (bundle / "evidence.json").write_bytes(other)
    _is_refused(bundle, r"evidence.json: belongs to bundle '.{12}', but manifest.json is bundle")


@fault("verification")
def a_figure_of_the_evidence_is_forged(kit):
    """The checksum is put right; the figure no longer goes with the verdict."""
    bundle = kit.copy(kit.board)
    honest = (bundle / "evidence.json").read_bytes()
    (bundle / "evidence.json").write_bytes(honest.replace(b'"artifact_bytes"', b'"artifact-bytes"'))
    _is_refused(bundle, "does not match its sha256; it was changed")
    (bundle / "evidence.json").write_bytes(honest)
    forged = {"unit": "bytes", "provenance": Provenance.MEASURED, "place": Place.DEVICE}
    forge_evidence(
        bundle,
        lambda it: with_figure(
            it, "flash_bytes", value=1.0, low=1.0, high=1.0, how="measured, honestly", **forged
        ),
    )
    _is_refused(bundle, "its figures under the manifest's limits are judged otherwise")


@fault("verification")
def a_judgement_of_the_evidence_is_forged(kit):
    """Pending limits are said to have passed; the verdict is judged again."""
    bundle = kit.copy(kit.board)

    def forge(evidence):
        judgements = tuple(
            replace(item, status=Status.PASS) for item in evidence.verdict.judgements
        )
        return replace(evidence, verdict=replace(evidence.verdict, judgements=judgements))

    forge_evidence(bundle, forge)
    _is_refused(bundle, "judged otherwise")


@fault("verification")
def a_limit_was_loosened_in_the_manifest(kit):
    """The manifest's hash is the bundle's name: the evidence is of another one."""
    bundle = kit.copy(kit.waived)
    path = bundle / "manifest.json"
    honest = path.read_bytes()
    loosened = honest.replace(b'"bound":1e-06', b'"bound":9.0')
    assert loosened != honest
    path.write_bytes(loosened)
    _is_refused(bundle, "evidence.json: belongs to bundle")
    path.write_bytes(honest)
    forge_manifest(
        bundle,
        lambda it: replace(it, limits=tuple(replace(limit, bound=1e9) for limit in it.limits)),
    )
    _is_refused(bundle, "judged otherwise")


@fault("verification")
def the_labels_were_changed(kit):
    """A contract with two labels swapped is another manifest, and so another bundle."""
    bundle = kit.copy(kit.phone)
    path = bundle / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'["ant","bee"', b'["bee","ant"'))
    _is_refused(bundle, "evidence.json: belongs to bundle")


@fault("verification")
def the_golden_outputs_were_changed(kit):
    """All hashes are put right: only running the model shows it."""
    bundle = kit.copy(kit.phone)
    name = "golden/outputs/scores.npy"
    changed = io.BytesIO()
    wanted = np.load(bundle / name)
    np.save(changed, wanted + np.float32(0.1) * np.ptp(wanted))
    replace_file(bundle, name, changed.getvalue())
    edgekit.verify(bundle)
    with edgekit.open(bundle) as session:
        report = session.self_test()
    assert not report.is_passed
    assert report.failed == ("scores",)
    assert "self-test failed: other differs" in str(report)


@fault("verification")
def another_model_was_put_in_with_all_hashes_right(kit):
    """The float model under the name of the compressed one: golden outputs tell."""
    bundle = kit.copy(kit.server)
    name = "model/model.onnx"
    import onnx

    model = onnx.load(bundle / name)
    for item in model.graph.initializer:
        if item.data_type == onnx.TensorProto.FLOAT16 and len(item.dims) == 4:
            values = onnx.numpy_helper.to_array(item)
            item.CopyFrom(onnx.numpy_helper.from_array(-values, item.name))
    replace_file(bundle, name, model.SerializeToString())
    edgekit.verify(bundle)
    with edgekit.open(bundle) as session:
        assert not session.self_test().is_passed


@fault("verification")
def a_zip_writes_outside_of_its_folder(kit):
    """An entry named ../evil beside an honest bundle."""
    packed = kit.new("packed").with_suffix(".zip")
    pack(kit.phone, packed)
    edgekit.verify(packed)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("../evil.txt", "x")
    _is_refused(packed, r"\.\./evil\.txt|not .*zip")
    assert not (packed.parent.parent / "evil.txt").exists()
