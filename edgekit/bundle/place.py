"""Puts a whole folder or file in its place at once, or not at all.

Work happens in a hidden sibling ``.NAME.edgekit-XXXXXXXX.tmp`` that its maker holds a lock on, so
that the next run knows a dead one's leftovers from a live one's work. The swap is one system call
where the system has it (renameat2 on Linux); a process killed at any moment leaves the old bundle
or the new one, and at most a leftover that the next run removes.
"""

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgekit.core.errors import OutputError
from edgekit.core.units import format_bytes

# linux/fs.h: refuse to replace, and exchange two paths atomically.
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
_AT_FDCWD = -100
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def output_faults(out: Path) -> Iterator[None]:
    """Turn what a file system can say while writing ``out`` into an OutputError with the reason."""
    try:
        yield
    except OSError as fault:
        raise OutputError(f"{out}: {_explain(out, fault)}") from fault


def _explain(out: Path, fault: OSError) -> str:
    reason = fault.strerror or str(fault)
    if fault.errno in _FULL:
        return f"the disk is full ({_free_space(out)}); free some space or choose another place"
    if fault.errno in _FORBIDDEN:
        return f"this place is read-only for you ({reason}); choose another one"
    return f"cannot be written: {reason}"


def _free_space(out: Path) -> str:
    return f"{format_bytes(shutil.disk_usage(nearest_folder(out)).free)} are left"


def nearest_folder(out: Path) -> Path:
    """The closest folder above ``out`` that exists; what is missing below it can be made.

    Raises: OutputError when a file is in the way.
    """
    for parent in out.absolute().parents:
        if parent.is_dir():
            return parent
        if os.path.lexists(parent):
            break
    raise OutputError(f"{out}: '{parent}' is no folder; choose another place")


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """A fresh folder beside ``out`` to build it in; it is gone afterwards unless it was placed.

    Leftovers of killed runs for the same ``out`` are removed first.
    """
    nearest_folder(out)
    with output_faults(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    with output_faults(out):
        folder, lock = _make_locked(out)
    try:
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(out: Path) -> None:
    """Remove what killed runs left beside ``out``; work of a live run is locked and stays."""
    prefix = _work_prefix(out)
    with output_faults(out):
        if not out.parent.is_dir():
            return
        leftovers = [item for item in out.parent.iterdir() if _is_work(item, prefix)]
    for item in leftovers:
        if item.is_dir() and not item.is_symlink() and _try_lock(item):
            shutil.rmtree(item, ignore_errors=True)


def _work_prefix(out: Path) -> str:
    return f".{out.name}.edgekit-"


def _is_work(item: Path, prefix: str) -> bool:
    return item.name.startswith(prefix) and item.name.endswith(".tmp")


def _make_locked(out: Path) -> tuple[Path, int]:
    while True:
        folder = out.with_name(f"{_work_prefix(out)}{secrets.token_hex(4)}.tmp")
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another run may have taken the new folder for a leftover before it was locked.
        if folder.is_dir() and os.path.samestat(os.fstat(lock), folder.stat()):
            return folder, lock
        os.close(lock)


def _try_lock(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def sync_folder(folder: Path) -> None:
    """Make a folder and all under it durable."""
    for path in (*sorted(folder.rglob("*")), folder):
        sync_path(path)


def sync_path(path: Path) -> None:
    """Make one file, or one folder's list of names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def place(made: Path, out: Path, *, force: bool) -> None:
    """Move ``made`` to ``out`` in one step; with ``force`` what was there goes to ``made``.

    Raises: OutputError when something is there and may not be replaced.
    """
    place_all(((made, out),), force=force)


def place_all(moves: Sequence[tuple[Path, Path]], *, force: bool) -> None:
    """``place`` for several, each in one step and with nothing done between the steps."""
    for made, out in moves:
        with output_faults(out):
            _put(made, out, force=force)
    for _, out in moves:
        with output_faults(out):
            sync_path(out.parent)


def _put(made: Path, out: Path, *, force: bool) -> None:
    is_taken = os.path.lexists(out)
    if is_taken and not force:
        raise OutputError(f"{out}: exists; --force replaces it")
    if is_taken:
        _exchange(made, out)
    else:
        _move(made, out)


def _move(made: Path, out: Path) -> None:
    try:
        if _renameat2(made, out, RENAME_NOREPLACE):
            return
    except FileExistsError as fault:
        raise OutputError(
            f"{out}: appeared while the bundle was being made; --force replaces it"
        ) from fault
    made.rename(out)


def _exchange(made: Path, out: Path) -> None:
    if _renameat2(made, out, RENAME_EXCHANGE):
        return
    # Two steps where the system cannot exchange: a kill between them leaves the old one, whole,
    # under the name below, and `restore` brings it back.
    aside = _aside(out)
    out.rename(aside)
    try:
        made.rename(out)
    except OSError:
        aside.rename(out)
        raise
    aside.rename(made)


def _aside(out: Path) -> Path:
    return out.with_name(f".{out.name}.edgekit-old")


def restore(out: Path) -> None:
    """Bring back, or clear away, what a kill inside a two-step replacement left."""
    aside = _aside(out)
    with output_faults(out):
        if not os.path.lexists(aside):
            return
        if not os.path.lexists(out):
            aside.rename(out)
        elif aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        else:
            aside.unlink()


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Whether the system did it; False where it cannot."""
    call = _find_renameat2()
    if call is None:
        return False
    result = call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags)
    if result == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(target))


def _find_renameat2() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    found: Callable[..., int] = call
    return found
