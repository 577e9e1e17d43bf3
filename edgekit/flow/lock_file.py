"""Lock files: exact versions with the hashes of the files that a toolchain may be made of.

A lock may hold more than one build of a package (torch without and with its accelerator
libraries) and what only one of them needs. pip downloads what it would take where it runs, at the
lock's versions; if the lock holds each of those files, they and nothing else are installed.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from edgekit.core.errors import MissingDependencyError, ProfileError

HOW_A_LINE_READS = "NAME==VERSION --hash=sha256:64-DIGITS, with further --hash for other builds"

_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==(?P<version>[^\s;*]+)"
    r"(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})+)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedPackage:
    """One line of a lock. sha256: of each file that may be installed for it."""

    name: str
    version: str
    sha256: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenFile:
    """A file that pip took. version: with what sets a build apart, as ``2.13.0+cpu``."""

    name: str
    version: str
    file: str
    sha256: str


def read_lock(text: str, where: str) -> dict[str, LockedPackage]:
    """The packages of a lock by normalized name.

    Raises: ProfileError for a line that pins no version with hashes, or a package that stands
    twice.
    """
    packages: dict[str, LockedPackage] = {}
    for line in _logical_lines(text):
        found = _LINE.fullmatch(line)
        if found is None:
            raise ProfileError(f"{where}: '{line}' is no line of a lock: {HOW_A_LINE_READS}")
        name = canonicalize_name(found["name"])
        if name in packages:
            raise ProfileError(f"{where}: {name} stands twice; one line holds all its hashes")
        hashes = tuple(part.rpartition(":")[2] for part in found["hashes"].split())
        packages[name] = LockedPackage(name=name, version=_version(found, where), sha256=hashes)
    return packages


def require_covered(
    requirements: tuple[str, ...], packages: dict[str, LockedPackage], where: str
) -> None:
    """Hold a lock against the pins that it was made of.

    Raises: ProfileError where it lacks one of them or holds another version.
    """
    for text in requirements:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        locked = packages.get(canonicalize_name(wanted.name))
        if locked is None or not wanted.specifier.contains(locked.version, prereleases=True):
            held = "lacks it" if locked is None else f"holds {locked.name}=={locked.version}"
            raise ProfileError(
                f"{where}: the pins ask for {text} and the lock {held}; make it anew with "
                "`scripts/lock_toolchain.py`"
            )


def constraints(packages: dict[str, LockedPackage]) -> str:
    """The versions of a lock as a constraints file of pip, without hashes."""
    return "".join(f"{item.name}=={item.version}\n" for item in packages.values())


def files_in(folder: Path) -> tuple[ChosenFile, ...]:
    """The wheels in a folder that pip has downloaded into, by name.

    Raises: MissingDependencyError for a file that is no wheel.
    """
    return tuple(_chosen(path) for path in sorted(folder.iterdir()))


def hashed_requirements(
    chosen: tuple[ChosenFile, ...], packages: dict[str, LockedPackage], where: str
) -> str:
    """The lines of a lock for the files that pip took, each with its one hash.

    Raises: MissingDependencyError naming the first file that the lock does not hold.
    """
    lines = []
    for item in chosen:
        locked = packages.get(item.name)
        if locked is None or item.sha256 not in locked.sha256:
            held = "no file of it" if locked is None else f"sha256 {' and '.join(locked.sha256)}"
            raise MissingDependencyError(
                f"{where}: pip takes {item.file} (sha256 {item.sha256}) for {item.name}, and the "
                f"lock holds {held}. Nothing is installed that is not in the lock: let pip find a "
                "locked file (`pip config list` shows where it looks), make a lock that holds "
                "this one with `scripts/lock_toolchain.py`, or install the pins into the "
                "environment that edgekit runs in, where they are used in place"
            )
        lines.append(f"{item.name}=={item.version} --hash=sha256:{item.sha256}\n")
    return "".join(lines)


def _chosen(path: Path) -> ChosenFile:
    try:
        name, version, _, _ = parse_wheel_filename(path.name)
    except InvalidWheelFilename as wrong:
        raise MissingDependencyError(
            f"pip takes {path.name}, and a lock is of wheels, named as PEP 427 says ({wrong}): let "
            "pip find one in its index or in find-links"
        ) from wrong
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ChosenFile(name=name, version=str(version), file=path.name, sha256=sha256)


def _version(found: re.Match[str], where: str) -> str:
    try:
        return str(Version(found["version"]))
    except InvalidVersion as wrong:
        raise ProfileError(
            f"{where}: '{found['version']}' of {found['name']} is no version: {HOW_A_LINE_READS}"
        ) from wrong


def _logical_lines(text: str) -> list[str]:
    """Lines without comments; those that end in a backslash joined with the next."""
    joined = text.replace("\\\n", " ")
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines()]
    return [line for line in lines if line]
