"""What is installed, what is missing, and the exact command that brings it.

The pins are read from the metadata of the installed edgekit, so that they are stated in one place
(``pyproject.toml``).
"""

import platform
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from edgekit import __version__
from edgekit.catalog import find_targets, load_target
from edgekit.core.errors import ProfileError
from edgekit.core.target import Target
from edgekit.flow.toolchain import ToolchainStatus, list_toolchains
from edgekit.measure.host import describe_host
from edgekit.runtime.engines import GROUP, OWN_ENGINES
from edgekit.store.files import folder_bytes
from edgekit.store.results import default_root

EXTRAS = {
    "litert": "builds and runs .tflite",
    "onnx": "builds and runs .onnx and .ort",
    "image": "picture files as inputs",
    "audio": "sound files as inputs",
    "text": "texts as inputs",
    "metrics": "metrics of torchmetrics",
    "safetensors": "checkpoints that hold no code",
    "compress": "steps on the torch model, mixed precision",
    "plot": "the picture of edgekit sensitivity",
    "tensorflow": "Keras and SavedModel as workloads",
}
C_COMPILERS = ("cc", "gcc", "clang")

State = Literal["ok", "missing", "other version", "broken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked for; ``fix`` is the command that brings it, "" where it is there.

    found: its version or place, or what is wrong with it. wanted: what edgekit was tested with, as
    pip writes it.
    """

    group: str
    name: str
    state: State
    found: str
    wanted: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A machine as edgekit sees it. facts: what is no matter of right or wrong, by name."""

    facts: dict[str, str | int]
    checks: tuple[Check, ...]
    toolchains: tuple[ToolchainStatus, ...]

    @property
    def missing(self) -> tuple[Check, ...]:
        """The checks that did not go well."""
        return tuple(item for item in self.checks if item.state != "ok")


def examine() -> Diagnosis:
    """Look at this machine; changes nothing and imports none of what it looks for."""
    targets, broken = _targets()
    return Diagnosis(
        facts=_facts(),
        checks=(*extra_checks(), _compiler_check(), *broken, *_hidden_engines()),
        toolchains=list_toolchains(targets),
    )


def _targets() -> tuple[list[Target], list[Check]]:
    """The targets that can be read, and a check for each that cannot."""
    targets, broken = [], []
    try:
        entries = find_targets()
    except ProfileError as error:
        return [], [_broken("all", error)]
    for entry in entries:
        try:
            targets.append(load_target(entry.name))
        except ProfileError as error:
            broken.append(_broken(entry.name, error))
    return targets, broken


def _broken(name: str, error: ProfileError) -> Check:
    return Check(
        group="targets", name=name, state="broken", found=str(error), wanted="readable", fix=""
    )


def extra_checks(lines: Iterable[str] | None = None) -> Iterator[Check]:
    """One check for every package of every extra; a package in several is checked once.

    lines: requirements as a package's metadata has them; None takes edgekit's own.
    """
    listed = tuple(Requirement(line) for line in (_own_lines() if lines is None else lines))
    seen: set[str] = set()
    for extra in EXTRAS:
        for item in packages_of(extra, listed):
            if item.name not in seen:
                seen.add(item.name)
                yield _package_check(extra, item)


def _own_lines() -> list[str]:
    try:
        return requires("edgekit") or []
    except PackageNotFoundError:
        # Run from a checkout that was never installed: there is nothing to hold versions against.
        return []


def packages_of(extra: str, listed: Sequence[Requirement]) -> Iterator[Requirement]:
    """The packages of an extra; an extra made of others (``edgekit[litert-runtime]``) is opened."""
    for item in listed:
        if item.marker is None or item.marker.evaluate({"extra": ""}):
            continue
        if not item.marker.evaluate({"extra": extra}):
            continue
        if item.name == "edgekit":
            for inner in sorted(item.extras):
                yield from packages_of(inner, listed)
        else:
            yield item


def _package_check(extra: str, item: Requirement) -> Check:
    found = _installed_version(item.name)
    state: State = "missing"
    if found:
        is_tested = item.specifier.contains(found, prereleases=True)
        state = "ok" if is_tested else "other version"
    return Check(
        group=extra,
        name=item.name,
        state=state,
        found=found,
        wanted=str(item.specifier) or "any",
        fix="" if state == "ok" else f"pip install 'edgekit[{extra}]'",
    )


def _installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _compiler_check() -> Check:
    found = next((path for name in C_COMPILERS if (path := shutil.which(name))), "")
    install = "xcode-select --install" if sys.platform == "darwin" else "apt-get install gcc"
    return Check(
        group="C compiler",
        name="cc",
        state="ok" if found else "missing",
        found=found,
        wanted=" or ".join(C_COMPILERS),
        fix="" if found else install,
    )


def _hidden_engines() -> Iterator[Check]:
    """A check for each plug-in under the name of an engine of edgekit's own: it is never loaded."""
    for point in entry_points(group=GROUP):
        if point.value != OWN_ENGINES.get(point.name, point.value):
            yield Check(
                group="engines",
                name=point.name,
                state="broken",
                found=f"{point.value} is never loaded: the name is taken by edgekit's own engine",
                wanted="another name",
                fix="",
            )


def _facts() -> dict[str, str | int]:
    host, cache = describe_host(), default_root()
    return {
        "edgekit": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{host.system} {host.machine}",
        "processor": f"{host.processor}, {host.cores} cores",
        "features": ", ".join(host.features),
        "ram_bytes": host.ram_bytes,
        "cache": str(cache),
        "cache_bytes": folder_bytes(cache),
        "cache_free_bytes": _free_bytes(cache),
    }


def _free_bytes(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
