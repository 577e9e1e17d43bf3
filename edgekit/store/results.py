"""Results of stages, found again by the digest of all that went into them.

A result is verified, every byte of it, each time it is handed out: a damaged one is removed, and
the stage runs again. ``layout`` says where things lie and which locks guard them.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from edgekit.core.codec import canonical_json
from edgekit.core.errors import OutputError
from edgekit.core.progress import Event, Reporter
from edgekit.store.files import atomic_write, folder_bytes, folder_entries, writing_to
from edgekit.store.layout import Layout
from edgekit.store.listing import list_entries
from edgekit.store.locks import FileLock, locked, try_lock, wait_for_lock
from edgekit.store.record import (
    RECORD_NAME,
    SCHEMA,
    DamagedEntryError,
    Record,
    StoredResult,
    StoreEntry,
    check_files,
    differences,
    plain_values,
    read_record,
    result_digest,
    stored_result,
)

__all__ = ["Store", "StoreEntry", "StoredResult", "default_root"]

ADVICE = "set EDGEKIT_CACHE to a folder that can be written and has room"
Produce = Callable[[Path], Mapping[str, Any]]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_QUIET = Reporter(stage="")


def default_root() -> Path:
    """``EDGEKIT_CACHE``, else ``edgekit`` in the user's cache folder."""
    if chosen := os.environ.get("EDGEKIT_CACHE"):
        return Path(chosen).absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification: a relative path there is to be ignored.
    return (base if base.is_absolute() else Path.home() / ".cache") / "edgekit"


