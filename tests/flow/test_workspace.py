"""A killed build's temporary folder is cleared away by the next; a living one's is not."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgekit.core.errors import OutputError
from edgekit.flow import workspace as module
from edgekit.flow.workspace import PREFIX, workspace

HOLD = """
import sys, time
from edgekit.flow.workspace import workspace
with workspace() as folder:
    (folder / "data").write_bytes(b"x" * 1000)
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def own_temp(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def folders(place):
    return sorted(path.name for path in place.glob(f"{PREFIX}*"))


def test_a_workspace_is_empty_and_goes_away(own_temp):
    with workspace() as folder:
        assert list(folder.iterdir()) == []
        assert len(folders(own_temp)) == 1
    assert folders(own_temp) == []


def test_what_a_killed_build_left_is_cleared_and_a_living_one_is_kept(own_temp):
    environment = {**os.environ, "TMPDIR": str(own_temp)}
    command = [sys.executable, "-c", HOLD]
    living, dying = (
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        for _ in range(2)
    )
    try:
        kept, left = (process.stdout.readline().strip() for process in (living, dying))
        dying.send_signal(signal.SIGKILL)
        dying.wait()
        assert len(folders(own_temp)) == 2
        with workspace():
            assert Path(kept).exists()
            assert not Path(left).exists()
    finally:
        for process in (living, dying):
            process.kill()
            process.communicate()


def test_a_build_that_begins_is_not_taken_for_dead(own_temp, monkeypatch):
    """Another one clears leftovers while the lock of this one is there and not held yet."""
    really_locked = module.locked

    @contextmanager
    def slowly_locked(path):
        path.touch()
        module._clear_leftovers()
        with really_locked(path) as lock:
            yield lock

    monkeypatch.setattr(module, "locked", slowly_locked)
    with workspace() as folder:
        assert folder.is_dir()
        module._clear_leftovers()
        assert folder.is_dir()


def test_a_full_disk_names_the_temporary_folder(own_temp):
    with (
        pytest.raises(OutputError, match=rf"^{own_temp}: .*No space left.*; set TMPDIR"),
        workspace(),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert folders(own_temp) == []


def test_no_temporary_folder_at_all_is_said(monkeypatch, own_temp):
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(own_temp / "nowhere")])
    with (
        pytest.raises(OutputError, match=r"No usable temporary directory .*; set TMPDIR"),
        workspace(),
    ):
        pass


def test_what_has_nothing_to_do_with_room_passes_as_it_is():
    with pytest.raises(FileNotFoundError, match="mine"), workspace():
        raise FileNotFoundError(errno.ENOENT, "mine")
