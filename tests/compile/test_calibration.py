"""Ranges from runs of a model: each method, what is known already, and data that are no use."""

import tracemalloc

import numpy as np
import pytest
import torch
from torch.ao.quantization.observer import MovingAverageMinMaxObserver

from edgekit.compile.calibration import SOFTMAX_DEPTH, MaskedSum, Run, Watched, calibrate, centred
from edgekit.core.calibration import Calibration
from edgekit.core.errors import StepError

BATCHES = [
    (np.random.default_rng(i).standard_normal((4, 50)) * (i % 5 + 1)).astype(np.float32)
    for i in range(16)
]


def runs_of(batches, name="x"):
    return [Run(samples=len(values), tensors={name: values}) for values in batches]


def calibrated(batches, watched=None, known=None, *, is_symmetric=False, bits=8, **settings):
    return calibrate(
        runs_of(batches),
        watched or Watched(names=("x",)),
        Calibration(**settings),
        count=sum(map(len, batches)),
        bits=bits,
        is_symmetric=is_symmetric,
        known=known,
    )


def test_min_max_spans_all_values():
    values = np.concatenate(BATCHES)
    found = calibrated(BATCHES, method="min_max")
    assert found.ranges["x"] == (values.min(), values.max())
    assert found.samples == len(values)
    assert found.outside["x"] == 0


