"""Figures as a person reads them: value with interval, and how it was got, never one alone."""

from collections.abc import Iterable

from rich.console import RenderableType

from edgekit.core.figure import Figure, Place
from edgekit.core.units import format_quantity
from edgekit.report.parts import table


def figure_value(figure: Figure) -> str:
    """Value with its interval where it has one: ``0.31 points [0.1,0.6]``.

    No space in the interval, so that a narrow table does not break it.
    """
    if figure.value is None:
        return "-"
    text = format_quantity(figure.value, figure.unit)
    if figure.low is None or figure.high is None or figure.low == figure.high:
        return text
    low, high = (_bare(end, figure.unit) for end in (figure.low, figure.high))
    return f"{text} [{low},{high}]"


def _bare(value: float, unit: str) -> str:
    """The end of an interval; bytes keep their unit, since each end may have another prefix."""
    return format_quantity(value, unit if unit == "bytes" else "").replace(" ", "")


def figure_evidence(figure: Figure) -> str:
    """How and where a figure was got: ``measured, host``."""
    if figure.place is Place.NOWHERE:
        return figure.provenance.value
    return f"{figure.provenance.value}, {figure.place.value}"


def figure_table(figures: Iterable[Figure], *, title: str = "") -> RenderableType:
    """All figures with how each was got."""
    rows = [(item.name, figure_value(item), figure_evidence(item), _how(item)) for item in figures]
    return table(("figure", "value", "evidence", "how"), rows, title=title)


def _how(figure: Figure) -> str:
    sampled = []
    if figure.confidence is not None:
        sampled.append(f"{figure.confidence:.0%} interval")
    if figure.samples is not None:
        sampled.append(f"{figure.samples} samples")
    return "; ".join(item for item in (figure.how, ", ".join(sampled)) if item)
