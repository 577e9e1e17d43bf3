"""What a build says of calibrated ranges."""

from pathlib import Path

import pytest

import edgekit
from edgekit.core.errors import StepError
from edgekit.core.figure import Provenance
from edgekit.flow.activation_ranges import convergence_figures, drift_figure
from tests.flow import tiny
from tests.flow.test_compressing import build, profile

QUANTIZE = """
[[strategy.step]]
name = "quantize"
required = true
reason = "small"
settings = {{ precision = "int8", {more} }}
"""


def device(folder, more):
    path = Path(profile(folder))
    text = path.read_text()
    path.write_text(text[: text.rindex("[[strategy.step]]")] + QUANTIZE.format(more=more))
    return str(path)


def test_the_last_look_is_the_figure_and_the_others_are_told():
    looks = [
        {"samples": 8, "median": 0.2, "worst": 0.5, "tensor": "a"},
        {"samples": 32, "median": 0.01, "worst": 0.3, "tensor": "b"},
    ]
    (figure,) = convergence_figures({"samples": 64, "convergence": looks})
    assert (figure.name, figure.value, figure.samples) == ("calibration_convergence", 0.01, 64)
    assert "first 32 of 64" in figure.how
    assert "worst 30.0% ('b')" in figure.how
    assert "8: 20.0%, 32: 1.0%" in figure.how


def test_one_sample_has_no_convergence_and_that_is_said():
    (figure,) = convergence_figures({"samples": 1, "convergence": []})
    assert (figure.name, figure.value) == ("calibration_convergence", None)
    assert figure.provenance is Provenance.NOT_EVALUATED
    assert "one calibration sample" in figure.how
    # Trained ranges need no samples.
    assert not list(convergence_figures({"samples": 0, "convergence": []}))


def test_drift_is_the_largest_rise_and_names_tensors():
    worst = [
        {"tensor": "relu", "share": 0.05, "before": 0.01},
        {"tensor": "sum", "share": 0.002, "before": 0.0},
    ]
    figure = drift_figure({"samples": 64, "share": 0.003, "worst": worst})
    assert figure.value == pytest.approx(0.04)
    assert "'relu' 5.00% (1.00% in calibration)" in figure.how
    assert "0.300%" in figure.how


@pytest.mark.slow
@pytest.mark.parametrize("target", ["litert", "onnx"])
def test_a_build_has_both_figures_and_says_how_settled_the_ranges_are(builds, tmp_path, target):
    given = tiny.workload(calibration=[x for x, _ in tiny.samples(64, 1)])
    wide = {"metric_drop": 100.0, "latency_ratio": 1000.0}
    place = device(tmp_path, 'activations = "static", calibration = { method = "percentile" }')
    options = {"target": target, "effort": "quick", "limits": wide}
    result = build(builds, place, given, **options)
    figures = {item.name: item for item in result.evidence.figures}
    assert 0 < figures["calibration_convergence"].value < 1
    assert figures["calibration_convergence"].samples == 64
    # The evaluation data are draws of the same kind; the scores are few values.
    assert 0 <= figures["activation_drift"].value < 0.1
    assert any("after 32 of the 64 samples" in note for note in result.evidence.notes)


@pytest.mark.parametrize(
    "more", ['calibration = { method = "mse" }', "has_symmetric_activations = true"]
)
def test_calibration_of_what_is_not_static_is_refused_by_the_plan(tmp_path, more):
    place = device(tmp_path, f'activations = "dynamic", {more}')
    with pytest.raises(StepError, match="are of static activations, and these are dynamic"):
        edgekit.plan(tiny.workload(), device=place)


def test_settings_come_from_the_profile_and_from_the_caller(tmp_path):
    place = device(tmp_path, 'activations = "static", calibration = { method = "mse" }')
    more = {"quantize": {"calibration": {"samples": 8}}}
    planned = edgekit.plan(tiny.workload(), device=place, settings=more)
    (step,) = planned.strategy.steps
    assert step.settings["calibration"]["method"] == "mse"
    assert step.settings["calibration"]["samples"] == 8


def test_a_value_that_is_not_allowed_is_refused_by_name(tmp_path):
    place = device(tmp_path, 'activations = "static", calibration = { percentile = 40.0 }')
    with pytest.raises(StepError, match=r"calibration\.percentile is 40\.0; it must be above 50"):
        edgekit.plan(tiny.workload(), device=place)
