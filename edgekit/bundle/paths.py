"""Which paths a file in a bundle may have: the same safe file on every system.

Segments are ASCII letters, digits and ``_ . + -``, start with a letter, a digit or ``_``, and are
joined by ``/``. So no path is absolute, climbs out, hides, or means something else on Windows.
"""

import hashlib
import re
from collections.abc import Iterable

MANIFEST_NAME = "manifest.json"
EVIDENCE_NAME = "evidence.json"
DOCUMENTS = (MANIFEST_NAME, EVIDENCE_NAME)
MAXIMUM_PATH_LENGTH = 200

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9_+-]+")
# Names that Windows gives to devices, with any extension (Win32 "Naming Files, Paths").
_DEVICE_NAMES = frozenset(
    ["con", "prn", "aux", "nul"] + [f"{port}{n}" for port in ("com", "lpt") for n in range(10)]
)


def path_fault(path: str) -> str:
    """Why a bundle may not hold a file of this path; "" where it may."""
    if not 0 < len(path) <= MAXIMUM_PATH_LENGTH:
        return f"has {len(path)} characters; allowed: 1 to {MAXIMUM_PATH_LENGTH}"
    for segment in path.split("/"):
        if not _SEGMENT.fullmatch(segment):
            return (
                f"has the part {segment!r}; parts are ASCII letters, digits, '_', '.', '+' and "
                "'-', start with a letter, a digit or '_', and are joined by '/'"
            )
        if segment.endswith(".") or segment.split(".")[0].lower() in _DEVICE_NAMES:
            return f"has the part {segment!r}, which Windows cannot hold"
    return ""


def collision(paths: Iterable[str]) -> str:
    """Two paths that cannot lie side by side on every system, as a sentence; "" for none."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        key = path.lower()
        if key in seen:
            return f"'{path}' and '{seen[key]}' differ in case alone, or not at all"
        seen[key] = path
        parts = key.split("/")
        folders.update({"/".join(parts[:end]): path for end in range(1, len(parts))})
    for folder, path in folders.items():
        if folder in seen:
            return f"'{seen[folder]}' is a file, and a folder in '{path}'"
    spelled: dict[str, str] = {}
    for path in seen.values():
        parts = path.split("/")
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end])
            if spelled.setdefault(folder.lower(), folder) != folder:
                return f"the folders '{folder}' and '{spelled[folder.lower()]}' differ in case"
    return ""


def file_name_for(name: str) -> str:
    """A safe file name for a contract's name; other names give other files.

    A name that is safe as it is stays; any other keeps its safe characters and gets a short hash.
    """
    if len(name) <= 64 and "/" not in name and name == name.lower() and not path_fault(name):
        return name
    readable = _UNSAFE.sub("_", name)[:40].strip("-+") or "tensor"
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
