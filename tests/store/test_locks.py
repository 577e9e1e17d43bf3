"""Locks between processes."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgekit.store.locks import locked, try_lock, wait_for_lock

HOLDER = """
import sys, time
from pathlib import Path
from edgekit.store.locks import wait_for_lock
lock = wait_for_lock(Path(sys.argv[1]), is_shared=sys.argv[2] == "shared")
print("held", flush=True)
time.sleep(60)
"""


def _holder(path: Path, mode: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), mode], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_is_refused_while_another_process_holds_it_and_free_once_that_is_killed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "lock"
    with _holder(path, "alone") as holder:
        assert try_lock(path) is None
        assert try_lock(path, is_shared=True) is None
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    lock = try_lock(path)
    assert lock is not None
    lock.release()
    lock.release()


def test_readers_share(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with _holder(path, "shared") as holder:
        with locked(path, is_shared=True):
            assert try_lock(path) is None
        holder.kill()


def test_waiting_is_said_once_and_ends_when_the_lock_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = wait_for_lock(path)
    said: list[str] = []
    threading.Timer(0.3, first.release).start()
    started = time.monotonic()
    with locked(path, on_wait=lambda: said.append("waiting")):
        assert time.monotonic() - started >= 0.25
    assert said == ["waiting"]


def test_a_lock_file_that_its_holder_removed_guards_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = wait_for_lock(path)
    got: list[object] = []
    waiter = threading.Thread(target=lambda: got.append(wait_for_lock(path)))
    waiter.start()
    time.sleep(0.1)
    path.unlink()
    first.release()
    waiter.join(5)
    # The waiter holds the file that the path leads to now, so a third finds it taken.
    assert len(got) == 1
    assert try_lock(path) is None


def test_a_lock_file_that_was_removed_between_opening_and_locking_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    real, calls = fcntl.flock, []

    def remove_first(descriptor: int, mode: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
        real(descriptor, mode)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    lock = try_lock(path)
    assert lock is not None
    assert os.path.samestat(os.fstat(lock.fileno()), path.stat())
    assert try_lock(path) is None
