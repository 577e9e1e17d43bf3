"""Trained ranges find their tensors by what these hold."""

import numpy as np
import pytest

from edgekit.core.errors import InputError
from edgekit.graph.ranges import (
    FILE,
    TrainedRange,
    find_ranges,
    fingerprint,
    read_ranges,
    write_ranges,
)

RNG = np.random.default_rng(0)


def trained(point, *samples, low=-1.0, high=2.0):
    prints = tuple(fingerprint(values) for values in samples)
    return TrainedRange(point=point, low=low, high=high, prints=prints)


def held(**tensors):
    return {name: [fingerprint(item) for item in samples] for name, samples in tensors.items()}


def test_a_fingerprint_is_plain_statistics():
    found = fingerprint(np.array([[1.0, -2.0], [3.0, 0.0]]))
    assert (found.count, found.low, found.high) == (4, -2.0, 3.0)
    assert (found.mean, found.square) == (0.5, 3.5)


def test_other_axes_and_other_rounding_are_the_same_tensor():
    one, other = RNG.standard_normal((2, 1, 8, 6, 6)).astype(np.float32)
    noisy = [item.transpose(0, 2, 3, 1) * np.float32(1 + 1e-5) for item in (one, other)]
    wanted = trained("layer relu", one, other)
    found = find_ranges([wanted], held(a=noisy, b=[one, one], c=[one * 1.001, other * 1.001]))
    assert found.known == {"a": (-1.0, 2.0)}
    assert found.missing == ()


def test_a_sample_that_fills_a_batch_counts_once():
    one = RNG.standard_normal((1, 20))
    assert fingerprint(np.repeat(one, 4, axis=0), rows=4).count == 20


def test_points_that_no_tensor_stands_for_are_named():
    one = RNG.standard_normal((1, 20))
    found = find_ranges([trained("here", one), trained("gone", one + 1)], held(a=[one]))
    assert found.missing == ("gone",)
    assert "1 tensors have the ranges" in found.note()
    assert "are calibrated: gone" in found.note()
    assert not find_ranges([], held(a=[one])).note()


def test_of_two_points_that_hold_the_same_the_later_one_counts():
    one = RNG.standard_normal((1, 20))
    found = find_ranges([trained("a", one, high=3.0), trained("b", one, high=4.0)], held(x=[one]))
    assert found.known == {"x": (-1.0, 4.0)}


def test_ranges_are_kept_in_a_file(tmp_path):
    ranges = [trained("layer", RNG.standard_normal((1, 5)), low=-0.1, high=1 / 3)]
    assert read_ranges(tmp_path) == ()
    write_ranges(tmp_path, [])
    assert not list(tmp_path.iterdir())
    write_ranges(tmp_path, ranges)
    assert list(read_ranges(tmp_path)) == ranges


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / FILE).write_text('[{"point": "x"}]')
    with pytest.raises(InputError, match=r"ranges\.json"):
        read_ranges(tmp_path)
