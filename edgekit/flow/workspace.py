"""A build's own temporary folder, and the clearing away of those that killed builds left."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from edgekit.core.errors import OutputError
from edgekit.store.locks import locked, try_lock

PREFIX = "edgekit-work-"
LOCK = ".lock"
_UNSEEN = ".lock-to-be"
ADVICE = "set TMPDIR to a folder that can be written and has room"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@contextmanager
def workspace() -> Iterator[Path]:
    """An empty folder that goes away at the end; leftovers of killed builds go first.

    The kernel gives a lock back when its holder dies, so a folder whose lock is free has no owner.
    Raises: OutputError where there is no room for it, or for what is written into it.
    """
    with _telling():
        _clear_leftovers()
        with TemporaryDirectory(prefix=PREFIX) as folder, locked(Path(folder) / _UNSEEN):
            # Only now, held, has it the name that others look for: a lock that were free for a
            # moment would let another build, beginning just then, take this one for dead.
            (Path(folder) / _UNSEEN).rename(Path(folder) / LOCK)
            inside = Path(folder) / "work"
            inside.mkdir()
            yield inside


@contextmanager
def _telling() -> Iterator[None]:
    """Name the temporary folder where a disk is full; other places tell of theirs themselves."""
    try:
        yield
    except OSError as refusal:
        # Without any place that can be written there is no temporary folder at all.
        if refusal.errno == errno.ENOENT and "temporary directory" in str(refusal):
            raise OutputError(f"{refusal.strerror}; {ADVICE}") from refusal
        if refusal.errno not in _NO_ROOM:
            raise
        reason = refusal.strerror
        raise OutputError(f"{gettempdir()}: cannot be written ({reason}); {ADVICE}") from refusal


def _clear_leftovers() -> None:
    for lock_file in Path(gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        try:
            lock = try_lock(lock_file)
        except OSError:  # another user's, or gone since
            continue
        if lock is not None:
            shutil.rmtree(lock_file.parent, ignore_errors=True)
            lock.release()
