"""What a worker in another environment must find although it is not installed there."""

import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit.core.errors import MissingDependencyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Borrowed:
    """Packages by name with their place, and texts of their distributions' metadata."""

    packages: dict[str, dict[str, Any]]
    distributions: tuple[dict[str, str], ...]


def borrowed_for(handler: str) -> Borrowed:
    """edgekit, its plug-ins and the package of ``handler``, as they are found here.

    Raises: MissingDependencyError when the handler's package is not installed here.
    """
    metadata, plugins = _plugins()
    names = {"edgekit", top_package(handler), *plugins}
    return Borrowed(packages={name: _place(name) for name in sorted(names)}, distributions=metadata)


def package_sources(name: str) -> tuple[tuple[str, Path], ...]:
    """Every Python file of a top-level package or module, by relative POSIX path, sorted.

    Raises: MissingDependencyError when it is not installed here.
    """
    place = _place(name)
    if place["locations"] is None:
        return ((Path(place["origin"]).name, Path(place["origin"])),)
    found = (
        (path.relative_to(folder).as_posix(), path)
        for folder in map(Path, place["locations"])
        for path in folder.rglob("*.py")
    )
    return tuple(sorted(found))


def _place(name: str) -> dict[str, Any]:
    spec = find_spec(name)
    if spec is None:
        raise MissingDependencyError(
            f"the Python package '{name}' holds a stage of this build and is not installed; "
            f"install what brings '{name}'"
        )
    locations = spec.submodule_search_locations
    # A namespace package has no file of its own.
    origin = spec.origin if spec.has_location else None
    return {
        "origin": origin,
        "locations": None
        if locations is None
        else [str(Path(item).absolute()) for item in locations],
    }


@cache
def _plugins() -> tuple[tuple[dict[str, str], ...], frozenset[str]]:
    """The metadata of every distribution that edgekit has a door for, and their packages."""
    texts: list[dict[str, str]] = []
    packages: set[str] = set()
    for item in distributions():
        mine = [point for point in item.entry_points if point.group.startswith("edgekit.")]
        if mine:
            texts.append(_texts(item))
            packages.update(top_package(point.value) for point in mine)
    present = frozenset(name for name in packages if find_spec(name) is not None)
    return tuple(texts), present


def _texts(item: Distribution) -> dict[str, str]:
    names = ("METADATA", "entry_points.txt")
    return {name: text for name in names if (text := item.read_text(name)) is not None}


def top_package(handler: str) -> str:
    """The top-level package of ``package.module:function``."""
    return handler.partition(":")[0].partition(".")[0]


def import_path() -> list[str]:
    """``sys.path`` for a worker of this same interpreter."""
    return [str(Path(entry).absolute()) for entry in sys.path]
