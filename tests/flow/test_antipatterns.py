"""Known mistakes are found, and a build without them is told nothing."""

import numpy as np
import pytest

from edgekit.catalog import load_profile
from edgekit.core.codec import to_plain
from edgekit.core.strategy import PlannedStep, Quantize, Strategy
from edgekit.evaluate.drift import Drift
from edgekit.flow.antipatterns import find_anti_patterns
from edgekit.measure.weight_errors import WeightError

PROFILE = load_profile("phone")
STATIC = to_plain(Quantize(precision="int8", activations="static"))
QUANTIZE = PlannedStep(name="quantize", is_run=True, reason="", settings=STATIC)
DISTIL = PlannedStep(name="distil", is_run=True, reason="")


def drift(distance=0.05, samples=500):
    return Drift(distance=distance, statistic="the mean of 'x'", threshold=0.2, samples=samples)


def errors(*values, bits=8):
    return tuple(
        WeightError(layer=f"layer{index}", bits=bits, relative_error=value)
        for index, value in enumerate(values)
    )


ORDINARY = drift()


def found(*steps, drift=ORDINARY, errors=()):
    return find_anti_patterns(PROFILE, Strategy(steps=steps), drift, errors)


def test_a_build_without_mistakes_is_told_nothing():
    assert found(DISTIL, QUANTIZE, errors=errors(0.01, 0.02, 0.01)) == ()


def test_only_one_technique_is_named_with_what_is_missing():
    skipped = PlannedStep(name="distil", is_run=False, reason="no data")
    (line,) = found(skipped, QUANTIZE)
    assert line.startswith("only one technique (quantize) where the profile asks for 2: distil")
    assert "distil (no data) did not run" in line


def test_a_step_that_there_is_no_need_of_is_no_technique_that_is_missing():
    unneeded = PlannedStep(name="smooth", is_run=False, is_unneeded=True, reason="a conv net")
    assert found(unneeded, QUANTIZE) == ()


def test_a_profile_of_one_step_asks_for_no_more():
    assert found(QUANTIZE) == ()


def test_full_precision_is_named():
    (line,) = found(DISTIL)
    assert "full precision for phone" in line


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (drift(samples=32), "calibration on 32 samples"),
        (drift(distance=0.4), "unlike the evaluation data: the mean of 'x' differs by 0.40"),
    ],
)
def test_bad_calibration_data_are_named(given, words):
    (line,) = found(DISTIL, QUANTIZE, drift=given)
    assert words in line


def test_only_the_samples_that_are_used_count():
    few = {**STATIC, "calibration": {"samples": 8}}
    step = PlannedStep(name="quantize", is_run=True, reason="", settings=few)
    (line,) = found(DISTIL, step)
    assert "calibration on 8 samples" in line


def test_calibration_data_do_not_matter_where_nothing_is_calibrated():
    dynamic = {**STATIC, "activations": "dynamic"}
    step = PlannedStep(name="quantize", is_run=True, reason="", settings=dynamic)
    assert found(DISTIL, step, drift=drift(distance=0.9, samples=3)) == ()


def test_layers_that_lose_far_more_at_the_same_bits_are_named():
    (line,) = found(DISTIL, QUANTIZE, errors=errors(0.01, 0.01, 0.2, 0.01))
    assert "the same 8 bits" in line
    assert "layer2 (20% of them, 20.0 times the median)" in line
    assert line.endswith("(--layer '^layer2$=float')")


@pytest.mark.parametrize(
    ("values", "bits"), [((0.008, 0.008, 0.021, 0.008), 8), ((0.14, 0.15, 0.24, 0.14), 4)]
)
def test_layers_that_lose_little_or_about_as_much_are_not_named(values, bits):
    assert found(DISTIL, QUANTIZE, errors=errors(*values, bits=bits)) == ()


def test_a_layer_with_outliers_is_named_at_four_bits():
    """The errors are those of real grids: three layers of normal weights, one with outliers."""
    draws = np.random.default_rng(0)
    layers = [draws.normal(size=(16, 512)) for _ in range(4)]
    layers[2][:, 5] *= 30
    lost = []
    for weights in layers:
        steps = np.abs(weights).max(axis=1, keepdims=True) / 7
        rounded = np.round(weights / steps) * steps
        lost.append(np.linalg.norm(rounded - weights) / np.linalg.norm(weights))
    (line,) = found(DISTIL, QUANTIZE, errors=errors(*lost, bits=4))
    assert "layer2 (" in line
    assert line.endswith("(--layer '^layer2$=int8')")


def test_layers_are_compared_at_the_same_bits_only():
    mixed = (*errors(0.01, 0.011, 0.01), *errors(0.2, 0.21, 0.2, bits=4))
    assert found(DISTIL, QUANTIZE, errors=mixed) == ()
