"""Signal to noise, cosine and saturation against numpy and arithmetic by hand."""

import numpy as np
import pytest

from edgekit.graph.model import TensorQuantization
from edgekit.measure.layer_sums import LayerSums, real_range, real_values


def scale_of(scale, point):
    return TensorQuantization(
        scales=np.array([scale], np.float32), zero_points=np.array([point], np.int64)
    )


def test_sums_over_samples_are_those_of_all_values_at_once():
    draw = np.random.default_rng(0)
    wanted = draw.standard_normal((5, 3, 4)).astype(np.float32)
    found = wanted + 0.1 * draw.standard_normal((5, 3, 4)).astype(np.float32)
    sums = LayerSums()
    for one, two in zip(wanted, found, strict=True):
        sums.add_(one, two, None)
    left, right = wanted.ravel().astype(np.float64), found.ravel().astype(np.float64)
    expected = 20 * np.log10(np.linalg.norm(left) / np.linalg.norm(left - right))
    assert sums.snr_db == pytest.approx(expected, abs=1e-9)
    cosine = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    assert sums.cosine == pytest.approx(cosine, abs=1e-12)
    assert sums.grid_snr_db is None
    assert sums.share(sums.saturated) is None


def test_integers_are_compared_as_the_values_that_they_stand_for():
    held = np.array([-128, -28, 127], np.int8)
    quantization = scale_of(0.5, -28)
    assert real_values(held, quantization).tolist() == [-50.0, 0.0, 77.5]
    assert real_range(held.dtype, quantization) == (0.5, -50.0, 77.5)


def test_saturation_and_values_outside_the_range_are_counted_apart():
    # Values -12.8 .. 12.7 in steps of 0.1.
    held = np.array([-128, 127, 127, 5], np.int8)
    wanted = np.array([-12.8, 12.74, 20.0, 0.5], np.float32)
    sums = LayerSums()
    sums.add_(wanted, held, scale_of(0.1, 0))
    assert sums.share(sums.saturated) == 0.75
    # 12.74 is inside by less than half a step.
    assert sums.share(sums.outside) == 0.25
    assert sums.clipping == pytest.approx(7.3**2 + 0.04**2, rel=1e-4)


def test_zeros_of_a_relu_are_not_saturated():
    held = np.array([-128, -128, 127], np.int8)
    sums = LayerSums()
    sums.add_(np.array([0, 0, 25.5], np.float32), held, scale_of(0.1, -128))
    assert sums.saturated == 1


def test_the_scale_alone_costs_what_rounding_to_it_costs():
    wanted = np.random.default_rng(1).uniform(-1, 1, 4096).astype(np.float32)
    step = 2 / 255
    held = np.clip(np.rint(wanted / step), -128, 127).astype(np.int8)
    sums = LayerSums()
    sums.add_(wanted, held, scale_of(step, 0))
    # Uniform in -1..1: signal 1/3, noise step**2 / 12.
    expected = 10 * np.log10((1 / 3) / (step**2 / 12))
    assert sums.grid_snr_db == pytest.approx(expected, abs=0.2)
    assert sums.snr_db == pytest.approx(sums.grid_snr_db, abs=1e-3)


def test_values_that_vanish_in_the_steps_are_counted():
    wanted = np.array([-1e9, 0.0, 1.0, -2.0], np.float32)
    sums = LayerSums()
    sums.add_(wanted, np.array([-128, 127, 127, 127], np.int8), scale_of(1e9 / 255, 127))
    assert sums.small == 2
    assert sums.small_signal == pytest.approx(5.0)
    assert sums.largest == pytest.approx(1e9)


def test_what_is_not_a_number_in_the_artifact_alone_loses_everything():
    sums = LayerSums()
    sums.add_(np.array([1.0, 2.0]), np.array([1.0, np.nan]), None)
    assert sums.snr_db == -50.0
    same = LayerSums()
    same.add_(np.array([1.0, -np.inf]), np.array([1.0, -np.inf]), None)
    assert same.snr_db == 150.0


def test_two_outputs_of_zeros_are_alike():
    sums = LayerSums()
    sums.add_(np.zeros(3), np.zeros(3), None)
    assert (sums.snr_db, sums.cosine, sums.noise_ratio) == (150.0, 1.0, 0.0)


def test_what_one_scale_costs_each_channel_by_hand():
    sums = LayerSums(has_channels=True)
    for floats in ([[0.2, 8.0, 0.0], [-0.2, 1.5, 0.0]], [[0.4, -16.0, 0.0], [np.nan, 0.0, 0.0]]):
        wanted = np.array(floats, np.float32)
        sums.add_(wanted, np.zeros((2, 3), np.int8), scale_of(0.5, 0))
    # 0.2 and -0.2 become 0, and 0.4 becomes 0.5; whole halves stay.
    np.testing.assert_allclose(sums.channels.lost, [0.04 + 0.04 + 0.01, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(sums.channels.signal, [0.24, 64 + 2.25 + 256, 0], rtol=1e-5)
    assert sums.channels.unevenness == pytest.approx(16 / np.median([0.4, 16]))
    assert sums.channels.noise_ratio == pytest.approx(np.mean([0.09 / 0.24, 0]))


def test_channels_are_not_added_up_where_nobody_asks():
    sums = LayerSums()
    sums.add_(np.ones((2, 3), np.float32), np.ones((2, 3), np.int8), scale_of(1.0, 0))
    assert sums.channels is None
