"""One TOML file, read within bounds, as values that know the line they stand on."""

import hashlib
import stat
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgekit.catalog.lines import KeyPath, key_lines
from edgekit.core.errors import ProfileError

# The largest table of operators is a tenth of this; a profile is a few kilobytes.
MAX_FILE_BYTES = 1_000_000


# Deeper than any table of a profile; what reads the values may then recurse without care.
MAX_DEPTH = 40


class Source:
    """The text of one file; where its keys stand is looked up only when somebody asks."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._text = text

    @cached_property
    def _lines(self) -> dict[KeyPath, int]:
        return key_lines(self._text)

    def where(self, path: KeyPath) -> str:
        """``phone.toml:12``: the line of a key, or of the nearest table around it."""
        while path and path not in self._lines:
            path = path[:-1]
        return f"{self.name}:{self._lines.get(path, 1)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value of a TOML file and where it stands.

    value: a scalar, a list of nodes or a dict of nodes.
    """

    value: Any
    path: KeyPath
    source: Source

    @property
    def is_table(self) -> bool:
        """Whether this is a table."""
        return isinstance(self.value, dict)

    @property
    def where(self) -> str:
        """File and line, as messages begin."""
        return self.source.where(self.path)

    @property
    def label(self) -> str:
        """The value as a message names it: ``[hardware]``, ``'ram' in [hardware]``."""
        return _label(self.path, is_table=self.is_table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One parsed file; digest: sha256 of its bytes."""

    path: Path
    root: Node
    digest: str


def read_document(path: Path, *, name: str) -> Document:
    """Parse one TOML file; ``name`` is how messages call it.

    Raises: ProfileError for a file that cannot be read, is no regular file, is larger than
    MAX_FILE_BYTES, is not UTF-8 or not TOML.
    """
    content = _read_bytes(path)
    try:
        text = content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as wrong:
        line = content[: wrong.start].count(b"\n") + 1
        raise ProfileError(
            f"{name}:{line}: byte {wrong.start} is not UTF-8; save the file as UTF-8 text"
        ) from wrong
    try:
        table = tomllib.loads(text)
    except RecursionError as deep:
        raise ProfileError(f"{name}: tables or lists are nested too deeply") from deep
    except ValueError as wrong:  # TOMLDecodeError, and Python's own limit on digits
        raise ProfileError(f"{name}: not valid TOML: {wrong}") from wrong
    root = _locate(table, (), Source(name, text))
    return Document(path=path, root=root, digest=hashlib.sha256(content).hexdigest())


def _read_bytes(path: Path) -> bytes:
    try:
        # Before opening: a named pipe would block the open.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ProfileError(f"{path} is not a regular file; give the path of a TOML file")
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as missing:
        raise ProfileError(f"{path} does not exist; give the path of a TOML file") from missing
    except (OSError, ValueError) as wrong:  # ValueError: a NUL in the path
        reason = getattr(wrong, "strerror", None) or str(wrong)
        raise ProfileError(f"{str(path)!r} cannot be read: {reason}") from wrong
    if len(content) > MAX_FILE_BYTES:
        raise ProfileError(f"{path} is larger than {MAX_FILE_BYTES} bytes: not a profile or target")
    return content


def _locate(value: Any, path: KeyPath, source: Source) -> Node:
    if len(path) > MAX_DEPTH:
        raise ProfileError(f"{source.name}: tables or lists are nested too deeply")
    if isinstance(value, dict):
        value = {key: _locate(item, (*path, key), source) for key, item in value.items()}
    elif isinstance(value, list):
        value = [_locate(item, (*path, index), source) for index, item in enumerate(value)]
    return Node(value=value, path=path, source=source)


def _label(path: KeyPath, *, is_table: bool) -> str:
    if not path:
        return "the file's top level"
    if is_table:
        return f"[{_dotted(path)}]"
    key = path[-1] if isinstance(path[-1], str) else f"{path[-2]}[{path[-1]}]"
    table = path[:-1] if isinstance(path[-1], str) else path[:-2]
    return f"'{key}' in [{_dotted(table)}]" if table else f"'{key}'"


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")