def test_the_moving_average_is_torchs():
    observer = MovingAverageMinMaxObserver(averaging_constant=0.1)
    for values in BATCHES:
        observer(torch.from_numpy(values))
    found = calibrated(BATCHES, method="moving_average", momentum=0.9)
    expected = observer.min_val.item(), observer.max_val.item()
    np.testing.assert_allclose(found.ranges["x"], expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_a_clipping_method_gives_the_same_however_the_values_come(method):
    values = np.concatenate(BATCHES)
    one, many = calibrated([values], method=method), calibrated(BATCHES, method=method)
    assert one.ranges == many.ranges


def test_auto_is_what_measured_best_and_cuts_one_value_in_a_hundred_thousand():
    # docs/strategies.md, calibration.
    tail = [values.copy() for values in BATCHES * 100]
    tail[0][0, 0] = 90
    auto = calibrated(tail)
    assert auto.ranges == calibrated(tail, method="percentile", percentile=99.999).ranges
    assert auto.ranges["x"][1] < 90
    assert calibrated(tail, bits=16).ranges == calibrated(tail, method="min_max").ranges


def test_a_centred_grid_of_8_bits_holds_zero_in_its_middle():
    low, high = centred({"x": (-2.0, 2.0)}, 8)["x"]
    scale = (high - low) / 255
    assert scale == pytest.approx(2 / 127)
    assert -128 - low / scale == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("method", ["min_max", "moving_average", "percentile", "entropy", "mse"])
def test_a_symmetric_range_reaches_as_far_below_zero_as_above(method):
    skewed = [values + 2 for values in BATCHES]
    low, high = calibrated(skewed, method=method, is_symmetric=True).ranges["x"]
    assert low == -high
    assert high <= max(np.abs(values).max() for values in skewed)


def test_symmetric_percentiles_are_of_magnitudes():
    top = calibrated(BATCHES, method="percentile", percentile=99.0, is_symmetric=True).ranges["x"][
        1
    ]
    expected = np.percentile(np.abs(np.concatenate(BATCHES)), 99.0)
    assert top == pytest.approx(expected, abs=0.05)  # among 32 values past it


def test_sixteen_bits_cut_less_than_eight():
    draw = np.random.default_rng(3)
    heavy = [(draw.standard_normal((4, 500)) ** 5).astype(np.float32) for _ in range(8)]
    eight = calibrated(heavy, method="mse").ranges["x"]
    sixteen = calibrated(heavy, method="mse", bits=16).ranges["x"]
    assert sixteen[1] >= eight[1]
    assert sixteen == calibrated(heavy, method="min_max").ranges["x"]


def test_a_known_range_wins_and_needs_no_samples():
    watched = Watched(names=("x", "y"))
    runs = [Run(samples=2, tensors={"x": BATCHES[0], "y": BATCHES[1]})]
    settings = Calibration(method="min_max")
    found = calibrate(runs, watched, settings, count=2, known={"x": (-0.5, 7.0), "z": (0, 1)})
    assert found.ranges["x"] == (-0.5, 7.0)
    assert found.ranges["y"] == (BATCHES[1].min(), BATCHES[1].max())
    alone = calibrate([], Watched(names=("x",)), Calibration(), count=0, known={"x": (1.0, 7.0)})
    assert alone.ranges == {"x": (0.0, 7.0)}


@pytest.mark.parametrize("ends", [(2.0, 1.0), (0.0, 0.0), (np.nan, 1.0), (0.0, np.inf)])
def test_a_known_range_that_is_none_is_refused_by_name(ends):
    with pytest.raises(StepError, match="known range of tensor 'x'"):
        calibrated(BATCHES, known={"x": ends})


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("method", ["min_max", "mse"])
def test_values_that_are_not_finite_are_refused_by_name(bad, method):
    values = BATCHES[0].copy()
    values[2, 3] = bad
    with pytest.raises(StepError, match="tensor 'x' takes the value"):
        calibrated([BATCHES[1], values], method=method)


def test_a_range_on_one_side_holds_zero_and_that_is_said():
    found = calibrated([np.abs(values) + 1 for values in BATCHES])
    assert found.ranges["x"][0] == 0
    assert any("tensor 'x' is never 0" in note for note in found.notes)
    below = calibrated([-np.abs(values) - 1 for values in BATCHES])
    assert below.ranges["x"][1] == 0


@pytest.mark.parametrize("method", ["min_max", "moving_average", "percentile", "entropy", "mse"])
def test_a_tensor_of_zeros_gets_a_range_that_is_said_to_be_a_guess(method):
    found = calibrated([np.zeros((2, 3), np.float32)], method=method)
    assert found.ranges["x"] == (0, 1)
    assert any("tensor 'x' is 0 in all samples" in note for note in found.notes)


@pytest.mark.parametrize("method", ["min_max", "moving_average", "percentile", "entropy", "mse"])
def test_a_tensor_too_small_for_a_scale_gets_a_normal_one_and_is_named(method):
    # 255 steps of the least normal float32 span 3.0e-36.
    found = calibrated([np.float32([[-1e-37, 2e-36]])], method=method)
    assert found.ranges["x"] == (0, 1)
    assert any("tensor 'x' is so near 0" in note for note in found.notes)
    wide = calibrated([np.float32([[-1e-37, 4e-36]])], method="min_max")
    assert wide.ranges["x"] == pytest.approx((-1e-37, 4e-36), rel=1e-6)
    assert not any("near 0" in note for note in wide.notes)


def test_a_range_far_from_zero_is_told_with_the_steps_that_are_left():
    # 2 of the 1,002 between 0 and the top: half a step of 255.
    found = calibrated([np.float32([[1000, 1002]])], method="min_max")
    assert any("at least 1 of 255 steps are left for the values" in note for note in found.notes)
    below = calibrated([np.float32([[-4, -2]])], method="min_max")
    assert any("128 of 255 steps" in note for note in below.notes)
    # As far above zero as below it: 2 of 8.
    centred = calibrated([np.float32([[-4, -2]])], method="min_max", is_symmetric=True)
    assert any("64 of 255 steps" in note for note in centred.notes)


def test_more_samples_than_there_are_is_refused_and_fewer_are_the_first():
    with pytest.raises(StepError, match=r"calibration\.samples is 65 and there are 64"):
        calibrated(BATCHES, samples=65)
    found = calibrated(BATCHES, method="min_max", samples=8)
    first = np.concatenate(BATCHES[:2])
    assert found.ranges["x"] == (first.min(), first.max())
    assert found.samples == 8


def test_no_samples_at_all_is_refused():
    with pytest.raises(StepError, match="no calibration samples"):
        calibrated([])


def test_convergence_is_how_far_early_ranges_are_from_the_last():
    # The first half spans -1 to 1, the second -1 to 2.
    batches = [np.float32([[-1, 1]])] * 4 + [np.float32([[-1, 2]])] * 4
    found = calibrated(batches, method="min_max")
    assert [item.samples for item in found.convergence] == [1, 2, 4]
    assert found.convergence[-1].median == pytest.approx(1 / 3)
    assert found.convergence[-1].tensor == "x"
    assert any("after 4 of the 8 samples differ" in note for note in found.notes)


def test_the_share_outside_is_what_a_method_leaves_there():
    found = calibrated(BATCHES, method="percentile", percentile=90.0)
    low, high = found.ranges["x"]
    values, slack = np.concatenate(BATCHES), (high - low) / 255 / 2
    expected = ((values < low - slack) | (values > high + slack)).mean()
    assert found.outside["x"] == pytest.approx(expected, abs=2e-3)


def scores_and_mask(huge):
    draw = np.random.default_rng(0)
    scores = (3 * draw.standard_normal((2, 4, 8, 8))).astype(np.float32)
    mask = np.zeros((2, 1, 1, 8), np.float32)
    mask[:, ..., 5:] = huge
    return {"scores": scores, "mask": mask, "sum": scores + mask}


@pytest.mark.parametrize("huge", [-3.4028235e38, -1e9, -np.inf])
@pytest.mark.parametrize("method", ["min_max", "moving_average", "percentile", "entropy", "mse"])
def test_a_mask_of_huge_numbers_does_not_widen_what_a_softmax_reads(huge, method):
    tensors = scores_and_mask(huge)
    watched = Watched(
        names=("scores", "mask", "sum"),
        softmax_axes={"sum": -1},
        masked=(MaskedSum(parts=("scores", "mask"), result="sum"),),
    )
    runs = [Run(samples=2, tensors=tensors)]
    found = calibrate(runs, watched, Calibration(method=method), count=2).ranges
    assert found["sum"][0] > -25
    assert found["mask"][0] > -50


def test_what_is_cut_below_a_softmax_does_not_change_it():
    tensors = scores_and_mask(-1e9)
    watched = Watched(names=("sum",), softmax_axes={"sum": -1})
    runs = [Run(samples=2, tensors=tensors)]
    low, _ = calibrate(runs, watched, Calibration(method="min_max"), count=2).ranges["sum"]
    cut = torch.from_numpy(tensors["sum"]).clamp(min=low).softmax(-1)
    exact = torch.from_numpy(tensors["sum"]).softmax(-1)
    # Eight values, none of which may have more than exp(-depth) of the largest.
    assert (cut - exact).abs().max() < 8 * np.exp(-SOFTMAX_DEPTH)


@pytest.mark.parametrize("method", ["auto", "moving_average", "entropy"])
def test_memory_does_not_grow_with_the_number_of_samples(method):
    def peak(count):
        runs = (Run(samples=1, tensors={"x": np.full((1, 64), i, "f4")}) for i in range(count))
        tracemalloc.start()
        calibrate(runs, Watched(names=("x",)), Calibration(method=method), count=count)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)
    # 950 runs more have 240 kB of values.
    assert peak(1000) - peak(50) < 60_000
