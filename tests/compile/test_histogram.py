"""Counts by size: nothing is lost when bins widen, and memory stays flat."""

import numpy as np
import pytest

from edgekit.compile.histogram import SIDE_BINS, Histogram


def counted(*batches):
    found = Histogram()
    for values in batches:
        found.add(values, float(values.min()), float(values.max()))
    return found


def test_bins_count_what_numpy_counts_at_the_same_edges():
    values = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    found = counted(values)
    expected, _ = np.histogram(values.astype(np.float64), bins=found.edges)
    np.testing.assert_array_equal(found.counts, expected)
    assert found.total == len(values)


def test_a_larger_value_that_comes_later_widens_the_bins_without_losing_a_count():
    rng = np.random.default_rng(1)
    batches = [(rng.standard_normal(999) * 4**i).astype(np.float32) for i in range(4)]
    grown, at_once = counted(*batches), counted(np.concatenate(batches))
    assert grown.width == at_once.width
    np.testing.assert_array_equal(grown.counts, at_once.counts)
    assert (grown.low, grown.high) == (at_once.low, at_once.high)


def test_the_largest_value_lies_in_the_outer_half_of_the_bins():
    for top in (1e-6, 0.37, 1.0, 4096.0, 3e37):
        found = counted(np.float32([0.1 * top, top]))
        assert SIDE_BINS / 2 <= top / found.width <= SIDE_BINS


def test_zeros_are_counted_apart_and_the_least_number_above_is_not_one():
    found = counted(np.float32([0, 0, -0.0, 1e-40, 1.0]))
    assert found.zeros == 3
    assert found.counts.sum() == 2
    assert found.counts[SIDE_BINS] == 1


def test_folding_counts_magnitudes():
    values = np.float32([-3.1003, -2.6007, -1.1001, 1.1001, 2.2003, 3.5, 0])
    folded, magnitudes = counted(values).folded(), counted(np.abs(values))
    np.testing.assert_array_equal(folded.counts, magnitudes.counts)
    assert (folded.zeros, folded.high) == (1, 3.5)


def test_the_share_outside_is_that_of_the_values():
    values = np.linspace(-1, 1, 20_001, dtype=np.float32)
    found = counted(values)
    assert found.share_outside(-0.9, 0.8) == pytest.approx(0.15, abs=1e-3)