class Store:
    """A folder of results that any number of builds share."""

    def __init__(self, root: Path | None = None) -> None:
        """Open the store at ``root`` (default: ``default_root()``), making it if need be.

        Raises: OutputError when the folder cannot be written.
        """
        self.root = (root or default_root()).absolute()
        self._layout = Layout(self.root)
        self._in_use: dict[str, FileLock] = {}
        self._guard = Lock()
        with self._writing():
            self._layout.make()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the entries that this store has handed out: they may now be removed."""
        with self._guard:
            for lock in self._in_use.values():
                lock.release()
            self._in_use.clear()

    def get(self, key: str, *, reporter: Reporter = _QUIET) -> StoredResult | None:
        """The verified result of a key, or None; a damaged entry is removed with a note."""
        with self._writing():
            try:
                return self._read(key)
            except DamagedEntryError:
                with locked(self._layout.lock(key, "work")):
                    return self._read_or_discard(key, reporter)

    def fill(
        self,
        key: str,
        produce: Produce,
        *,
        reporter: Reporter = _QUIET,
        refresh: bool = False,
        remarks: Callable[[], tuple[Event, ...]] = tuple,
    ) -> StoredResult:
        """The stored result of a key, else the one that ``produce`` makes in an empty folder.

        Of several processes that fill a key, one works and the others wait for its result.
        refresh: make it anew and compare with what was there. remarks: asked after ``produce``.
        Raises: OutputError when the store cannot be written; whatever ``produce`` raises, with
        nothing left behind.
        """
        found = None if refresh else self._read_quietly(key)
        if found is not None:
            return found
        with self._working(key, reporter):
            found = None if refresh else self._read_or_discard(key, reporter)
            return found or self._make(key, produce, reporter, remarks)

    def checkpoints(self, key: str, stage: str) -> Path:
        """The folder that outlives a kill of the work on a key; asked for by ``produce`` alone.

        It goes when the result is there. stage: whose work it is, for who lists it.
        """
        folder = self._layout.checkpoint_work(key)
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(self._layout.checkpoint_stage(key), stage.encode(), advice=ADVICE)
        return folder

    def entries(self) -> tuple[StoreEntry, ...]:
        """All readable results and all checkpoints, the longest unused first."""
        return list_entries(self._layout)

    def size_bytes(self) -> int:
        """The bytes of everything that the store keeps."""
        return sum(folder_bytes(self.root / name) for name in ("results", "temp", "checkpoints"))

    def clear(self) -> int:
        """Remove every entry that is not in use; the bytes that this freed."""
        before = self.size_bytes()
        with self._writing():
            for key in self._layout.known_keys():
                self._layout.evict(key)
            self._layout.remove_leftovers()
        return before - self.size_bytes()

    def bound(self, max_bytes: int) -> int:
        """Remove the longest unused entries until the store is at most this big; bytes freed.

        Checkpoints of stopped work go like results. What is in use or being made stays, so the
        store may remain bigger.
        """
        before = size = self.size_bytes()
        with self._writing():
            for entry in self.entries():
                if size <= max_bytes:
                    break
                if self._layout.evict(entry.key):
                    size -= entry.bytes
        return before - self.size_bytes()

    def _read(self, key: str) -> StoredResult | None:
        lock = self._use(key)
        result = None
        try:
            result = self._verified(key)
            return result
        finally:
            if result is not None:
                self._keep(key, lock)
            elif lock is not None:
                lock.release()

    def _verified(self, key: str) -> StoredResult | None:
        entry = self._layout.entry(key)
        record = read_record(entry, key)
        if record is None:
            return None
        check_files(entry / record.digest, record)
        os.utime(entry / RECORD_NAME)
        return stored_result(entry, record)

    def _read_quietly(self, key: str) -> StoredResult | None:
        with self._writing():
            try:
                return self._read(key)
            except DamagedEntryError:
                return None

    def _read_or_discard(self, key: str, reporter: Reporter) -> StoredResult | None:
        with self._writing():
            try:
                return self._read(key)
            except DamagedEntryError as damage:
                reporter.note(f"a cached result is damaged and was removed: {damage}")
                self._layout.discard(self._layout.entry(key), key)
                return None

    def _make(
        self,
        key: str,
        produce: Produce,
        reporter: Reporter,
        remarks: Callable[[], tuple[Event, ...]],
    ) -> StoredResult:
        with self._writing():
            self._layout.remove_temp_of(key)
            temp = self._layout.temp(key)
            temp.mkdir()
        try:
            with _asking_for_room(self.root):
                values = plain_values(produce(temp))
            files = folder_entries(temp)
            record = Record(
                schema=SCHEMA,
                key=key,
                stage=reporter.stage,
                digest=result_digest(files, values),
                values=values,
                files=files,
                remarks=remarks(),
            )
            with self._writing():
                return self._publish(temp, record)
        finally:
            shutil.rmtree(temp, ignore_errors=True)

    def _publish(self, temp: Path, record: Record) -> StoredResult:
        entry = self._layout.entry(record.key)
        entry.mkdir(exist_ok=True)
        old = _record_to_compare(entry, record.key)
        folder = entry / record.digest
        if not _holds(folder, record):
            self._layout.discard(folder, record.key)
            temp.rename(folder)
        atomic_write(entry / RECORD_NAME, canonical_json(record), advice=ADVICE)
        self._layout.discard(self._layout.checkpoints(record.key), record.key)
        self._prune(record)
        self._keep(record.key, self._use(record.key))
        changed = () if old is None else differences(old, record)
        return stored_result(entry, record, is_reused=False, changed=changed)

    def _prune(self, record: Record) -> None:
        """Remove what else lies in the entry, unless somebody may be reading it."""
        lock = try_lock(self._layout.lock(record.key, "use"))
        if lock is None:
            return
        for item in list(self._layout.entry(record.key).iterdir()):
            if item.name not in (RECORD_NAME, record.digest):
                self._layout.discard(item, record.key)
        lock.release()

    def _use(self, key: str) -> FileLock | None:
        """A shared lock on an entry, or None where this store holds one already."""
        path = self._layout.lock(key, "use")
        with self._guard:
            if key in self._in_use:
                return None
        return wait_for_lock(path, is_shared=True)

    def _keep(self, key: str, lock: FileLock | None) -> None:
        with self._guard:
            if lock is not None and self._in_use.setdefault(key, lock) is not lock:
                lock.release()

    @contextmanager
    def _working(self, key: str, reporter: Reporter) -> Iterator[None]:
        with self._writing():
            lock = wait_for_lock(
                self._layout.lock(key, "work"),
                on_wait=lambda: reporter.note("waiting: another build is making the same result"),
            )
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with writing_to(self.root, ADVICE):
            yield


def _record_to_compare(entry: Path, key: str) -> Record | None:
    try:
        return read_record(entry, key)
    except DamagedEntryError:
        return None


def _holds(folder: Path, record: Record) -> bool:
    try:
        check_files(folder, record)
    except DamagedEntryError:
        return False
    return True


@contextmanager
def _asking_for_room(root: Path) -> Iterator[None]:
    """A full disk inside a stage is a matter of the store's place; other errors are the stage's."""
    try:
        yield
    except OSError as refusal:
        if refusal.errno not in _NO_ROOM:
            raise
        raise OutputError(f"{root}: no room for a stage's files; {ADVICE}") from refusal
