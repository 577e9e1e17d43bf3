"""What a store holds: results, and checkpoints of work that has none yet."""

from pathlib import Path

from edgekit.store.files import folder_bytes, newest_change
from edgekit.store.layout import Layout
from edgekit.store.record import RECORD_NAME, DamagedEntryError, Record, StoreEntry, read_record

# Of work that was killed before it could write its name.
UNKNOWN_STAGE = "unknown"


def list_entries(layout: Layout) -> tuple[StoreEntry, ...]:
    """All readable results and all checkpoints, the longest unused first."""
    listed = (_entry(layout, key) for key in layout.known_keys())
    found = (entry for entry in listed if entry is not None)
    return tuple(sorted(found, key=lambda entry: (entry.used_at, entry.key)))


def _entry(layout: Layout, key: str) -> StoreEntry | None:
    folder, checkpoints = layout.entry(key), layout.checkpoints(key)
    record, used_at = _readable(folder, key)
    is_worked_on = checkpoints.is_dir()
    if record is None and not is_worked_on:
        return None
    return StoreEntry(
        key=key,
        stage=record.stage if record else _stage_of(layout.checkpoint_stage(key)),
        bytes=folder_bytes(folder) + folder_bytes(checkpoints),
        used_at=max(used_at, newest_change(checkpoints)),
        is_unfinished=record is None,
    )


def _readable(folder: Path, key: str) -> tuple[Record | None, float]:
    """A record and when it was last used."""
    try:
        record = read_record(folder, key)
        return record, (folder / RECORD_NAME).stat().st_mtime if record else 0.0
    except (DamagedEntryError, FileNotFoundError):
        return None, 0.0


def _stage_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return UNKNOWN_STAGE
