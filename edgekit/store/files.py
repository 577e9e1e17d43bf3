"""Files written whole or not at all, and what files and folders hold, by sha256."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.core.artifact import FileEntry
from edgekit.core.codec import digest_of
from edgekit.core.errors import OutputError


@contextmanager
def writing_to(place: Path, advice: str) -> Iterator[None]:
    """Turn an operating system's refusal to write under ``place`` into an error with advice.

    Raises: OutputError for what is read-only, full, not allowed or not there.
    """
    try:
        yield
    except OSError as refusal:
        reason = refusal.strerror or str(refusal)
        raise OutputError(f"{place}: cannot be written ({reason}); {advice}") from refusal


def atomic_write(
    path: Path, content: bytes, *, advice: str = "choose another place or make room there"
) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old one or the new one.

    Raises: OutputError when the folder is missing, read-only or full; the old file is then whole.
    """
    # Not tempfile: its files are closed to other users, and the result should follow the umask.
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    with writing_to(path, advice):
        try:
            with part.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_entries(folder: Path) -> tuple[FileEntry, ...]:
    """Every file under a folder, by relative POSIX path in sorted order; empty folders are nothing.

    Raises: ValueError for anything that is neither a file nor a folder (a symlink, a pipe): its
    content could change behind its digest.
    """
    entries = []
    for item in sorted(_walk(folder)):
        if item.is_symlink() or not item.is_file():
            raise ValueError(f"{item}: only plain files and folders can be kept")
        entries.append(
            FileEntry(
                path=item.relative_to(folder).as_posix(),
                bytes=item.stat().st_size,
                sha256=file_digest(item),
            )
        )
    return tuple(sorted(entries, key=lambda entry: entry.path))


def folder_digest(folder: Path) -> str:
    """sha256 over the paths, sizes and sha256 of all files under a folder."""
    return digest_of(folder_entries(folder))


def folder_bytes(folder: Path) -> int:
    """The bytes of all files under a folder, while others may be changing it."""
    total = 0
    for item in _walk(folder):
        try:
            total += item.lstat().st_size
        except FileNotFoundError:
            continue
    return total


def newest_change(folder: Path) -> float:
    """When the folder or a file under it last changed, while others may be changing it.

    Units: seconds since the epoch; 0 for a folder that is gone.
    """
    newest = 0.0
    for item in (folder, *_walk(folder)):
        try:
            newest = max(newest, item.lstat().st_mtime)
        except FileNotFoundError:
            continue
    return newest


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        names = files + [name for name in folders if (Path(parent) / name).is_symlink()]
        yield from (Path(parent) / name for name in names)
