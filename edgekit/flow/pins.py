"""What a toolchain asks for, held against what is installed in an environment."""

import hashlib
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from edgekit.core.codec import digest_of
from edgekit.core.errors import ProfileError
from edgekit.core.target import Target
from edgekit.flow.lock_file import LockedPackage, read_lock, require_covered

LOCK_HEADER = "# edgekit lock for "

# What stages compute with although a target need not pin it.
_COMMON_PACKAGES = ("numpy", "torch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """All that decides what a toolchain consists of.

    lock: the text of the lock file, or "" where there is none for this Python and machine; it may
    hold more than one environment needs. lock_note: why a lock that exists is not used.
    """

    name: str
    requirements: tuple[str, ...]
    modules: tuple[str, ...]
    lock: str
    lock_note: str = ""

    @property
    def packages(self) -> tuple[str, ...]:
        """The normalized names of everything whose version may change a result."""
        names = {Requirement(text).name for text in self.requirements} | set(_COMMON_PACKAGES)
        names |= set(self.locked)
        return tuple(sorted({canonicalize_name(name) for name in names}))

    @property
    def locked(self) -> dict[str, LockedPackage]:
        """The packages of the lock by normalized name."""
        return read_lock(self.lock, where=f"the lock of {self.name}")

    @property
    def identity(self) -> str:
        """What tells environments of one name apart, in twelve hexadecimal digits."""
        return digest_of(self._plain())[:12]

    def digest(self, installed: dict[str, str]) -> str:
        """sha256 of the pins and of what was installed for them; goes into the manifest."""
        return digest_of({**self._plain(), "installed": installed})

    def _plain(self) -> dict[str, object]:
        return {
            "requirements": sorted(self.requirements),
            "lock": hashlib.sha256(self.lock.encode()).hexdigest(),
            "python": python_series(),
        }


def python_series() -> str:
    """The Python that an environment belongs to, as ``3.11``."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def lock_platform() -> str:
    """What a lock file is valid for, as its first line says: ``Python 3.11 on linux x86_64``."""
    return f"Python {python_series()} on {sys.platform} {platform.machine()}"


def pins_of(target: Target) -> Pins:
    """The pins of a target, with its lock where that was made for this Python and machine.

    Raises: ProfileError for a requirement that is none, or a lock file that is not there, cannot
    be understood or does not hold what is pinned.
    """
    for text in target.toolchain.requirements:
        try:
            Requirement(text)
        except InvalidRequirement as wrong:
            raise ProfileError(
                f"{target.origin or target.name}: '{text}' in toolchain.requirements is no "
                f"requirement as pip writes them, such as 'onnx==1.23.2' ({wrong})"
            ) from wrong
    lock, note = _lock_of(target)
    return Pins(
        name=target.name,
        requirements=target.toolchain.requirements,
        modules=target.toolchain.modules,
        lock=lock,
        lock_note=note,
    )


def _lock_of(target: Target) -> tuple[str, str]:
    if not target.toolchain.lock:
        return "", ""
    path = Path(target.origin).parent / target.toolchain.lock
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as missing:
        raise ProfileError(
            f"{target.origin or target.name}: toolchain.lock '{target.toolchain.lock}' cannot be "
            f"read ({missing.strerror}); `scripts/lock_toolchain.py` makes it"
        ) from missing
    first = text.partition("\n")[0]
    made_for = first.removeprefix(LOCK_HEADER)
    if made_for == first or made_for == lock_platform():
        require_covered(target.toolchain.requirements, read_lock(text, str(path)), str(path))
        return text, ""
    return "", f"{target.toolchain.lock} is for {made_for}, not for {lock_platform()}: pins only"


def environment_digest() -> str:
    """sha256 of what stages that belong to no target compute with here."""
    versions = installed_versions(_COMMON_PACKAGES)
    return digest_of({"python": python_series(), "installed": versions})


def installed_versions(
    packages: tuple[str, ...] | None, path: Path | None = None
) -> dict[str, str]:
    """Version by normalized name of those packages (None: all) that are installed.

    path: the folder of packages of another environment; None for the current one.
    """
    where = sys.path if path is None else [str(path)]
    names = (None,) if packages is None else packages
    versions: dict[str, str] = {}
    for name in names:
        for found in Distribution.discover(name=name, path=where):
            # The first one found is the one that is imported.
            versions.setdefault(canonicalize_name(found.name), found.version)
    return dict(sorted(versions.items()))


def problems_with(pins: Pins, installed: dict[str, str]) -> tuple[str, ...]:
    """A line for each pin that the installed versions do not satisfy."""
    lines = []
    for text in pins.requirements:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        version = installed.get(canonicalize_name(wanted.name))
        if version is None:
            lines.append(f"{wanted.name} is not installed (needs {text})")
        elif not wanted.specifier.contains(version, prereleases=True):
            lines.append(f"{wanted.name} {version} is installed (needs {text})")
    return tuple(lines)


def missing_modules(pins: Pins) -> tuple[str, ...]:
    """A line for each module of the toolchain that is not found here; nothing is imported."""
    tops = dict.fromkeys(module.partition(".")[0] for module in pins.modules)
    return tuple(f"module {name} is not found" for name in tops if find_spec(name) is None)
