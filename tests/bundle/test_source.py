"""Reading files out of folders that may be hostile."""

import os

import pytest

from edgekit.bundle.source import FolderSource, MemorySource
from edgekit.core.errors import BundleError
from tests.bundle import samples


def test_a_folder_lists_and_reads_its_files(tmp_path):
    source = FolderSource(samples.write(tmp_path / "b", {"a/b": b"1", "c": b"23"}))
    assert source.paths() == ["a/b", "c"]
    assert source.read("c", maximum_bytes=2) == b"23"


def test_memory_lists_and_reads_its_files():
    source = MemorySource("m", {"c": b"23", "a/b": b"1"})
    assert source.paths() == ["a/b", "c"]
    assert source.read("c", maximum_bytes=2) == b"23"


@pytest.mark.parametrize("make", [MemorySource, lambda _, files: FolderSource(files)])
def test_missing_and_oversized_files_are_refused(make, tmp_path):
    files = {"c": b"23"}
    where = samples.write(tmp_path, files)
    source = MemorySource("m", files) if make is MemorySource else FolderSource(where)
    with pytest.raises(BundleError, match="missing"):
        source.read("d", maximum_bytes=2)
    with pytest.raises(BundleError, match="1 at most"):
        source.read("c", maximum_bytes=1)


def test_links_are_refused_wherever_they_point(tmp_path):
    (tmp_path / "real").write_bytes(b"1")
    for target in ("real", "/etc/passwd", "gone", "."):
        link = tmp_path / "link"
        link.symlink_to(target)
        with pytest.raises(BundleError, match="symbolic link"):
            FolderSource(tmp_path).paths()
        link.unlink()


def test_a_link_that_appears_after_the_listing_is_not_followed(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="cannot be read"):
        FolderSource(tmp_path).read("link", maximum_bytes=10**6)


def test_a_pipe_neither_blocks_nor_passes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleError, match="neither a file nor a folder"):
        FolderSource(tmp_path).paths()
    with pytest.raises(BundleError, match="not a plain file"):
        FolderSource(tmp_path).read("pipe", maximum_bytes=10)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="empty folder"):
        FolderSource(tmp_path).paths()


def test_a_folder_that_is_gone_is_a_bundle_error(tmp_path):
    with pytest.raises(BundleError, match="cannot be listed"):
        FolderSource(tmp_path / "gone").paths()


def test_a_name_that_is_no_utf8_can_be_shown(tmp_path):
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"")
    (name,) = FolderSource(tmp_path).paths()
    assert repr(name).isascii()
