"""Drift between calibration and evaluation data."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from edgekit.evaluate.drift import drift, ks_distance


def pictures(count, seed, *, scale=1.0, shift=0.0):
    values = np.random.default_rng(seed).standard_normal((count, 1, 8, 8)) * scale + shift
    return [{"image": rows.astype(np.float32)} for rows in np.array_split(values, 4)]


@pytest.mark.parametrize("sizes", [(50, 50), (200, 31), (5, 400)])
def test_the_distance_is_that_of_scipy(sizes):
    generator = np.random.default_rng(1)
    a, b = generator.standard_normal(sizes[0]), generator.integers(-2, 3, sizes[1]).astype(float)
    assert ks_distance(a, b) == pytest.approx(ks_2samp(a, b).statistic, abs=1e-12)


def test_draws_of_one_distribution_are_not_called_different():
    alarms = [drift(pictures(120, seed), pictures(300, seed + 1000)).is_large for seed in range(60)]
    assert sum(alarms) == 0


@pytest.mark.parametrize("other", [{"scale": 2.0}, {"shift": 0.5}])
def test_brighter_or_harsher_pictures_are_called_different(other):
    found = drift(pictures(120, 0), pictures(300, 1, **other))
    assert found.is_large
    assert found.distance > 0.5


def test_one_input_among_several_is_named():
    def batches(seed, shift):
        generator = np.random.default_rng(seed)
        yield {
            "same": generator.standard_normal((200, 5)),
            "other": generator.standard_normal((200, 3)) + shift,
        }

    assert "'other'" in drift(batches(0, 0.0), batches(1, 1.0)).statistic


def test_the_figure_says_what_was_compared():
    figure = drift(pictures(50, 0), pictures(60, 1)).figure()
    assert figure.samples == 50
    assert "Kolmogorov-Smirnov" in figure.how
