"""A limit is judged on the interval, and only on evidence that it accepts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.figure import Figure, Place, Provenance, exact, not_evaluated
from edgekit.core.verdict import (
    EvidenceKind,
    Limit,
    Sense,
    Standing,
    Status,
    deliver_verdict,
    evidence_kind,
    judge,
)

finite = st.floats(-1e6, 1e6)


def limit(bound=1.0, sense=Sense.AT_MOST, accepts=(EvidenceKind.HOST,), name="drop"):
    return Limit(figure=name, sense=sense, bound=bound, unit="points", accepts=accepts)


def figure(
    value,
    low=None,
    high=None,
    *,
    provenance=Provenance.MEASURED,
    place=Place.HOST,
    name="drop",
    unit="points",
):
    return Figure(
        name=name,
        value=value,
        unit=unit,
        provenance=provenance,
        place=place,
        how="test",
        low=low,
        high=high,
    )


@pytest.mark.parametrize(
    ("low", "value", "high", "status"),
    [
        (0.1, 0.5, 1.0, Status.PASS),
        (0.9, 1.0, 1.1, Status.INCONCLUSIVE),
        (1.0, 1.5, 2.0, Status.INCONCLUSIVE),
        (1.1, 1.5, 2.0, Status.FAIL),
    ],
)
def test_at_most_is_judged_on_the_whole_interval(low, value, high, status):
    assert judge(limit(), figure(value, low, high)).status is status


@given(finite, finite, finite, finite)
def test_at_least_mirrors_at_most(a, b, c, bound):
    low, value, high = sorted((a, b, c))
    at_most = judge(limit(bound), figure(value, low, high)).status
    mirrored = judge(limit(-bound, Sense.AT_LEAST), figure(-value, -high, -low)).status
    assert at_most is mirrored


@pytest.mark.parametrize(
    ("provenance", "place", "kind"),
    [
        (Provenance.MEASURED, Place.HOST, EvidenceKind.HOST),
        (Provenance.MEASURED, Place.EMULATOR, EvidenceKind.EMULATOR),
        (Provenance.MEASURED, Place.DEVICE, EvidenceKind.DEVICE),
        (Provenance.SIMULATED, Place.EMULATOR, EvidenceKind.EMULATOR),
        (Provenance.CITED, Place.NOWHERE, EvidenceKind.CITED),
        (Provenance.ESTIMATED, Place.HOST, None),
        (Provenance.SIMULATED, Place.DEVICE, None),
        (Provenance.NOT_EVALUATED, Place.NOWHERE, None),
    ],
)
def test_an_estimate_is_never_evidence(provenance, place, kind):
    assert evidence_kind(figure(1.0, provenance=provenance, place=place)) is kind
    judged = judge(
        limit(5.0, accepts=tuple(EvidenceKind)), figure(1.0, provenance=provenance, place=place)
    )
    assert judged.status is (Status.PENDING if kind is None else Status.PASS)


def test_a_host_figure_leaves_a_device_limit_pending():
    judged = judge(limit(5.0, accepts=(EvidenceKind.DEVICE,)), figure(1.0))
    assert judged.status is Status.PENDING
    assert "device" in judged.reason


def test_an_estimate_from_nowhere_is_pending_in_its_own_words():
    judged = judge(limit(), figure(0.5, provenance=Provenance.ESTIMATED, place=Place.NOWHERE))
    assert judged.reason == "needs evidence from host; this figure is estimated: test"


@pytest.mark.parametrize("bad", [float("nan"), None])
def test_a_figure_that_is_no_number_never_passes(bad):
    judged = judge(limit(), figure(bad))
    assert judged.status in (Status.FAIL, Status.PENDING)


@pytest.mark.parametrize(("low", "high"), [(2.0, 0.0), (0.6, 0.9), (float("nan"), 1.0)])
def test_an_interval_that_does_not_hold_its_value_fails(low, high):
    assert judge(limit(), figure(0.5, low, high)).status is Status.FAIL


def test_a_figure_in_another_unit_fails():
    assert judge(limit(), figure(0.1, unit="ratio")).status is Status.FAIL


def test_verdicts_add_up():
    fine, bad = exact("a", 1, "points", "t"), exact("b", 9, "points", "t")
    a, b, c = limit(name="a"), limit(name="b"), limit(name="c")
    assert deliver_verdict([a], {"a": fine}).standing is Standing.PROVEN
    assert deliver_verdict([a, c], {"a": fine}).standing is Standing.CANDIDATE
    assert deliver_verdict([a, b, c], {"a": fine, "b": bad}).standing is Standing.REFUSED
    assert deliver_verdict([], {}).standing is Standing.REFUSED


def test_a_waived_limit_is_a_candidate_and_never_proven():
    fine, bad = exact("a", 1, "points", "t"), exact("b", 9, "points", "t")
    verdict = deliver_verdict(
        [limit(name="a"), limit(name="b")], {"a": fine, "b": bad}, waived=["b"]
    )
    assert verdict.standing is Standing.CANDIDATE
    assert [item.limit.figure for item in verdict.of(Status.WAIVED)] == ["b"]
    assert "it was fail" in verdict.of(Status.WAIVED)[0].reason


def test_a_waiver_of_a_limit_that_passed_changes_nothing():
    verdict = deliver_verdict([limit(name="a")], {"a": exact("a", 1, "points", "t")}, waived=["a"])
    assert verdict.standing is Standing.PROVEN


def test_a_missing_figure_says_that_nothing_measured_it():
    verdict = deliver_verdict([limit(name="ram_bytes")], {})
    assert "nothing measured it" in verdict.judgements[0].reason
    assert str(not_evaluated("x", "ms", "no device")) == "x: not evaluated (no device)"


def test_a_printed_figure_carries_interval_and_provenance():
    assert str(figure(0.5, 0.25, 0.75)) == "drop: 0.5 points [0.25, 0.75] (measured on host)"
    assert (
        str(figure(2, provenance=Provenance.CITED, place=Place.NOWHERE)) == "drop: 2 points (cited)"
    )
