"""One TOML file: what cannot be read says so."""

import hashlib
import os

import pytest

from edgekit.catalog.document import MAX_DEPTH, MAX_FILE_BYTES, read_document
from edgekit.core.errors import ProfileError


def read(path, content):
    path.write_bytes(content)
    return read_document(path, name=path.name)


def test_values_know_their_line_and_the_file_its_hash(tmp_path):
    content = b"a = 1\r\n\r\n[t]\r\nb = [true]\r\n"
    document = read(tmp_path / "x.toml", content)
    node = document.root.value["t"].value["b"]
    assert (node.where, node.label) == ("x.toml:4", "'b' in [t]")
    assert node.value[0].label == "'b[0]' in [t]"
    assert document.digest == hashlib.sha256(content).hexdigest()


def test_a_syntax_error_names_file_and_line(tmp_path):
    with pytest.raises(ProfileError, match=r"x\.toml: not valid TOML: .*line 2"):
        read(tmp_path / "x.toml", b"a = 1\nb = = 2\n")


def test_bytes_that_are_not_utf8_name_the_line(tmp_path):
    with pytest.raises(ProfileError, match=r"x\.toml:2: byte 7 is not UTF-8"):
        read(tmp_path / "x.toml", b"a = 1\n#\xff\n")


def test_a_huge_file_is_refused_unread(tmp_path):
    with pytest.raises(ProfileError, match="larger than 1000000 bytes"):
        read(tmp_path / "x.toml", b"#" * (MAX_FILE_BYTES + 1))


def test_deep_nesting_is_refused(tmp_path):
    with pytest.raises(ProfileError, match=r"x\.toml"):
        read(tmp_path / "x.toml", b"a = " + b"[" * 50_000 + b"]" * 50_000)


def test_depth_is_refused_before_anything_runs_out(tmp_path):
    for depth in (30, 60, 300, *range(440, 500, 5), 900):
        try:
            read(tmp_path / "x.toml", b"a = " + b"[" * depth + b"]" * depth)
        except ProfileError:
            is_refused = True
        else:
            is_refused = False
        assert is_refused == (depth > MAX_DEPTH - 1), depth


def test_a_number_of_too_many_digits_is_refused(tmp_path):
    with pytest.raises(ProfileError, match="not valid TOML"):
        read(tmp_path / "x.toml", b"a = " + b"9" * 5000)


def test_a_folder_a_pipe_and_nothing_are_refused(tmp_path):
    with pytest.raises(ProfileError, match="not a regular file"):
        read_document(tmp_path, name="x")
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(ProfileError, match="not a regular file"):
        read_document(tmp_path / "pipe.toml", name="x")
    with pytest.raises(ProfileError, match="does not exist"):
        read_document(tmp_path / "no.toml", name="x")


def test_a_file_that_may_not_be_opened_says_why(tmp_path):
    loop = tmp_path / "loop.toml"
    loop.symlink_to(loop)
    with pytest.raises(ProfileError, match=r"cannot be read: .*symbolic links"):
        read_document(loop, name="x")
    with pytest.raises(ProfileError, match="cannot be read"):
        read_document(tmp_path / "a\0b.toml", name="x")
