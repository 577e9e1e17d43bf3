"""Whole folders in place at once, and what killed runs leave."""

import errno
import fcntl
import os

import pytest

from edgekit.bundle import place as place_module
from edgekit.bundle.place import (
    nearest_folder,
    output_faults,
    place,
    remove_leftovers,
    restore,
    work_folder,
)
from edgekit.core.errors import OutputError


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def make(out, text, *, force=False):
    with work_folder(out) as work:
        (work / "file").write_text(text)
        place(work, out, force=force)


@pytest.fixture(params=["renameat2", "two steps"])
def any_system(request, monkeypatch):
    """With the system call, and as on a system without it."""
    if request.param == "two steps":
        monkeypatch.setattr(place_module, "_find_renameat2", lambda: None)


def test_work_appears_whole_and_nothing_else_stays(tmp_path, any_system):
    make(tmp_path / "deep" / "out", "new")
    assert (tmp_path / "deep" / "out" / "file").read_text() == "new"
    assert names(tmp_path / "deep") == ["out"]


def test_force_replaces_and_clears_the_old(tmp_path, any_system):
    make(tmp_path / "out", "old")
    make(tmp_path / "out", "new", force=True)
    assert (tmp_path / "out" / "file").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_what_is_there_stays_without_force(tmp_path, any_system):
    make(tmp_path / "out", "old")
    with pytest.raises(OutputError, match="--force"):
        make(tmp_path / "out", "new")
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_failure_inside_leaves_nothing(tmp_path):
    def fail():
        with work_folder(tmp_path / "out") as work:
            (work / "file").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(tmp_path) == []


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with pytest.raises(OutputError, match="appeared"):
        make(tmp_path / "out", "new")
    assert names(tmp_path / "out") == ["mine"]


def test_a_failing_second_step_brings_the_old_one_back(tmp_path, monkeypatch):
    monkeypatch.setattr(place_module, "_find_renameat2", lambda: None)
    make(tmp_path / "out", "old")
    with (
        pytest.raises(OutputError, match="cannot be written"),
        work_folder(tmp_path / "out") as work,
    ):
        place(work / "gone", tmp_path / "out", force=True)
    assert (tmp_path / "out" / "file").read_text() == "old"


def test_a_kill_between_two_steps_is_mended(tmp_path):
    out = tmp_path / "out"
    make(out, "old")
    out.rename(tmp_path / ".out.edgekit-old")
    restore(out)
    assert (out / "file").read_text() == "old"
    make(tmp_path / ".out.edgekit-old", "older")
    restore(out)
    assert (out / "file").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_leftovers_of_the_dead_go_and_work_of_the_living_stays(tmp_path):
    dead, alive = tmp_path / ".out.edgekit-00000000.tmp", tmp_path / ".out.edgekit-11111111.tmp"
    other = tmp_path / ".outer.edgekit-00000000.tmp"
    for folder in (dead, alive, other):
        folder.mkdir()
        (folder / "file").write_text("x")
    (tmp_path / ".out.edgekit-22222222.tmp").symlink_to(other)
    descriptor = os.open(alive, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    remove_leftovers(tmp_path / "out")
    assert names(tmp_path) == sorted([alive.name, other.name, ".out.edgekit-22222222.tmp"])
    os.close(descriptor)
    remove_leftovers(tmp_path / "out")
    assert alive.name not in names(tmp_path)


def test_a_work_folder_that_was_taken_for_a_leftover_is_made_again(tmp_path, monkeypatch):
    real, taken = fcntl.flock, []

    def racing(descriptor, operation):
        if operation == fcntl.LOCK_EX and not taken:
            (folder,) = tmp_path.iterdir()
            taken.append(folder)
            folder.rmdir()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", racing)
    make(tmp_path / "out", "new")
    assert taken
    assert (tmp_path / "out" / "file").read_text() == "new"


def test_the_closest_folder_above_is_found_and_a_file_in_the_way_is_named(tmp_path):
    assert nearest_folder(tmp_path / "a" / "b" / "c") == tmp_path
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"'.*file' is no folder"):
        nearest_folder(tmp_path / "file" / "b" / "c")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "the disk is full .* are left"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "read-only"),
        (errno.EIO, "cannot be written: Input/output error"),
    ],
)
def test_what_the_file_system_says_is_explained(tmp_path, code, reason):
    with pytest.raises(OutputError, match=reason), output_faults(tmp_path / "out"):
        raise OSError(code, os.strerror(code))


def test_other_errors_of_the_call_are_raised_and_unknown_calls_are_not(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        place_module._renameat2(tmp_path / "a", tmp_path / "b", place_module.RENAME_NOREPLACE)
    (tmp_path / "a").mkdir()
    assert not place_module._renameat2(tmp_path / "a", tmp_path / "b", 1 << 20)
