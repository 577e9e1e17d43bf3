"""Which file answers to the name of a device or a target.

Levels, first hit wins: the folders of ``EDGEKIT_PATH``, the working directory, installed plug-ins
(entry points ``edgekit.catalogs``, each naming a package), built in. A folder of a level holds
``device_profiles/`` and ``targets/``. A name that stands twice on one level is an error.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import edgekit
from edgekit.core.codec import nearest
from edgekit.core.errors import ProfileError

PLUG_IN_GROUP = "edgekit.catalogs"
PATH_VARIABLE = "EDGEKIT_PATH"
PROFILE_FOLDER = "device_profiles"
TARGET_FOLDER = "targets"
TARGET_FILE = "target.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A profile or target that can be named, and where it comes from; nothing of it is read.

    level: ``EDGEKIT_PATH``, ``working directory``, ``plug-ins``, ``built in`` or ``path``.
    """

    name: str
    path: Path
    level: str


ProfileEntry = Entry
TargetEntry = Entry


def find_profiles() -> tuple[Entry, ...]:
    """All device profiles that can be named, by name, shadowed ones left out."""
    return _first_hits(PROFILE_FOLDER)


def find_targets() -> tuple[Entry, ...]:
    """All targets that can be named, by name, shadowed ones left out."""
    return _first_hits(TARGET_FOLDER)


def locate_profile(name_or_path: str, *, skip: tuple[Path, ...] = ()) -> Entry:
    """The profile of a name or path; files in ``skip`` are passed over.

    Raises: ProfileError for an unknown name, with near ones.
    """
    if _is_path(name_or_path):
        path = Path(name_or_path)
        return Entry(name=path.stem, path=path, level="path")
    return _locate(name_or_path, PROFILE_FOLDER, "device profile", skip)


def locate_target(name_or_path: str) -> Entry:
    """The target of a name, a folder with ``target.toml``, or the path of that file.

    Raises: ProfileError for an unknown name, with near ones.
    """
    if _is_path(name_or_path):
        path = Path(name_or_path)
        if path.name != TARGET_FILE:
            path /= TARGET_FILE
        return Entry(name=path.absolute().parent.name, path=path, level="path")
    return _locate(name_or_path, TARGET_FOLDER, "target", ())


def _is_path(name_or_path: str) -> bool:
    has_separator = any(
        separator in name_or_path for separator in (os.sep, os.altsep) if separator is not None
    )
    return has_separator or name_or_path.endswith(".toml") or Path(name_or_path).is_file()


def _locate(name: str, folder: str, what: str, skip: tuple[Path, ...]) -> Entry:
    known: set[str] = set()
    for level, roots in _levels():
        hits = [entry for entry in _entries(level, roots, folder) if entry.path not in skip]
        known.update(entry.name for entry in hits)
        same = [entry for entry in hits if entry.name == name]
        if same:
            return _only(same)
    raise ProfileError(f"no {what} is called '{name}'{nearest(name, sorted(known))}")


def _first_hits(folder: str) -> tuple[Entry, ...]:
    found: dict[str, Entry] = {}
    for level, roots in _levels():
        by_name: dict[str, list[Entry]] = {}
        for entry in _entries(level, roots, folder):
            by_name.setdefault(entry.name, []).append(entry)
        for name, same in by_name.items():
            if name not in found:
                found[name] = _only(same)
    return tuple(found[name] for name in sorted(found))


def _only(same: list[Entry]) -> Entry:
    if len(same) > 1:
        both = " and ".join(str(entry.path) for entry in same)
        raise ProfileError(
            f"'{same[0].name}' stands twice on one level ({same[0].level}): {both}; remove one,"
            " or name its path"
        )
    return same[0]


def _entries(level: str, roots: tuple[Path, ...], folder: str) -> Iterator[Entry]:
    pattern = "*.toml" if folder == PROFILE_FOLDER else f"*/{TARGET_FILE}"
    for root in roots:
        for path in sorted((root / folder).glob(pattern)):
            name = path.stem if folder == PROFILE_FOLDER else path.parent.name
            yield Entry(name=name, path=path, level=level)


def _levels() -> Iterator[tuple[str, tuple[Path, ...]]]:
    built_in = built_in_root()
    yield PATH_VARIABLE, _path_roots()
    here = Path.cwd()
    if here != built_in:  # in a checkout its own profiles are the built-in ones
        yield "working directory", (here,)
    yield "plug-ins", _plug_in_roots(tuple(sys.path))
    yield "built in", (built_in,)


def built_in_root() -> Path:
    """The folder that holds what comes with edgekit: inside a wheel, else the checkout."""
    package = Path(edgekit.__file__).resolve().parent
    packed = package / "_data"
    return packed if packed.is_dir() else package.parent


def _path_roots() -> tuple[Path, ...]:
    roots = []
    for part in os.environ.get(PATH_VARIABLE, "").split(os.pathsep):
        root = Path(part).absolute()
        if not part or root in roots:
            continue
        if not any((root / folder).is_dir() for folder in (PROFILE_FOLDER, TARGET_FOLDER)):
            raise ProfileError(
                f"{PATH_VARIABLE} names {part!r}, which holds neither {PROFILE_FOLDER}/ nor"
                f" {TARGET_FOLDER}/; make one of them there, or remove it from {PATH_VARIABLE}"
            )
        roots.append(root)
    return tuple(roots)


@lru_cache(maxsize=4)
def _plug_in_roots(search_path: tuple[str, ...]) -> tuple[Path, ...]:
    """The packages of installed plug-ins; reading what is installed takes most of a look-up."""
    roots: list[Path] = []
    del search_path  # only what the answer is remembered by
    for point in sorted(entry_points(group=PLUG_IN_GROUP), key=lambda item: item.name):
        try:
            spec = find_spec(point.module)
        except ImportError:
            spec = None
        folders = [] if spec is None else list(spec.submodule_search_locations or ())
        if not folders:
            raise ProfileError(
                f"the plug-in '{point.name}' ({PLUG_IN_GROUP}) names the package"
                f" '{point.module}', which is not installed; reinstall or remove the plug-in"
            )
        roots.extend(Path(item) for item in folders if Path(item) not in roots)
    return tuple(roots)
