"""What is advised after a verdict, one line for every limit that did not pass."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from edgekit.core.figure import Figure, Place, Provenance, not_evaluated
from edgekit.core.strategy import PlannedStep, Quantize, Strategy
from edgekit.core.verdict import EvidenceKind, Limit, Sense, deliver_verdict
from edgekit.flow import advice
from edgekit.flow.advice import advise
from edgekit.flow.results import LayerSize

LAYERS = tuple(LayerSize(layer=f"l{i}", bytes=100 - i, dtype="int8") for i in range(5))


def limit(figure, bound, *accepts):
    return Limit(
        figure=figure,
        sense=Sense.AT_MOST,
        bound=bound,
        unit="",
        accepts=accepts or (EvidenceKind.HOST,),
    )


def figure(name, value, low=None, high=None, samples=None):
    return Figure(
        name=name,
        value=value,
        unit="",
        provenance=Provenance.MEASURED,
        place=Place.HOST,
        how="",
        low=low,
        high=high,
        samples=samples,
    )


@pytest.fixture
def lines(monkeypatch):
    monkeypatch.setattr(advice, "largest_layers", lambda _: LAYERS)

    def of(limits, figures, precision="int8", skipped=()):
        quantize = Quantize(precision=precision, activations="none") if precision else None
        found = {item.name: item for item in figures}
        return advise(
            SimpleNamespace(quantize=quantize, strategy=Strategy(steps=skipped)),
            deliver_verdict(limits, found),
            found,
            SimpleNamespace(named=None),
        )

    return of


def test_what_passes_needs_no_advice(lines):
    assert lines([limit("load_ms", 5)], [figure("load_ms", 4)]) == ()


@pytest.mark.parametrize(
    ("precision", "words"),
    [("int4", "use int8"), ("int8", "use fp16"), ("fp16", "65504"), ("", "see the audit")],
)
def test_a_lost_accuracy_is_answered_by_the_precision_at_hand(lines, precision, words):
    (line,) = lines([limit("metric_drop", 1)], [figure("metric_drop", 9)], precision)
    assert line.startswith("metric_drop: ")
    assert words in line


def test_missing_bytes_name_the_three_largest_layers(lines):
    found = lines([limit("artifact_bytes", 1)], [figure("artifact_bytes", 9)])
    assert found[-1] == "largest layers: l0 (100 bytes), l1 (99 bytes), l2 (98 bytes)"


def test_missing_bytes_name_the_skipped_steps_that_would_save_them(lines):
    reason = "the workload has no training data (would leave about 20% of the weights (estimated))"
    skipped = tuple(
        PlannedStep(name=name, is_run=False, reason=reason) for name in ("prune", "sparsify")
    )
    found = lines([limit("flash_bytes", 1)], [figure("flash_bytes", 9)], skipped=skipped)
    (line,) = [item for item in found if "skipped" in item]
    assert line.startswith("a smaller model: 'prune' was skipped, and runs with training data and ")
    assert line.endswith(f"--effort standard: {reason}")


def test_an_undecided_limit_says_how_many_samples_would_decide(lines):
    # 0.4 from the bound and the interval reaches 0.8: twice as close needs four times as many.
    (line,) = lines([limit("metric_drop", 1)], [figure("metric_drop", 0.6, -0.2, 1.4, 100)])
    assert line == "metric_drop: about 400 samples would decide; this build had 100"


def test_a_value_on_the_bound_is_decided_by_no_number_of_samples(lines):
    (line,) = lines([limit("metric_drop", 1)], [figure("metric_drop", 1, 0.5, 1.5, 100)])
    assert "no number of samples would decide" in line


def test_a_bounded_library_is_decided_by_a_citation_and_not_by_samples(lines):
    cited = replace(figure("footprint_bytes", 5, 5, 20), provenance=Provenance.CITED)
    found = lines([limit("footprint_bytes", 10, EvidenceKind.CITED)], [cited])
    assert found[0].startswith("footprint_bytes: only an upper bound of the engine's library is ")
    assert "cite the library of the very version under runtime_library" in found[0]
    assert "samples" not in found[0]


def test_a_pending_limit_says_what_evidence_it_needs(lines):
    accepts = (EvidenceKind.EMULATOR, EvidenceKind.DEVICE)
    (line,) = lines([limit("flash_bytes", 1, *accepts)], [not_evaluated("flash_bytes", "", "x")])
    assert line == "flash_bytes: pending; it needs evidence from: emulator or device"


def test_a_figure_that_nobody_has_advice_for_points_to_the_report(lines):
    (line,) = lines([limit("energy_mj", 1)], [figure("energy_mj", 2)])
    assert line == "energy_mj: see the figure in the report"
