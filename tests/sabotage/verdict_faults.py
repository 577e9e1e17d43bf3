"""Faults that only show when the artifact is run: measured, and judged by their limits."""

from dataclasses import replace

import pytest

import edgekit
from edgekit.core.errors import BudgetError, BundleError, SessionError
from edgekit.core.figure import Place, Provenance, exact
from edgekit.core.verdict import Standing, Status, deliver_verdict
from tests.flow.tiny import samples, workload_of_two
from tests.sabotage.kit import ANY_LATENCY, forge_evidence, with_figure
from tests.sabotage.registry import fault


@fault("verdict")
def the_artifact_is_slower_than_float(kit):
    """Work that has no influence on the outputs: right answers, too late."""
    refusal = kit.refuses(
        BudgetError,
        r"latency_ratio: fail .* must be at most 1\.05 ",
        "edge-server",
        "slow",
        limits={},
    )
    advice = " ".join(refusal.result.advice)
    assert "latency_ratio: leave layers that got slower in float" in advice


@fault("verdict")
def the_artifact_is_larger_than_the_limit(kit):
    """A few kilobytes where one is allowed."""
    refusal = kit.refuses(
        BudgetError,
        r"artifact_bytes: fail \(.* must be at most 1 kB",
        "phone",
        limits={**ANY_LATENCY, "artifact_bytes": 1000},
    )
    assert refusal.result.largest_layers[0].bytes == 2304
    assert any(
        "largest layers: " in line and "2304 bytes" in line for line in refusal.result.advice
    )


@fault("verdict")
def the_engine_is_forgotten_in_the_budget(kit):
    """The artifact fits, the engine's own megabytes beside it do not."""
    kit.refuses(
        BudgetError,
        r"footprint_bytes: fail \(5\.5.* must be at most 1 MB",
        "phone",
        limits={**ANY_LATENCY, "footprint_bytes": 1e6},
    )


@fault("verdict")
def the_engine_of_another_version_fits(kit):
    """The nearest version's library fits; the upper bound of the right one's does not."""
    refusal = kit.refuses(
        BudgetError,
        r"footprint_bytes: inconclusive \(5\.5.* MB to 23\.4 MB straddles 20 MB",
        "phone",
        limits={**ANY_LATENCY, "footprint_bytes": 20e6},
    )
    advice = " ".join(refusal.result.advice)
    assert "footprint_bytes: only an upper bound of the engine's library is known" in advice


@fault("verdict")
def the_artifact_takes_more_memory_than_the_limit(kit):
    """A hidden tensor of 32 MB."""
    kit.refuses(
        BudgetError,
        r"peak_memory_bytes: fail \(.* must be at most 28 MB",
        "edge-server",
        "hungry",
        workload=workload_of_two(evaluation=samples(8, 2)),
        limits={**ANY_LATENCY, "peak_memory_bytes": 28e6},
    )


@fault("verdict")
def the_accuracy_collapses(kit):
    """Weights, dtypes and speed are right; the answer is always the same."""
    refusal = kit.refuses(
        BudgetError,
        r"metric_drop: fail \(7\d\.?\d* points, must be at most 0\.5 points",
        "edge-server",
        "favour_one_class",
    )
    assert refusal.result.verdict.standing is Standing.REFUSED


@fault("verdict")
def two_outputs_changed_places(kit):
    """The table that binds names to outputs is crossed; both have one shape."""
    kit.refuses(BudgetError, "metric_drop: fail", "edge-server", "swap_outputs")


@fault("verdict")
def the_input_is_normalised_twice(kit):
    """The artifact scales what the contract has scaled already."""
    kit.refuses(BudgetError, "metric_drop: fail", "edge-server", "normalise_again")


@fault("verdict")
def the_evaluation_set_is_tiny(kit):
    """Not one of five samples is lost, and that proves nothing: inconclusive does not pass."""
    few = workload_of_two(evaluation=samples(5, 2))
    refusal = kit.refuses(BudgetError, "metric_drop: inconclusive", "edge-server", workload=few)
    (judgement,) = refusal.result.verdict.of(Status.INCONCLUSIVE)
    assert judgement.figure.samples == 5
    assert any("samples would decide; this build had 5" in line for line in refusal.result.advice)


@fault("measurement")
def the_artifact_gives_nan(kit):
    """0 / 0 in the graph: no metric is asked about such outputs."""
    kit.refuses(
        SessionError, "output 'scores' is NaN or infinite for sample 0", "edge-server", "give_nan"
    )


@fault("verdict")
def an_estimate_passes_for_a_measurement(kit):
    """The figure is small enough and nobody measured it."""
    bundle = kit.copy(kit.phone)
    forge_evidence(
        bundle, lambda it: with_figure(it, "artifact_bytes", provenance=Provenance.ESTIMATED)
    )
    with pytest.raises(BundleError, match=r"judged otherwise \(standing 'candidate'\)"):
        edgekit.verify(bundle)
    verdict = _verdict_of(kit.phone, "artifact_bytes", provenance=Provenance.ESTIMATED)
    (judgement,) = verdict.of(Status.PENDING)
    assert judgement.reason == "needs evidence from host; this figure is estimated, host"


@fault("verdict")
def a_hosts_figure_stands_in_for_the_devices(kit):
    """Flash measured on the host says nothing about the board: it stays pending."""
    flash = exact("flash_bytes", 1000.0, "bytes", "counted on the host", place=Place.HOST)
    sealed = edgekit.verify(kit.board)
    figures = {item.name: item for item in (*sealed.evidence.figures, flash)}
    verdict = deliver_verdict(sealed.manifest.limits, figures)
    pending = {item.limit.figure: item.reason for item in verdict.of(Status.PENDING)}
    assert "this figure is measured, host" in pending["flash_bytes"]
    assert verdict.standing is Standing.CANDIDATE


@fault("verification")
def a_waived_limit_claims_to_be_proven(kit):
    """The manifest says for ever that a limit was waived; the evidence claims a pass."""
    sealed = edgekit.verify(kit.waived)
    assert sealed.evidence.verdict.standing is Standing.CANDIDATE
    with pytest.raises(BundleError, match="proven was required: latency_ratio is waived"):
        edgekit.open(kit.waived, require="proven")
    bundle = kit.copy(kit.waived)
    forge_evidence(
        bundle, lambda it: replace(it, verdict=replace(it.verdict, standing=Standing.PROVEN))
    )
    with pytest.raises(BundleError, match="says 'proven', but its figures"):
        edgekit.verify(bundle)


def _verdict_of(bundle, figure, **changes):
    """The verdict on a bundle's figures, one of them changed."""
    sealed = edgekit.verify(bundle)
    figures = {item.name: item for item in with_figure(sealed.evidence, figure, **changes).figures}
    return deliver_verdict(sealed.manifest.limits, figures)
