"""Files written whole or not at all, and digests, against hashlib by hand."""

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgekit.core.errors import OutputError
from edgekit.store import atomic_write, file_digest, folder_digest, folder_entries
from edgekit.store.files import folder_bytes, writing_to


def test_file_digest_is_what_sha256sum_prints(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(os.urandom(300_000))
    printed = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True)
    assert file_digest(path) == printed.stdout.split()[0]


def test_entries_are_sorted_relative_and_complete(tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "b" / "deep" / "x").write_bytes(b"one")
    (tmp_path / "b.txt").write_bytes(b"two!")
    entries = folder_entries(tmp_path)
    assert [(item.path, item.bytes, item.sha256) for item in entries] == [
        ("b.txt", 4, hashlib.sha256(b"two!").hexdigest()),
        ("b/deep/x", 3, hashlib.sha256(b"one").hexdigest()),
    ]
    assert folder_bytes(tmp_path) == 7


def test_folder_digest_follows_content_and_names(tmp_path: Path) -> None:
    digests = []
    for name, content in (("a", b"1"), ("a", b"2"), ("b", b"1"), ("a", b"1")):
        folder = tmp_path / str(len(digests))
        folder.mkdir()
        (folder / name).write_bytes(content)
        digests.append(folder_digest(folder))
    assert digests[0] == digests[3]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_symlink_cannot_be_kept(tmp_path: Path, is_folder: bool) -> None:
    target = tmp_path.parent if is_folder else Path(__file__)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(ValueError, match="only plain files"):
        folder_entries(tmp_path)


def test_a_write_replaces_the_whole_file_and_follows_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old and longer")
    old_mask = os.umask(0o027)
    try:
        atomic_write(path, b"new")
    finally:
        os.umask(old_mask)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    versions = [bytes([number]) * 200_000 for number in range(20)]
    atomic_write(path, versions[0])
    seen: list[bytes] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in versions:
        atomic_write(path, content)
    done.set()
    reader.join()
    assert seen
    assert set(seen) <= set(versions)


def test_a_place_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no folder")
    with pytest.raises(OutputError, match=r"file/x: cannot be written .*make room there"):
        atomic_write(tmp_path / "file" / "x", b"")
    with pytest.raises(OutputError, match="do that"):
        atomic_write(tmp_path / "missing" / "x", b"", advice="do that")


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    # A limit on the size of files is the one way to run out of room without being root.
    code = (
        "import resource, signal, sys; from pathlib import Path; from edgekit.store import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "atomic_write(Path(sys.argv[1]), b'x' * 5000)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert "OutputError" in ended.stderr
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_only_refusals_of_the_system_become_output_errors(tmp_path: Path) -> None:
    with pytest.raises(KeyError), writing_to(tmp_path, "advice"):
        raise KeyError("ours")
