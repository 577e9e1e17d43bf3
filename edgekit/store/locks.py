"""Locks between processes that the kernel takes back when their holder dies.

A lock is ``flock`` on a file that may be removed by whoever holds it alone, so after locking one
checks that the path still leads to the same file.
"""

import fcntl
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_SECONDS = 0.05


class FileLock:
    """A lock that is held; ``fileno`` may be passed to a child, which then holds it as well."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)

    def fileno(self) -> int:
        """The descriptor that carries the lock."""
        return self._descriptor

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        self._close()


def try_lock(path: Path, *, is_shared: bool = False) -> FileLock | None:
    """The lock at ``path`` if it is free now, else None.

    Raises: OSError when the lock file cannot be made.
    """
    mode = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    while True:
        lock = FileLock(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
        try:
            fcntl.flock(lock.fileno(), mode | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.release()
            return None
        if _is_current(lock, path):
            return lock
        lock.release()


def wait_for_lock(
    path: Path, *, is_shared: bool = False, on_wait: Callable[[], None] | None = None
) -> FileLock:
    """The lock at ``path``, as soon as it is free; ``on_wait`` is called once if it is not.

    Polls, so that Ctrl-C ends it from any state.
    """
    lock = try_lock(path, is_shared=is_shared)
    if lock is None and on_wait is not None:
        on_wait()
    while lock is None:
        time.sleep(POLL_SECONDS)
        lock = try_lock(path, is_shared=is_shared)
    return lock


@contextmanager
def locked(
    path: Path, *, is_shared: bool = False, on_wait: Callable[[], None] | None = None
) -> Iterator[FileLock]:
    """Hold the lock at ``path`` for the length of a with block."""
    lock = wait_for_lock(path, is_shared=is_shared, on_wait=on_wait)
    try:
        yield lock
    finally:
        lock.release()


def _is_current(lock: FileLock, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False
