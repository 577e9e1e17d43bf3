"""Where the store keeps what, and how an entry goes away.

Under the root: ``results/KEY/result.json`` (written last), ``results/KEY/DIGEST/`` (the files),
``locks/``, ``temp/``, and for long work that is not done yet ``checkpoints/KEY/``: what it may go
on from in ``work/``, and the name of its stage in the file ``stage``. Two locks a key:
``work`` is held alone by whoever changes the entry; ``use`` is shared by those who read it, until
they close the store. A killed build leaves only checkpoints, folders in ``temp`` or trees without a
record; the next holder of ``work`` goes on from the first and removes the others.
"""

import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.store.locks import try_lock

_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one store; the functions that remove want the lock that they name."""

    root: Path

    def make(self) -> None:
        """Make the folders, and delete what killed builds left behind."""
        for name in ("results", "locks", "temp", "checkpoints"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.remove_leftovers()

    def entry(self, key: str) -> Path:
        """The folder of one entry, there or not."""
        return self.root / "results" / key

    def checkpoints(self, key: str) -> Path:
        """The folder of unfinished work on an entry, there or not."""
        return self.root / "checkpoints" / key

    def checkpoint_work(self, key: str) -> Path:
        """The folder of what that work may go on from, there or not."""
        return self.checkpoints(key) / "work"

    def checkpoint_stage(self, key: str) -> Path:
        """The file that says whose work it is, there or not."""
        return self.checkpoints(key) / "stage"

    def lock(self, key: str, purpose: Literal["work", "use"]) -> Path:
        """The lock file of one entry.

        Raises: ValueError for what is no key: it could lead out of the store.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no sha256 in hexadecimal digits")
        return self.root / "locks" / f"{key}.{purpose}"

    def known_keys(self) -> tuple[str, ...]:
        """Every key that has an entry, checkpoints or a lock file."""
        found = {item.name for item in (self.root / "results").iterdir()}
        found |= {item.name for item in (self.root / "checkpoints").iterdir()}
        found |= {item.stem for item in (self.root / "locks").iterdir()}
        return tuple(sorted(key for key in found if _KEY.fullmatch(key)))

    def temp(self, key: str, suffix: str = "") -> Path:
        """A new path in ``temp`` that belongs to a key; ``work`` is held."""
        return self.root / "temp" / f"{key}-{secrets.token_hex(6)}{suffix}"

    def discard(self, path: Path, key: str) -> None:
        """Take a file or folder of an entry away in one step, then delete it; ``work`` is held."""
        if path.exists():
            trash = self.temp(key, "-trash")
            path.rename(trash)
            _remove(trash)

    def remove_temp_of(self, key: str) -> None:
        """Delete everything in ``temp`` that belongs to a key; ``work`` is held."""
        for leftover in (self.root / "temp").glob(f"{key}-*"):
            _remove(leftover)

    def remove_leftovers(self) -> None:
        """Delete what lies in ``temp`` for keys that nobody is working on."""
        for leftover in list((self.root / "temp").iterdir()):
            key = leftover.name.partition("-")[0]
            lock = try_lock(self.lock(key, "work")) if _KEY.fullmatch(key) else None
            if lock is not None:
                _remove(leftover)
                lock.release()

    def evict(self, key: str) -> bool:
        """Remove an entry with its locks, unless somebody works on it or uses it."""
        work = try_lock(self.lock(key, "work"))
        if work is None:
            return False
        use = try_lock(self.lock(key, "use"))
        if use is not None:
            self.discard(self.entry(key), key)
            self.discard(self.checkpoints(key), key)
            self.lock(key, "use").unlink()
            use.release()
            self.lock(key, "work").unlink()
        work.release()
        return use is not None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
