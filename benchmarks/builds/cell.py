"""One build of a benchmark, and the bars that it is held against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekit.core.verdict import EvidenceKind, Limit, Sense


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One build.

    device: a profile's name or path. settings: by step, as ``edgekit.build`` takes them. bars: what
    is asked. watched: limits that are judged and shown, and that nobody asks for.
    is_refusal_wanted: the verdict must refuse the build for ``metric_drop``.
    """

    name: str
    workload: str
    device: str
    target: str
    effort: str = "quick"
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    bars: tuple[Limit, ...] = ()
    watched: tuple[Limit, ...] = ()
    arguments: dict[str, str] = field(default_factory=dict)
    is_refusal_wanted: bool = False


def at_most(figure: str, bound: float, unit: str) -> Limit:
    """A bar that this host can measure."""
    return Limit(
        figure=figure,
        sense=Sense.AT_MOST,
        bound=bound,
        unit=unit,
        accepts=(EvidenceKind.HOST,),
    )
