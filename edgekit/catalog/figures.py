"""The closed table of figures that a limit may bound, and in which unit.

The names are those of the figures that a build makes; a limit on a figure that nobody makes would
be pending for ever, so an unknown name is an error.
"""

from collections.abc import Callable
from dataclasses import dataclass

from edgekit.core.units import (
    BYTE_UNITS,
    MILLISECOND_UNITS,
    POINT_UNITS,
    parse_bytes,
    parse_milliseconds,
    parse_quantity,
)
from edgekit.core.verdict import EvidenceKind

_ANYWHERE = tuple(EvidenceKind)
# A host's bytes and milliseconds say nothing of a microcontroller's flash, RAM or clock.
_ON_THE_DEVICE = (EvidenceKind.EMULATOR, EvidenceKind.DEVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureKind:
    """One figure: its unit in verdicts, how a bound is written, what may ever settle it.

    parse: from a text with a unit; None for a plain number.
    """

    unit: str
    meaning: str
    units: tuple[str, ...] = ()
    parse: Callable[[str], float] | None = None
    may_accept: tuple[EvidenceKind, ...] = _ANYWHERE


def parse_points(text: str) -> float:
    """Points (hundredths of the metric) of a text such as ``0.5 point``."""
    return parse_quantity(text, POINT_UNITS)


def _bytes_of(meaning: str, may_accept: tuple[EvidenceKind, ...] = _ANYWHERE) -> FigureKind:
    return FigureKind(
        unit="bytes",
        meaning=meaning,
        units=tuple(BYTE_UNITS),
        parse=parse_bytes,
        may_accept=may_accept,
    )


def _milliseconds_of(meaning: str, may_accept: tuple[EvidenceKind, ...]) -> FigureKind:
    return FigureKind(
        unit="ms",
        meaning=meaning,
        units=tuple(MILLISECOND_UNITS),
        parse=parse_milliseconds,
        may_accept=may_accept,
    )


FIGURES: dict[str, FigureKind] = {
    "artifact_bytes": _bytes_of("the model file that ships"),
    "footprint_bytes": _bytes_of("artifact, side files and the engine's library for the ABI"),
    "peak_memory_bytes": _bytes_of("memory while running, above the engine alone"),
    "metric_drop": FigureKind(
        unit="points",
        meaning="metric of the float model less that of the artifact, in hundredths",
        units=tuple(POINT_UNITS),
        parse=parse_points,
    ),
    "latency_ratio": FigureKind(
        unit="ratio", meaning="time of the artifact over time of the float artifact"
    ),
    "latency_ms": _milliseconds_of("time of one run at the profile's threads", _ON_THE_DEVICE),
    "load_ms": _milliseconds_of("time to load and make ready", _ANYWHERE),
    "flash_bytes": _bytes_of("code and constants in the firmware image", _ON_THE_DEVICE),
    "ram_bytes": _bytes_of("data, arena and stack in RAM", _ON_THE_DEVICE),
}
