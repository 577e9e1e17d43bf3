"""A number that a user sees, with how it was got, where, and how sure it is."""

from dataclasses import dataclass
from enum import StrEnum

from edgekit.core.units import format_quantity


class Provenance(StrEnum):
    """How a figure was got."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    ESTIMATED = "estimated"
    CITED = "cited"
    NOT_EVALUATED = "not evaluated"


class Place(StrEnum):
    """Where a figure was got; NOWHERE for cited and not evaluated ones."""

    HOST = "host"
    EMULATOR = "emulator"
    DEVICE = "device"
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure; ``low`` and ``high`` bound it at ``confidence`` where it was sampled.

    A cited figure of which only an upper bound is known has that as ``high``, without confidence.
    An exact count (bytes of a file) has low = value = high. A figure that was not evaluated has
    no value, and ``how`` says why.
    """

    name: str
    value: float | None = None
    unit: str
    provenance: Provenance
    place: Place
    how: str
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    samples: int | None = None

    def __str__(self) -> str:
        """The figure as a report prints it, never without its provenance."""
        if self.value is None:
            return f"{self.name}: {self.provenance} ({self.how})"
        text = format_quantity(self.value, self.unit)
        if self.low is not None and self.high is not None and self.low != self.high:
            low, high = format_quantity(self.low, ""), format_quantity(self.high, "")
            text += f" [{low}, {high}]"
        where = "" if self.place is Place.NOWHERE else f" on {self.place}"
        return f"{self.name}: {text} ({self.provenance}{where})"


def exact(name: str, value: float, unit: str, how: str, *, place: Place = Place.HOST) -> Figure:
    """A measured count that has no sampling error."""
    return Figure(
        name=name,
        value=value,
        unit=unit,
        provenance=Provenance.MEASURED,
        place=place,
        how=how,
        low=value,
        high=value,
    )


def not_evaluated(name: str, unit: str, why: str) -> Figure:
    """A figure that nobody has got yet, and the reason."""
    return Figure(
        name=name,
        value=None,
        unit=unit,
        provenance=Provenance.NOT_EVALUATED,
        place=Place.NOWHERE,
        how=why,
    )
