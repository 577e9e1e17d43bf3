"""Limits, and how a limit is judged against the evidence for it.

A limit is judged on the whole interval: all of it inside passes, all of it outside fails, an
interval that straddles the bound is inconclusive, and that does not pass. Evidence that the limit
does not accept (a host's figure for a limit that asks for a device) leaves it pending.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from edgekit.core.figure import Figure, Place, Provenance, not_evaluated
from edgekit.core.units import format_quantity


class EvidenceKind(StrEnum):
    """What a limit may be judged on, weakest first."""

    CITED = "cited"
    HOST = "host"
    EMULATOR = "emulator"
    DEVICE = "device"


class Sense(StrEnum):
    """Which side of the bound is good."""

    AT_MOST = "at_most"
    AT_LEAST = "at_least"


class Status(StrEnum):
    """The verdict on one limit."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    PENDING = "pending"
    WAIVED = "waived"


class Standing(StrEnum):
    """The verdict on a bundle."""

    PROVEN = "proven"
    CANDIDATE = "candidate"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A bound on one figure, in the figure's unit, and the evidence that may settle it."""

    figure: str
    sense: Sense
    bound: float
    unit: str
    accepts: tuple[EvidenceKind, ...]
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One limit, the figure it was held against, and the outcome."""

    limit: Limit
    figure: Figure
    status: Status
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All judgements of a build, and what they add up to."""

    standing: Standing
    judgements: tuple[Judgement, ...]

    def of(self, *statuses: Status) -> tuple[Judgement, ...]:
        """The judgements with one of these statuses."""
        return tuple(item for item in self.judgements if item.status in statuses)


def evidence_kind(figure: Figure) -> EvidenceKind | None:
    """What kind of evidence a figure is; None for estimates and for what was not evaluated."""
    if figure.provenance is Provenance.CITED:
        return EvidenceKind.CITED
    if figure.provenance is Provenance.MEASURED and figure.place is not Place.NOWHERE:
        return EvidenceKind(figure.place.value)
    if figure.provenance is Provenance.SIMULATED and figure.place is Place.EMULATOR:
        return EvidenceKind.EMULATOR
    return None


def judge(limit: Limit, figure: Figure, *, is_waived: bool = False) -> Judgement:
    """Hold one figure against one limit, on the whole of its interval."""
    status, reason = _judge(limit, figure)
    if is_waived and status is not Status.PASS:
        status, reason = Status.WAIVED, f"waived by the user; it was {status.value}: {reason}"
    return Judgement(limit=limit, figure=figure, status=status, reason=reason)


def _judge(limit: Limit, figure: Figure) -> tuple[Status, str]:
    wanted = " or ".join(kind.value for kind in limit.accepts)
    if figure.value is None:
        return Status.PENDING, f"needs evidence from {wanted}: {figure.how}"
    if figure.unit != limit.unit:
        return Status.FAIL, f"the figure is in {figure.unit}, the limit in {limit.unit}"
    if evidence_kind(figure) not in limit.accepts:
        where = f": {figure.how}" if figure.place is Place.NOWHERE else f", {figure.place.value}"
        had = figure.provenance.value + where
        return Status.PENDING, f"needs evidence from {wanted}; this figure is {had}"
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    if not low <= figure.value <= high:
        return (
            Status.FAIL,
            f"the figure's interval [{low}, {high}] is not a real interval around it",
        )
    bound = format_quantity(limit.bound, limit.unit)
    if limit.sense is Sense.AT_MOST:
        inside, outside, word = high <= limit.bound, low > limit.bound, "at most"
    else:
        inside, outside, word = low >= limit.bound, high < limit.bound, "at least"
    shown = format_quantity(figure.value, figure.unit)
    if inside:
        return Status.PASS, f"{shown}, {word} {bound}"
    if outside:
        by = format_quantity(abs(figure.value - limit.bound), figure.unit)
        return Status.FAIL, f"{shown}, must be {word} {bound}: missed by {by}"
    span = f"{format_quantity(low, figure.unit)} to {format_quantity(high, figure.unit)}"
    return Status.INCONCLUSIVE, f"{span} straddles {bound}"


def deliver_verdict(
    limits: Iterable[Limit], figures: Mapping[str, Figure], *, waived: Iterable[str] = ()
) -> Verdict:
    """Judge every limit and add them up; a limit without a figure is pending.

    Proven: every limit passed. Candidate: the rest are pending or were waived by name. A verdict
    with no limits at all proves nothing and is refused.
    """
    waived = set(waived)
    judgements = tuple(
        judge(
            limit,
            figures.get(
                limit.figure, not_evaluated(limit.figure, limit.unit, "nothing measured it")
            ),
            is_waived=limit.figure in waived,
        )
        for limit in limits
    )
    statuses = {item.status for item in judgements}
    if not judgements or statuses & {Status.FAIL, Status.INCONCLUSIVE}:
        standing = Standing.REFUSED
    elif statuses & {Status.PENDING, Status.WAIVED}:
        standing = Standing.CANDIDATE
    else:
        standing = Standing.PROVEN
    return Verdict(standing=standing, judgements=judgements)
