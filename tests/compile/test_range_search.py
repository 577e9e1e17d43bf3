"""Each way to cut a range, against the same thing done on all values, or by ONNX Runtime."""

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from edgekit.compile.histogram import Histogram
from edgekit.compile.range_search import entropy_range, least_error_range, percentile_range


def counted(values):
    found = Histogram()
    found.add(values, float(values.min()), float(values.max()))
    return found


def normal(count=40_000, seed=0):
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def with_tail(seed=0):
    """Mostly small values and a few far ones, as behind a ReLU of a deep layer."""
    draw = np.random.default_rng(seed)
    return np.abs(np.append(normal(200_000, seed), 12 * draw.random(6))).astype(np.float32)


def squared_error(values, low, high, steps=255):
    """What rounding to a grid and cutting off costs, on the values themselves."""
    step = (high - low) / steps
    zero = np.rint(-low / step)
    stored = np.clip(np.rint(values / step) + zero, 0, steps)
    return float((((stored - zero) * step - values) ** 2).sum())


@pytest.mark.parametrize("percentile", [60.0, 99.0, 99.9, 100.0])
def test_percentiles_are_numpys_on_all_values(percentile):
    values = np.append(normal() * 2 + 0.5, np.zeros(5_000)).astype(np.float32)
    low, high = percentile_range(counted(values), percentile)
    ends = np.percentile(values, [(100 - percentile) / 2, 100 - (100 - percentile) / 2])
    expected = min(ends[0], 0), max(ends[1], 0)
    # A bin is a 4096th of the range or less than twice that, and few values lie far out.
    np.testing.assert_allclose((low, high), expected, atol=0.01)


def test_percentiles_are_those_of_onnx_runtime():
    values = normal()
    theirs = HistogramCollector("percentile", False, 2048, 128, 99.0, "same")
    theirs.collect({"x": values})
    low, high = (float(end) for end in theirs.compute_collection_result()["x"][:2])
    # They end a range at a bin's edge, and have 2048 bins over about 9.
    np.testing.assert_allclose(percentile_range(counted(values), 99.0), (low, high), atol=0.01)


@pytest.mark.parametrize("values", [with_tail(), with_tail() - 1.5, normal() * 3 - 2])
def test_the_least_error_is_that_of_quantizing_all_values(values):
    low, high = least_error_range(counted(values), 255)
    ours = squared_error(values, low, high)
    shares = np.linspace(0.1, 1.0, 19)
    bottoms = shares * min(values.min(), 0) if values.min() < 0 else [0.0]
    others = [
        squared_error(values, bottom, share * values.max())
        for bottom in bottoms
        for share in shares
    ]
    # Ends are tried a hundredth apart, and a hard edge within a step of an end costs no twelfth.
    assert ours <= 1.05 * min(others)


def test_a_long_thin_tail_is_cut_and_evenly_spread_values_are_not():
    tail = with_tail()
    assert least_error_range(counted(tail), 255)[1] < 0.9 * tail.max()
    even = np.linspace(0, 3, 10_000, dtype=np.float32)
    assert least_error_range(counted(even), 255) == (0, pytest.approx(3.0))


def test_zeros_do_not_count_for_the_least_error():
    tail = with_tail()
    padded = np.append(tail, np.zeros(len(tail), np.float32))
    assert least_error_range(counted(padded), 255) == least_error_range(counted(tail), 255)


def divergence(values, top, levels, bins=4096):
    """Relative entropy of clipped magnitudes to their merged bins, by the slides' own words."""
    counts, edges = np.histogram(values, bins=bins, range=(0, values.max()))
    inside = int(np.searchsorted(edges, top - 1e-9))
    reference = counts[:inside].astype(float)
    outliers = counts[inside:].sum()
    candidate = np.zeros(inside)
    for piece in np.array_split(np.arange(inside), levels):
        used = piece[reference[piece] > 0]
        if len(used):
            candidate[used] = reference[piece].sum() / len(used)
    reference[-1] += outliers
    p, q = reference / reference.sum(), candidate / max(candidate.sum(), 1)
    held = p > 0
    return float((p[held] * np.log(p[held] / np.maximum(q[held], 1e-12))).sum())


def test_entropy_cuts_where_the_slides_procedure_does():
    values = with_tail()
    top = entropy_range(counted(values), 128)[1]
    best = min((divergence(values, t, 128), t) for t in np.linspace(0.1, 1.0, 91) * values.max())
    # The candidates differ, and near its least the divergence is flat.
    assert divergence(values, top, 128) <= 1.5 * best[0]
    assert top == pytest.approx(best[1], rel=0.15)


def test_symmetric_entropy_is_near_onnx_runtimes():
    values = np.append(normal(20_000), [20, -30]).astype(np.float32)
    theirs = HistogramCollector("entropy", True, 2048, 255, 99.9, "same")
    theirs.collect({"x": values})
    expected = float(theirs.compute_collection_result()["x"][1])
    top = entropy_range(counted(values).folded(), 128)[1]
    # Theirs moves by a quarter with the number of its bins: 4.7 with 8,192 of 200,000 values.
    assert top == pytest.approx(expected, rel=0.25)
    assert top < 6


def test_entropy_moves_each_end_by_itself():
    values = np.append(normal(100_000), [40.0]).astype(np.float32)
    low, high = entropy_range(counted(values), 256)
    assert high < 15
    assert low < 0.5 * values.min()


def test_a_tensor_of_zeros_has_no_range():
    zeros = counted(np.zeros(8, np.float32))
    assert percentile_range(zeros, 99.0) == (0, 0)
    assert entropy_range(zeros, 256) == (0, 0)
    assert least_error_range(zeros, 255) == (0, 0)
