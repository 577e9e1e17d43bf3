"""Where a bundle's bytes come from: a folder or memory. Each file is read once, whole.

Paths are joined as strings: in Python 3.11 pathlib brings urllib along, and an app that opens a
bundle would wait for it.
"""

import os
import stat
from collections.abc import Mapping
from typing import Protocol

from edgekit.core.errors import BundleError

# Without these flags an entry that was swapped for a link would be followed, and one that was
# swapped for a pipe would block for ever. Windows has neither flag nor need.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
MAXIMUM_ENTRIES = 20_000


class Source(Protocol):
    """Files by their path in a bundle."""

    name: str

    def paths(self) -> list[str]:
        """The paths of all files, sorted.

        Raises: BundleError for anything that is no plain file in a folder that holds some.
        """

    def read(self, path: str, *, maximum_bytes: int) -> bytes:
        """The content of one file.

        Raises: BundleError when it is missing, unreadable or longer than ``maximum_bytes``.
        """


class MemorySource:
    """Files that are held already: a zip that was read, or a test's."""

    def __init__(self, name: str, contents: Mapping[str, bytes]) -> None:
        """Files under the name that messages give them."""
        self.name = name
        self._contents = dict(contents)

    def paths(self) -> list[str]:
        """The paths of all files, sorted."""
        return sorted(self._contents)

    def read(self, path: str, *, maximum_bytes: int) -> bytes:
        """The content of one file."""
        if path not in self._contents:
            raise BundleError(f"{self.name}: '{path}' is missing")
        content = self._contents[path]
        if len(content) > maximum_bytes:
            raise BundleError(_too_long(self.name, path, len(content), maximum_bytes))
        return content


class FolderSource:
    """Files in a folder; links are refused, not followed."""

    def __init__(self, folder: str | os.PathLike[str], *, name: str = "") -> None:
        """Files in ``folder``, under the name that messages give it."""
        self._folder = os.fspath(folder)
        self.name = name or self._folder

    def paths(self) -> list[str]:
        """The paths of all files, sorted."""
        found: list[str] = []
        try:
            self._walk(self._folder, "", found)
        except (OSError, RecursionError) as fault:
            raise BundleError(f"{self.name}: cannot be listed: {fault}") from fault
        return sorted(found)

    def _walk(self, folder: str, prefix: str, found: list[str]) -> None:
        is_empty = True
        with os.scandir(folder) as entries:
            for entry in entries:
                is_empty = False
                path = prefix + entry.name
                if entry.is_symlink():
                    raise BundleError(f"{self.name}: {path!r} is a symbolic link")
                if entry.is_dir(follow_symlinks=False):
                    self._walk(entry.path, f"{path}/", found)
                elif entry.is_file(follow_symlinks=False):
                    found.append(path)
                else:
                    raise BundleError(f"{self.name}: {path!r} is neither a file nor a folder")
                if len(found) > MAXIMUM_ENTRIES:
                    raise BundleError(f"{self.name}: holds more than {MAXIMUM_ENTRIES} files")
        if is_empty and prefix:
            raise BundleError(f"{self.name}: {prefix!r} is an empty folder; a bundle has none")

    def read(self, path: str, *, maximum_bytes: int) -> bytes:
        """The content of one file."""
        try:
            descriptor = os.open(f"{self._folder}/{path}", _OPEN_FLAGS)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise BundleError(f"{self.name}: '{path}' is not a plain file")
                if status.st_size > maximum_bytes:
                    raise BundleError(_too_long(self.name, path, status.st_size, maximum_bytes))
                return file.read(maximum_bytes + 1)
        except FileNotFoundError as fault:
            raise BundleError(f"{self.name}: '{path}' is missing") from fault
        except OSError as fault:
            raise BundleError(f"{self.name}: '{path}' cannot be read: {fault.strerror}") from fault
        except MemoryError as fault:
            raise BundleError(f"{self.name}: '{path}' does not fit into memory") from fault


def _too_long(name: str, path: str, size: int, maximum_bytes: int) -> str:
    return f"{name}: '{path}' has {size} bytes; it must have {maximum_bytes} at most"
