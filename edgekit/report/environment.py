"""The cache and the toolchains of this machine."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from edgekit.core.units import format_bytes
from edgekit.report.parts import table
from edgekit.store.results import StoreEntry

# Keys are digests; so much of one tells any two apart.
KEY_CHARACTERS = 12


def cache_view(
    root: Path, size_bytes: int, entries: Sequence[StoreEntry]
) -> Iterator[RenderableType]:
    """Every entry of the cache, and what they take together."""
    rows = [
        (_stage(item), item.key[:KEY_CHARACTERS], format_bytes(item.bytes), _time(item.used_at))
        for item in entries
    ]
    if rows:
        yield table(("stage", "key", "bytes", "last used (UTC)"), rows)
        yield Text()
    unfinished = sum(item.is_unfinished for item in entries)
    counted = f"{len(entries) - unfinished} results, "
    counted += f"{unfinished} unfinished, " if unfinished else ""
    yield f"{counted}{format_bytes(size_bytes)} in {root}"


def _stage(entry: StoreEntry) -> str:
    return f"{entry.stage} (unfinished)" if entry.is_unfinished else entry.stage


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
