"""What a worker process runs first, by its path: it makes ``edgekit`` importable, and no more.

Standard library only. The interpreter may be a toolchain's, whose environment knows nothing of
edgekit: the packages that the job names are then imported from the parent's folders, one by one,
so that nothing else of the parent's environment comes along. Their entry points come with them.
"""

import faulthandler
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, DistributionFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

EVERY_DISTRIBUTION = DistributionFinder.Context()


class BorrowedDistribution(Distribution):
    """The metadata of a distribution of the parent's, as texts."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def read_text(self, filename: str) -> str | None:
        """One file of the distribution's metadata."""
        return self._texts.get(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        """A path that does not exist: the files stay in the parent's environment."""
        return Path(os.devnull) / path


class BorrowedPackages(DistributionFinder):
    """Finds a few packages of the parent's, and the metadata of their distributions.

    packages: name to its ``origin`` (None for a namespace package) and ``locations`` (None for a
    single module).
    """

    def __init__(
        self,
        packages: Mapping[str, Mapping[str, Any]],
        distributions: Sequence[Mapping[str, str]],
    ) -> None:
        self._packages = packages
        self._distributions = [BorrowedDistribution(texts) for texts in distributions]

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 the import system's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Where a borrowed package lies; None for every other name."""
        place = self._packages.get(fullname)
        if place is None:
            return None
        if place["origin"] is not None:
            return spec_from_file_location(
                fullname, place["origin"], submodule_search_locations=place["locations"]
            )
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = list(place["locations"])
        return spec

    def find_distributions(
        self, context: DistributionFinder.Context = EVERY_DISTRIBUTION
    ) -> Iterable[Distribution]:
        """The borrowed distributions of a name, or all."""
        wanted = None if context.name is None else _normal(context.name)
        return [item for item in self._distributions if wanted in (None, _normal(item.name))]


def prepare(job: Mapping[str, Any]) -> None:
    """Make what the job names importable."""
    if job["path"] is not None:
        sys.path[:] = job["path"]
    sys.meta_path.insert(0, BorrowedPackages(job["packages"], job["distributions"]))


def main() -> None:
    """Read a job from standard input, and answer it on the descriptor given as argument."""
    events = int(sys.argv[1])
    os.set_inheritable(events, False)  # noqa: FBT003 it takes no keyword
    faulthandler.enable()
    job = json.load(sys.stdin)
    prepare(job)
    import_module("edgekit.core.process").die_with_parent(job["parent"])
    import_module("edgekit.flow.worker_child").answer(job, events)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
