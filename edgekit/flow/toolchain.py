"""Environments of single targets, for compilers that no one environment can hold together.

Where the current environment satisfies a target's pins it is used in place. Else a virtual
environment lies under ``EDGEKIT_TOOLCHAINS`` (default: ``edgekit/toolchains`` in the user's data
folder) as ``NAME-IDENTITY``. It is built at its final place, since it cannot be moved, and counts
only once ``complete.json`` is in it: that is written last and removed first.
"""

import json
import os
import shutil
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.core.codec import canonical_json, from_plain
from edgekit.core.errors import MissingDependencyError, ProfileError
from edgekit.core.progress import Listener, Reporter, ignore
from edgekit.core.target import Target
from edgekit.flow import pip
from edgekit.flow.pins import (
    Pins,
    installed_versions,
    missing_modules,
    pins_of,
    problems_with,
)
from edgekit.store.files import atomic_write, folder_bytes, writing_to
from edgekit.store.locks import FileLock, locked

ADVICE = "set EDGEKIT_TOOLCHAINS to a folder that can be written and has room"
MARKER = "complete.json"

State = Literal["used in place", "installed", "missing", "incomplete"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsableToolchain:
    """Where a target's stages run. python: None for the current environment.

    versions: of everything that is pinned. digest: of pins and versions, for stage keys and the
    manifest.
    """

    name: str
    python: Path | None
    versions: dict[str, str]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolchainStatus:
    """One target's toolchain as ``edgekit toolchain list`` shows it.

    problems: why the current environment does not do. digest: "" where there is none to use.
    """

    name: str
    state: State
    path: Path
    bytes: int
    problems: tuple[str, ...]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Completion:
    """What ``complete.json`` holds: the identity of the pins and all that was installed."""

    identity: str
    installed: dict[str, str]


def toolchains_root() -> Path:
    """``EDGEKIT_TOOLCHAINS``, else ``edgekit/toolchains`` in the user's data folder."""
    if chosen := os.environ.get("EDGEKIT_TOOLCHAINS"):
        return Path(chosen).absolute()
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    base = base if base.is_absolute() else Path.home() / ".local" / "share"
    return base / "edgekit" / "toolchains"


def satisfied_here(target: Target) -> tuple[str, ...]:
    """Why the current environment does not satisfy a target's pins; empty where it does."""
    pins = pins_of(target)
    return problems_with(pins, installed_versions(pins.packages)) + missing_modules(pins)


def resolve(target: Target) -> UsableToolchain:
    """The environment that a target's stages run in.

    Raises: MissingDependencyError, with the commands, when the pins are met nowhere.
    """
    pins = pins_of(target)
    problems = satisfied_here(target)
    if not problems:
        return _usable(pins, None, installed_versions(pins.packages))
    folder = _folder(pins)
    if (reason := _unusable_because(pins, folder)) is None:
        return _usable(pins, _python(folder), installed_versions(pins.packages, _site(folder)))
    extra = target.toolchain.extra
    commands = [f"`edgekit toolchain install {target.name}`"]
    if extra:
        commands.append(f"`pip install 'edgekit[{extra}]'`")
    raise MissingDependencyError(
        f"target '{target.name}' cannot be compiled here: {'; '.join(problems)}; and its "
        f"toolchain is {reason}. Run {' or '.join(commands)}"
    )


def toolchain_python(target: Target) -> Path | None:
    """The interpreter of a target's toolchain; None where the current one is used in place."""
    return resolve(target).python


def status(target: Target) -> ToolchainStatus:
    """How it stands with one target's toolchain."""
    pins = pins_of(target)
    folder = _folder(pins)
    problems = satisfied_here(target)
    reason = _unusable_because(pins, folder)
    state: State = "installed" if reason is None else "incomplete" if folder.exists() else "missing"
    if not problems:
        state = "used in place"
    return ToolchainStatus(
        name=target.name,
        state=state,
        path=folder,
        bytes=folder_bytes(folder),
        problems=problems,
        digest=resolve(target).digest if state in ("used in place", "installed") else "",
    )


def list_toolchains(targets: Iterable[Target]) -> tuple[ToolchainStatus, ...]:
    """How it stands with the toolchains of targets, by name."""
    return tuple(sorted((status(target) for target in targets), key=lambda item: item.name))


def install(target: Target, *, listener: Listener = ignore) -> UsableToolchain:
    """Make a target's environment from its lock, or its pins; one that is whole is kept.

    Raises: MissingDependencyError when pip cannot; OutputError when the place cannot be written;
    Interrupted on Ctrl-C. Nothing half-made stays after any of them.
    """
    pins = pins_of(target)
    if not pins.requirements and not pins.lock:
        raise ProfileError(f"target '{target.name}' pins nothing: it has no toolchain to install")
    reporter = Reporter(stage=f"toolchain {target.name}", listener=listener)
    root = toolchains_root()
    with writing_to(root, ADVICE):
        root.mkdir(parents=True, exist_ok=True)
        with locked(
            _lock(pins), on_wait=lambda: reporter.note("waiting for another install")
        ) as lock:
            folder = _folder(pins)
            if _unusable_because(pins, folder) is not None:
                _install_at(folder, pins, reporter, lock)
            versions = installed_versions(pins.packages, _site(folder))
            return _usable(pins, _python(folder), versions)


def remove(target: Target, *, listener: Listener = ignore) -> int:
    """Delete every environment of a target, also those of older pins; the bytes that this freed."""
    reporter = Reporter(stage=f"toolchain {target.name}", listener=listener)
    pins, root, freed = pins_of(target), toolchains_root(), 0
    if not root.is_dir():
        return 0
    with writing_to(root, ADVICE), locked(_lock(pins)):
        for folder in root.glob(f"{pins.name}-" + "[0-9a-f]" * 12):
            reporter.progress(f"removing {folder.name}")
            freed += folder_bytes(folder)
            _delete(folder)
    return freed


def _install_at(folder: Path, pins: Pins, reporter: Reporter, lock: FileLock) -> None:
    is_whole = False
    try:
        _delete(folder)  # what a killed install left
        if pins.lock_note:
            reporter.warn(pins.lock_note)
        pip.make_environment(folder, reporter, lock)
        pip.install(_python(folder), pins, reporter, lock)
        pip.check_imports(_python(folder), pins, reporter, lock)
        everything = installed_versions(None, _site(folder))
        content = canonical_json(_Completion(identity=pins.identity, installed=everything))
        atomic_write(folder / MARKER, content, advice=ADVICE)
        is_whole = True
        reporter.progress(f"{len(everything)} packages installed", 1.0)
    finally:
        if not is_whole:
            _delete(folder)


def _unusable_because(pins: Pins, folder: Path) -> str | None:
    """None for a whole environment, else why it cannot be used."""
    if not folder.exists():
        return "not installed"
    try:
        content = json.loads((folder / MARKER).read_bytes())
        done = from_plain(_Completion, content, where=MARKER, error=ValueError)
    except (OSError, ValueError):
        return "half-made"
    if done.identity != pins.identity or not os.access(_python(folder), os.X_OK):
        return "damaged: its Python is gone"
    found = installed_versions(pins.packages, _site(folder))
    recorded = {name: done.installed[name] for name in pins.packages if name in done.installed}
    if found != recorded:
        changed = sorted(name for name, _ in found.items() ^ recorded.items())
        return f"damaged: {', '.join(dict.fromkeys(changed))} changed since it was installed"
    return None


def _usable(pins: Pins, python: Path | None, versions: dict[str, str]) -> UsableToolchain:
    return UsableToolchain(
        name=pins.name, python=python, versions=versions, digest=pins.digest(versions)
    )


def _folder(pins: Pins) -> Path:
    return toolchains_root() / f"{pins.name}-{pins.identity}"


def _lock(pins: Pins) -> Path:
    return toolchains_root() / f".{pins.name}.lock"


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _site(folder: Path) -> Path:
    base = {"base": str(folder), "platbase": str(folder)}
    return Path(sysconfig.get_path("purelib", "venv", vars=base))


def _delete(folder: Path) -> None:
    if folder.exists():
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)
