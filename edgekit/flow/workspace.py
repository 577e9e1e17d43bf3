"""A build's own temporary folder, and the clearing away of those that killed builds left."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from edgekit.store.locks import locked, try_lock

PREFIX = "edgekit-work-"
LOCK = ".lock"


@contextmanager
def workspace() -> Iterator[Path]:
    """An empty folder that goes away at the end; leftovers of killed builds go first.

    The kernel gives a lock back when its holder dies, so a folder whose lock is free has no owner.
    """
    _clear_leftovers()
    with TemporaryDirectory(prefix=PREFIX) as folder, locked(Path(folder) / LOCK):
        inside = Path(folder) / "work"
        inside.mkdir()
        yield inside


def _clear_leftovers() -> None:
    for lock_file in Path(gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        try:
            lock = try_lock(lock_file)
        except OSError:  # another user's, or gone since
            continue
        if lock is not None:
            shutil.rmtree(lock_file.parent, ignore_errors=True)
            lock.release()
