"""What the store writes beside a stage's files, and the check of the files against it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.core.artifact import FileEntry
from edgekit.core.codec import canonical_json, digest_of, from_plain
from edgekit.core.progress import Event
from edgekit.store.files import folder_entries

SCHEMA = 1
RECORD_NAME = "result.json"
# How long something took is kept with a result and is no part of what it is.
TIMES = "seconds"


class DamagedEntryError(Exception):
    """An entry that must not be used; the message says why. Never leaves the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The whole result of one stage: its plain values and the list of its files.

    digest: sha256 over files and values, the input digest of later stages. remarks: notes and
    warnings of the work, said again when the result is used again; they are not in the digest.
    """

    schema: int
    key: str
    stage: str
    digest: str
    values: dict[str, Any]
    files: tuple[FileEntry, ...]
    remarks: tuple[Event, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResult:
    """One stage's verified files and values.

    folder: must not be written to. differences: what another result of the same key had otherwise
    (names of files, ``values.NAME``), when this one was made anew: the stage is not deterministic.
    """

    key: str
    folder: Path
    values: dict[str, Any]
    files: tuple[FileEntry, ...]
    digest: str
    remarks: tuple[Event, ...] = ()
    is_reused: bool = True
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreEntry:
    """One entry as listed.

    bytes: of the result and of checkpoints on the way to it (or to another, of a refresh).
    used_at: seconds since the epoch. is_unfinished: there is no result, only checkpoints: of work
    that is going on, or was stopped and may go on.
    """

    key: str
    stage: str
    bytes: int
    used_at: float
    is_unfinished: bool = False


def result_digest(files: tuple[FileEntry, ...], values: Mapping[str, Any]) -> str:
    """sha256 over everything that a stage gave, but for the times that it took."""
    return digest_of({"files": files, "values": _timeless(values)})


def _timeless(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != TIMES}


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they come back from JSON, so that a fresh and a reused result are the same.

    Raises: TypeError or ValueError for what JSON cannot hold: the stage's defect.
    """
    plain: dict[str, Any] = json.loads(canonical_json(values))
    return plain


def stored_result(
    entry: Path, record: Record, *, is_reused: bool = True, changed: tuple[str, ...] = ()
) -> StoredResult:
    """A record and its files as they are handed out."""
    return StoredResult(
        key=record.key,
        folder=entry / record.digest,
        values=record.values,
        files=record.files,
        digest=record.digest,
        remarks=record.remarks,
        is_reused=is_reused,
        differences=changed,
    )


def read_record(entry: Path, key: str) -> Record | None:
    """The record of an entry folder, or None where there is none.

    Raises: DamagedEntryError when it is not what this version writes for ``key``.
    """
    try:
        content = (entry / RECORD_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        record = from_plain(Record, json.loads(content), where=RECORD_NAME, error=DamagedEntryError)
    except (ValueError, RecursionError) as broken:
        raise DamagedEntryError(f"{RECORD_NAME} is no JSON: {broken}") from broken
    if record.schema != SCHEMA or record.key != key:
        raise DamagedEntryError(f"{RECORD_NAME} belongs to another key or version")
    if record.digest != result_digest(record.files, record.values):
        raise DamagedEntryError(f"{RECORD_NAME} does not match its own digest")
    return record


def check_files(folder: Path, record: Record) -> None:
    """Compare every file of a result, byte for byte by sha256, with its record.

    Raises: DamagedEntryError naming the first file that differs, is missing or was added.
    """
    if not folder.is_dir():
        raise DamagedEntryError("its folder is missing")
    try:
        found = {item.path: item for item in folder_entries(folder)}
    except (OSError, ValueError) as unreadable:
        raise DamagedEntryError(str(unreadable)) from unreadable
    wanted = {item.path: item for item in record.files}
    for path in sorted(found.keys() | wanted.keys()):
        if path not in found:
            raise DamagedEntryError(f"{path} is missing")
        if path not in wanted:
            raise DamagedEntryError(f"{path} was added")
        if found[path] != wanted[path]:
            raise DamagedEntryError(f"{path} has other bytes than were stored")


def differences(old: Record, new: Record) -> tuple[str, ...]:
    """Names of files, and ``values.NAME``, in which two results of one stage differ."""
    files = _changed(
        {item.path: item for item in old.files}, {item.path: item for item in new.files}
    )
    values = _changed(_timeless(old.values), _timeless(new.values))
    return (*files, *(f"values.{name}" for name in values))


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    absent = object()
    names = sorted(old.keys() | new.keys())
    return tuple(name for name in names if old.get(name, absent) != new.get(name, absent))
