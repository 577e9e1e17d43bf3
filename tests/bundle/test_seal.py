"""Sealing, packing and unpacking: whole or not at all, at any moment."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from edgekit.bundle import seal as seal_module
from edgekit.bundle.beside import fault_beside
from edgekit.bundle.seal import check_output, check_zip_output, pack, seal_bundle, unpack
from edgekit.bundle.verify import verify_bundle
from edgekit.core.errors import BundleError, OutputError
from tests.bundle import samples


def seal(out, *, seed=0, force=False, files=None, zip_out=None):
    made = samples.manifest(seed=seed)
    return seal_bundle(
        out,
        made,
        samples.FILES if files is None else files,
        lambda bundle_id: samples.evidence(made, bundle_id),
        force=force,
        zip_out=zip_out,
    )


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def test_a_sealed_bundle_verifies_and_is_what_was_handed_in(tmp_path):
    sealed = seal(tmp_path / "new" / "b")
    found = verify_bundle(tmp_path / "new" / "b")
    assert found == sealed
    assert dict(found.contents) == samples.FILES
    assert found.manifest == samples.listed(samples.manifest(), samples.FILES)
    assert names(tmp_path / "new") == ["b"]


def test_files_may_be_paths_of_files(tmp_path):
    source = tmp_path / "model"
    source.write_bytes(b"x" * (3 << 20))
    sealed = seal(tmp_path / "b", files={**samples.FILES, "model/model.tflite": source})
    assert sealed.read("model/model.tflite") == source.read_bytes()


def test_the_same_parts_give_the_same_bundle(tmp_path):
    assert seal(tmp_path / "a").bundle_id == seal(tmp_path / "b").bundle_id
    assert seal(tmp_path / "c", seed=1).bundle_id != seal(tmp_path / "d").bundle_id


def test_whole_numbers_where_floats_belong_seal_all_the_same(tmp_path):
    limits = (samples.LIMITS[0].__class__(**{**fields_of(samples.LIMITS[0]), "bound": 1000}),)
    made = samples.manifest(limits=limits)
    sealed = seal_bundle(
        tmp_path / "b", made, samples.FILES, lambda made_id: samples.evidence(made, made_id)
    )
    assert sealed.manifest.limits[0].bound == 1000.0


def fields_of(item):
    return {name: getattr(item, name) for name in item.__slots__}


def test_what_exists_is_an_error_and_force_replaces_a_bundle(tmp_path):
    seal(tmp_path / "b")
    with pytest.raises(OutputError, match="exists; --force"):
        seal(tmp_path / "b", seed=1)
    assert verify_bundle(tmp_path / "b").manifest.seed == 0
    seal(tmp_path / "b", seed=1, force=True)
    assert verify_bundle(tmp_path / "b").manifest.seed == 1
    assert names(tmp_path) == ["b"]


def test_force_replaces_an_empty_folder_and_a_damaged_bundle(tmp_path):
    (tmp_path / "b").mkdir()
    seal(tmp_path / "b", force=True)
    (tmp_path / "b" / "model/model.tflite").write_bytes(b"damaged")
    (tmp_path / "b" / "evidence.json").unlink()
    seal(tmp_path / "b", force=True)
    verify_bundle(tmp_path / "b")


def test_force_never_replaces_what_is_no_bundle(tmp_path):
    cases = {
        "folder": lambda path: samples.write(path, {"thesis.txt": b"x"}),
        "lookalike": lambda path: samples.write(path, {"manifest.json": b'{"files":1}'}),
        "added": lambda path: (seal(path), (path / "notes.txt").write_text("x")),
        "linked": lambda path: (seal(path), (path / "link").symlink_to("/")),
        "file": lambda path: path.write_text("x"),
        "link": lambda path: path.symlink_to(samples.write(tmp_path / "other", {"a": b""})),
    }
    for name, make in cases.items():
        make(tmp_path / name)
        with pytest.raises(OutputError, match="choose another place"):
            seal(tmp_path / name, force=True)
    assert (tmp_path / "folder" / "thesis.txt").exists()
    assert (tmp_path / "added" / "notes.txt").exists()
    assert (tmp_path / "file").read_text() == "x"


def test_a_file_above_the_output_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is no folder"):
        seal(tmp_path / "file" / "b")
    with pytest.raises(OutputError, match="no name"):
        check_output(tmp_path / "..", force=False)


def test_a_read_only_place_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="read-only"):
        seal(tmp_path / "b")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(seal_module, "sync_folder", full)
    with pytest.raises(OutputError, match="the disk is full"):
        seal(tmp_path / "b")
    assert names(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB; making one needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_keeps_the_old_bundle(small_disk):
    seal(small_disk / "b")
    big = {**samples.FILES, "model/model.tflite": bytes(1 << 20)}
    with pytest.raises(OutputError, match="the disk is full"):
        seal(small_disk / "b", seed=1, force=True, files=big)
    assert verify_bundle(small_disk / "b").manifest.seed == 0
    assert names(small_disk) == ["b"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [("../x", "path"), ("manifest.json", "written by sealing"), ("Model/model.tflite", "case")],
)
def test_files_that_no_bundle_may_hold_are_refused(tmp_path, path, reason):
    with pytest.raises(BundleError, match=reason):
        seal(tmp_path / "b", files={**samples.FILES, path: b""})
    assert names(tmp_path) == []


def test_a_source_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(BundleError, match="gone: cannot be read"):
        seal(tmp_path / "b", files={**samples.FILES, "a": tmp_path / "gone"})
    assert names(tmp_path) == []


def test_a_bundle_that_would_not_open_is_not_sealed(tmp_path):
    made = samples.manifest()
    with pytest.raises(BundleError, match="belongs to bundle"):
        seal_bundle(tmp_path / "b", made, samples.FILES, lambda _: samples.evidence(made, "0" * 64))
    assert names(tmp_path) == []


def test_a_zip_holds_the_same_bundle_and_the_same_bytes_each_time(tmp_path):
    sealed = seal(tmp_path / "b")
    pack(tmp_path / "b", tmp_path / "one.zip")
    time.sleep(0.01)
    pack(tmp_path / "one.zip", tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert verify_bundle(tmp_path / "one.zip").contents == sealed.contents
    with zipfile.ZipFile(tmp_path / "one.zip") as file:
        file.extractall(tmp_path / "by-zipfile")
    assert verify_bundle(tmp_path / "by-zipfile").bundle_id == sealed.bundle_id
    assert names(tmp_path) == ["b", "by-zipfile", "one.zip", "two.zip"]


def test_unpacking_gives_the_bundle_back(tmp_path):
    sealed = seal(tmp_path / "b")
    pack(tmp_path / "b", tmp_path / "b.zip")
    assert unpack(tmp_path / "b.zip", tmp_path / "c").contents == sealed.contents
    assert verify_bundle(tmp_path / "c").evidence == sealed.evidence
    with pytest.raises(OutputError, match="--force"):
        unpack(tmp_path / "b.zip", tmp_path / "c")


def test_a_zip_is_replaced_only_by_force_and_nothing_else_ever(tmp_path):
    seal(tmp_path / "b")
    pack(tmp_path / "b", tmp_path / "b.zip")
    with pytest.raises(OutputError, match="--force"):
        pack(tmp_path / "b", tmp_path / "b.zip")
    pack(tmp_path / "b", tmp_path / "b.zip", force=True)
    (tmp_path / "text").write_text("mine")
    with pytest.raises(OutputError, match="is no zip"):
        check_zip_output(tmp_path / "text", force=True)
    with pytest.raises(OutputError, match="not a plain file"):
        pack(tmp_path / "b", tmp_path / "b", force=True)
    assert (tmp_path / "text").read_text() == "mine"


def test_a_bundle_sealed_with_a_zip_has_the_zip_that_packing_makes(tmp_path):
    sealed = seal(tmp_path / "b", zip_out=tmp_path / "b.zip")
    pack(tmp_path / "b", tmp_path / "packed.zip")
    assert (tmp_path / "b.zip").read_bytes() == (tmp_path / "packed.zip").read_bytes()
    newer = seal(tmp_path / "b", seed=1, zip_out=tmp_path / "b.zip", force=True)
    assert newer.bundle_id != sealed.bundle_id
    assert verify_bundle(tmp_path / "b.zip").contents == newer.contents
    assert names(tmp_path) == ["b", "b.zip", "packed.zip"]


def test_a_zip_that_cannot_be_written_leaves_the_old_folder_and_the_old_zip(tmp_path, monkeypatch):
    sealed = seal(tmp_path / "b", zip_out=tmp_path / "b.zip")

    def full(contents):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(seal_module, "encode_zip", full)
    with pytest.raises(OutputError, match=r"b\.zip: .*the disk is full"):
        seal(tmp_path / "b", seed=1, zip_out=tmp_path / "b.zip", force=True)
    for name in ("b", "b.zip"):
        assert verify_bundle(tmp_path / name).bundle_id == sealed.bundle_id
    assert names(tmp_path) == ["b", "b.zip"]


def test_a_file_in_the_place_of_the_zip_stops_the_folder_too(tmp_path):
    (tmp_path / "b.zip").write_text("mine")
    with pytest.raises(OutputError, match="is no zip"):
        seal(tmp_path / "b", zip_out=tmp_path / "b.zip", force=True)
    assert names(tmp_path) == ["b.zip"]


def test_a_damaged_bundle_is_not_packed(tmp_path):
    seal(tmp_path / "b")
    (tmp_path / "b" / "MODEL_CARD.md").write_text("other")
    with pytest.raises(BundleError, match="MODEL_CARD"):
        pack(tmp_path / "b", tmp_path / "b.zip")
    assert names(tmp_path) == ["b"]


CHILD = """
import sys
from pathlib import Path
from edgekit.bundle.beside import zip_path
from tests.bundle.test_seal import seal
from tests.bundle import samples
files = {**samples.FILES, **{f"assets/{i}": bytes(20_000) for i in range(20)}}
import time
for seed in range(1, 10_000):
    start = time.perf_counter()
    out = Path(sys.argv[1])
    seal(out, seed=seed, force=True, files=files, zip_out=zip_path(out))
    if seed == 1:
        print(time.perf_counter() - start, flush=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_bundle_and_a_whole_zip(tmp_path):
    seal(tmp_path / "b", zip_out=tmp_path / "b.zip")
    draw = random.Random(0)
    for _ in range(30):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "b")], stdout=subprocess.PIPE
        )
        seconds_a_seal = float(child.stdout.readline())
        time.sleep(draw.uniform(0.0, 3 * seconds_a_seal))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        folder, packed = verify_bundle(tmp_path / "b"), verify_bundle(tmp_path / "b.zip")
        # Between the two renames the folder is one build ahead, and that is said.
        assert folder.manifest.seed - packed.manifest.seed in (0, 1)
        is_ahead = folder.bundle_id != packed.bundle_id
        assert is_ahead == bool(fault_beside(tmp_path / "b", folder.bundle_id))
        leftovers = [name for name in names(tmp_path) if name not in ("b", "b.zip")]
        assert all(name.startswith((".b.edgekit-", ".b.zip.edgekit-")) for name in leftovers)
    assert verify_bundle(tmp_path / "b").manifest.seed > 0
    seal(tmp_path / "b", force=True, zip_out=tmp_path / "b.zip")
    assert names(tmp_path) == ["b", "b.zip"]


