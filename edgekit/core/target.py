"""An artifact format with what compiles it, what runs it and what that costs on a device."""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Literal

Support = Literal["native", "fallback", "unsupported"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeLibrary:
    """The bytes that the engine itself adds to an app on one ABI, as cited.

    Where the library of the version that the artifacts are proven on could not be had, ``bytes``
    are those of the nearest version that could, and ``at_most_bytes`` bounds the right one; its
    source says why. is_stand_in: no library of this ABI could be had at all; ``bytes`` are another
    ABI's, which settles no limit.
    """

    abi: str
    bytes: int
    version: str
    sha256: str
    source: str
    at_most_bytes: int | None = None
    at_most_source: str = ""
    is_stand_in: bool = False

    @property
    def upper_bytes(self) -> int:
        """The most that the library may take: ``bytes`` themselves where they are exact."""
        return self.bytes if self.at_most_bytes is None else self.at_most_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSupport:
    """How a target takes one PyTorch operator (``aten.conv2d.default``)."""

    name: str
    support: Support
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """What the compiler and the engine of a target need to be installed.

    requirements: pinned, as pip writes them. lock: file beside the target's TOML with hashes, or
    empty. modules: what must import.
    """

    requirements: tuple[str, ...]
    modules: tuple[str, ...] = ()
    lock: str = ""
    extra: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionSupport:
    """What a target stores and computes for one precision of the weights."""

    precision: str
    layers: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One target: names of its compiler and runtime plug-ins and the facts about them.

    runtime_package: the distribution with the engine, ``minimum_runtime_version`` or newer.

    operators are kept in order of their names, so that a look-up need not read them all.
    """

    name: str
    title: str
    format: str
    suffix: str
    compiler: str
    runtime: str
    runtime_package: str
    minimum_runtime_version: str
    toolchain: Toolchain
    runtime_libraries: tuple[RuntimeLibrary, ...] = ()
    precisions: tuple[PrecisionSupport, ...] = ()
    operators: tuple[OperatorSupport, ...] = ()
    summary: str = ""
    origin: str = ""
    digests: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.operators, key=_operator_name))
        object.__setattr__(self, "operators", ordered)

    def runtime_library(self, abi: str) -> RuntimeLibrary | None:
        """The cited library for an ABI, or None where nobody has cited one."""
        return next((item for item in self.runtime_libraries if item.abi == abi), None)

    def support_of(self, operator: str) -> OperatorSupport:
        """How this target takes an operator; one that it does not list is unsupported."""
        place = bisect_left(self.operators, operator, key=_operator_name)
        if place < len(self.operators) and self.operators[place].name == operator:
            return self.operators[place]
        return OperatorSupport(
            name=operator, support="unsupported", note="not in the target's list"
        )


def _operator_name(support: OperatorSupport) -> str:
    return support.name
