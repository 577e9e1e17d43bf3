"""Everything that can be wrong with a bundle, and that nothing of it is believed."""

from dataclasses import replace

import pytest

from edgekit.bundle.documents import encode_evidence
from edgekit.bundle.source import FolderSource, MemorySource
from edgekit.bundle.verify import open_bundle, verify_bundle, verify_source
from edgekit.bundle.zipped import encode_zip
from edgekit.core.errors import BundleError
from edgekit.core.figure import exact
from edgekit.core.verdict import Standing, Status, deliver_verdict
from tests.bundle import samples


def verify(files):
    return verify_source(MemorySource("b", files))


def with_evidence(**changes):
    return samples.contents(**changes)


def test_a_whole_bundle_is_verified_from_folder_zip_and_memory(tmp_path):
    files = samples.contents()
    samples.write(tmp_path / "b", files)
    (tmp_path / "b.zip").write_bytes(b"".join(encode_zip(files)))
    for bundle in (
        verify_bundle(tmp_path / "b"),
        verify_bundle(str(tmp_path / "b.zip")),
        verify(files),
    ):
        assert bundle.manifest == samples.listed(samples.manifest(), samples.FILES)
        assert bundle.bundle_id == bundle.manifest.bundle_id
        assert {path: bundle.read(path) for path in samples.FILES} == samples.FILES
        assert bundle.evidence.verdict.standing is Standing.PROVEN


def test_a_file_that_is_not_listed_cannot_be_read():
    with pytest.raises(BundleError, match=r"did you mean 'model/model\.tflite'"):
        verify(samples.contents()).read("model/model.tflit")


@pytest.mark.parametrize("path", sorted(samples.contents()))
def test_one_changed_byte_anywhere_is_refused(path):
    files = samples.contents()
    files[path] = bytes([files[path][0] ^ 1]) + files[path][1:]
    with pytest.raises(BundleError, match=path):
        verify(files)


@pytest.mark.parametrize("path", sorted(samples.contents()))
def test_a_missing_file_is_named(path):
    files = samples.contents()
    del files[path]
    with pytest.raises(BundleError, match=f"'{path}' is missing"):
        verify(files)


@pytest.mark.parametrize("data", [b"", b"longer than it was" * 9])
def test_a_file_of_another_length_is_named(data):
    with pytest.raises(BundleError, match=r"MODEL_CARD\.md.* has \d+ bytes; it must have"):
        verify({**samples.contents(), "MODEL_CARD.md": data})


def test_an_added_file_is_named():
    with pytest.raises(BundleError, match="'extra' is not listed"):
        verify({**samples.contents(), "extra": b""})


def test_evidence_of_another_bundle_is_refused():
    other = samples.contents(samples.manifest(seed=1))
    with pytest.raises(BundleError, match="belongs to bundle"):
        verify({**samples.contents(), "evidence.json": other["evidence.json"]})


def test_a_manifest_that_makes_no_sense_is_refused():
    with pytest.raises(BundleError, match="no limits"):
        verify(samples.contents(samples.manifest(limits=())))


def test_a_verdict_that_the_figures_do_not_bear_out_is_refused():
    slow = replace(samples.figures()[1], value=1.5, low=1.4, high=1.6)
    with pytest.raises(BundleError, match="judged otherwise"):
        verify(with_evidence(figures=(samples.figures()[0], slow)))


def test_an_honest_failing_verdict_is_no_bundle_either():
    made = samples.listed(samples.manifest(), samples.FILES)
    figures = (exact("artifact_bytes", 5000.0, "bytes", "size"), samples.figures()[1])
    verdict = deliver_verdict(made.limits, {item.name: item for item in figures})
    with pytest.raises(BundleError, match=r"refused \(artifact_bytes\)"):
        verify(with_evidence(figures=figures, verdict=verdict))


def test_a_waiver_that_the_manifest_does_not_name_is_refused():
    slow = replace(samples.figures()[1], value=1.5, low=1.4, high=1.6)
    figures = (samples.figures()[0], slow)
    verdict = deliver_verdict(
        samples.LIMITS, {item.name: item for item in figures}, waived=("latency_ratio",)
    )
    assert verdict.of(Status.WAIVED)
    with pytest.raises(BundleError, match="judged otherwise"):
        verify(with_evidence(figures=figures, verdict=verdict))


def test_a_figure_that_stands_twice_is_refused():
    with pytest.raises(BundleError, match="twice"):
        verify(with_evidence(figures=(*samples.figures(), samples.figures()[0])))


def test_proven_is_required_only_where_asked(tmp_path):
    made = samples.manifest(limits=(*samples.LIMITS, samples.PENDING))
    folder = samples.write(tmp_path / "b", samples.contents(made))
    for require in (None, "candidate"):
        bundle = open_bundle(folder, require=require)
        assert bundle.evidence.verdict.standing is Standing.CANDIDATE
    with pytest.raises(BundleError, match="flash_bytes is pending"):
        open_bundle(folder, require="proven")
    whole = samples.write(tmp_path / "c", samples.contents())
    assert open_bundle(whole, require="proven")
    with pytest.raises(BundleError, match="did you mean 'proven'"):
        open_bundle(whole, require="prooven")


def test_what_is_no_bundle_at_all_is_a_bundle_error(tmp_path):
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").mkdir()
    for path in (
        tmp_path / "gone",
        tmp_path / "text",
        tmp_path / "empty",
        "/dev/null",
        "a\0b",
        tmp_path / "text" / "x",
    ):
        with pytest.raises(BundleError):
            verify_bundle(path)


def test_a_swap_after_the_check_changes_nothing(tmp_path):
    folder = samples.write(tmp_path / "b", samples.contents())
    bundle = verify_bundle(folder)
    (folder / "model/model.tflite").write_bytes(b"swapped")
    assert bundle.read("model/model.tflite") == samples.FILES["model/model.tflite"]


def test_each_file_is_read_once(tmp_path):
    reads = []

    class Counting(FolderSource):
        def read(self, path, *, maximum_bytes):
            reads.append(path)
            return super().read(path, maximum_bytes=maximum_bytes)

    verify_source(Counting(samples.write(tmp_path / "b", samples.contents())))
    assert sorted(reads) == sorted(samples.contents())


def test_a_swap_between_listing_and_reading_is_caught(tmp_path):
    folder = samples.write(tmp_path / "b", samples.contents())

    class Swapping(FolderSource):
        def read(self, path, *, maximum_bytes):
            if path == "model/model.tflite":
                size = (folder / path).stat().st_size
                (folder / path).write_bytes(b"\0" * size)
            return super().read(path, maximum_bytes=maximum_bytes)

    with pytest.raises(BundleError, match="was changed"):
        verify_source(Swapping(folder))


def test_a_link_inside_is_refused(tmp_path):
    folder = samples.write(tmp_path / "b", samples.contents())
    card = folder / "MODEL_CARD.md"
    card.rename(tmp_path / "card")
    card.symlink_to(tmp_path / "card")
    with pytest.raises(BundleError, match="symbolic link"):
        verify_bundle(folder)


def test_evidence_bytes_must_be_canonical():
    files = samples.contents()
    with pytest.raises(BundleError, match=r"evidence\.json: not the canonical"):
        verify({**files, "evidence.json": files["evidence.json"] + b" "})
    assert files["evidence.json"] == encode_evidence(verify(files).evidence)