STOPPED = """
import os, signal, sys
from pathlib import Path
from edgekit.bundle import place
from tests.bundle.test_seal import seal
put = place._put
def put_and_stop(made, out, *, force):
    put(made, out, force=force)
    os.kill(os.getpid(), signal.SIGKILL)
place._put = put_and_stop
seal(Path(sys.argv[1]), seed=1, force=True, zip_out=Path(sys.argv[1] + ".zip"))
"""


def test_a_kill_between_the_two_renames_is_named_and_the_next_build_mends_it(tmp_path):
    out = tmp_path / "b"
    old = seal(out, zip_out=tmp_path / "b.zip")
    done = subprocess.run([sys.executable, "-c", STOPPED, str(out)], check=False)
    assert done.returncode == -signal.SIGKILL
    new = verify_bundle(out)
    assert (new.manifest.seed, verify_bundle(tmp_path / "b.zip").bundle_id) == (1, old.bundle_id)
    assert new.bundle_id[:12] in fault_beside(out, new.bundle_id)
    assert "another bundle" in fault_beside(tmp_path / "b.zip", old.bundle_id)
    seal(out, seed=1, force=True, zip_out=tmp_path / "b.zip")
    assert fault_beside(out, new.bundle_id) == ""
    assert names(tmp_path) == ["b", "b.zip"]
