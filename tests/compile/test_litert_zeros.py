"""Scales of channels of zeros; that their biases survive is in tests/compress."""

import numpy as np
import pytest
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor as target

from edgekit.compile.litert_zeros import zeros_scaled

CHANNELS = qtyping.QuantGranularity.CHANNELWISE


def scales_of(bounds, *, symmetric=True, clipping=None):
    high = np.float32(bounds).reshape(-1, 1)
    _, scales = target.tensor_zp_scale_from_min_max(
        -high, high, 8, symmetric, CHANNELS, clipping_values=clipping
    )
    return scales.reshape(-1)


def test_a_channel_of_zeros_gets_the_scale_of_the_largest():
    with zeros_scaled():
        found = scales_of([0.5, 0.0, 2.0])
    np.testing.assert_allclose(found, np.array([0.5, 2.0, 2.0]) / 127, rtol=1e-6)


def test_a_clipping_value_of_zero_is_widened_too():
    with zeros_scaled():
        found = scales_of([4.0, 0.0], clipping=np.float32([[3.0], [0.0]]))
    np.testing.assert_allclose(found, np.array([3.0, 3.0]) / 127, rtol=1e-6)


def test_a_layer_of_zeros_has_a_scale():
    with zeros_scaled():
        np.testing.assert_allclose(scales_of([0.0, 0.0]), 1 / 127, rtol=1e-6)


def test_channels_that_are_not_zero_are_left_alone():
    plain = scales_of([0.5, 1e-6, 2.0])
    with zeros_scaled():
        assert np.array_equal(scales_of([0.5, 1e-6, 2.0]), plain)


def test_ranges_of_activations_are_left_alone():
    plain = scales_of([0.0], symmetric=False)
    with zeros_scaled():
        assert np.array_equal(scales_of([0.0], symmetric=False), plain)


def test_afterwards_everything_is_as_before():
    original = target.tensor_zp_scale_from_min_max

    def fail_within():
        with zeros_scaled():
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_within()
    assert target.tensor_zp_scale_from_min_max is original
