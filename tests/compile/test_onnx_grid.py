import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper

from edgekit.compile.onnx_grid import (
    INT4_MAX,
    INT4_MIN,
    along,
    has_zero_channel,
    int4_blocks,
    int4_scales,
    int4_tensor,
    int8_scales,
    packed_blocks,
    round_to_grid,
)


@given(arrays(np.int8, st.integers(1, 9), elements=st.integers(-8, 7)))
def test_packed_int4_reads_back_by_the_onnx_library(values):
    tensor = int4_tensor("w", values)
    assert len(tensor.raw_data) == (values.size + 1) // 2
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), values)
    assert tensor.data_type == onnx.TensorProto.INT4


def test_int8_scales_hold_the_largest_weight_of_each_channel():
    weight = np.float32([[1.0, -2.54], [0.5, 0.25]])
    np.testing.assert_allclose(int8_scales(weight, 0), [2.54 / 127, 0.5 / 127], rtol=1e-6)
    np.testing.assert_allclose(int8_scales(weight, 1), [1.0 / 127, 2.54 / 127], rtol=1e-6)


def test_a_reduced_range_has_half_the_steps():
    weight = np.float32([[1.0, -2.0]])
    np.testing.assert_allclose(int8_scales(weight, 0, is_range_reduced=True), [2.0 / 64])


def test_weights_that_lie_on_a_grid_of_four_bits_stay_exactly_there():
    steps = np.int8([[-7, 3, 7, 0], [1, -7, 2, 5]])
    scale = np.float32([0.5, 0.125])
    weight = steps * scale[:, None]
    scales = int4_scales(weight, 0)
    np.testing.assert_allclose(scales, scale, rtol=1e-6)
    np.testing.assert_array_equal(round_to_grid(weight, scales, 0, INT4_MIN, INT4_MAX), steps)


def test_one_far_weight_is_clipped_for_the_good_of_the_many():
    draw = np.random.default_rng(0)
    weight = np.append(draw.standard_normal(4000), 8.0).astype(np.float32)[None]
    full = np.abs(weight).max() / INT4_MAX
    chosen = int4_scales(weight, 0)[0]
    assert chosen < 0.8 * full

    def error(scale):
        return (np.abs(np.clip(np.rint(weight / scale), -8, 7) * scale - weight) ** 3).sum()

    assert error(chosen) < error(full)


@pytest.mark.parametrize("scales_of", [int8_scales, int4_scales])
def test_a_channel_of_zeros_has_a_finite_scale(scales_of):
    weight = np.float32([[0, 0], [1, 2]])
    scales = scales_of(weight, 0)
    assert (scales > 0).all()
    assert not round_to_grid(weight, scales, 0, -8, 7)[0].any()
    # Its bias is stored in steps of this scale, so it is one that other channels have.
    assert 0.2 * scales[1] < scales[0] < 5 * scales[1]


def test_only_a_whole_channel_of_zeros_is_one():
    weight = np.float32([[0, 1], [0, 2]])
    assert not has_zero_channel(weight, 0)
    assert has_zero_channel(weight, 1)
    assert not has_zero_channel(np.full((2, 2), np.nan, np.float32), 0)


def test_scales_are_shaped_to_multiply_their_axis():
    assert along(np.ones(3), 1, 4).shape == (1, 3, 1, 1)


def of_blocks(values, scales, inputs):
    """The real values of integers in blocks. Shapes: as ``int4_blocks`` gives -> (inputs, out)."""
    wide = values * scales[..., None].astype(np.float32)
    return wide.reshape(len(values), -1)[:, :inputs].T


def test_no_block_loses_more_than_with_onnx_runtimes_own_scale():
    """Which are the value of the largest size over -8."""
    weight = np.random.default_rng(0).standard_t(4, size=(100, 6)).astype(np.float32)
    values, scales = int4_blocks(weight, 32)
    assert values.shape == (6, 4, 32)
    rows = np.pad(weight.T, ((0, 0), (0, 28))).reshape(6, 4, 32)
    places = np.abs(rows).argmax(axis=2)[..., None]
    own = np.take_along_axis(rows, places, axis=2) / -8
    plain = np.clip(np.rint(rows / own), -8, 7) * own
    found = values * scales[..., None].astype(np.float32)
    ours, theirs = (((item - rows) ** 2).sum(axis=2) for item in (found, plain))
    # float16 holds 11 bits of a scale, so that a value of eight steps moves by 8 / 2^12 at most.
    moved = np.abs(own[..., 0]) * 8 / 2**12 * np.sqrt(32)
    assert (np.sqrt(ours) <= np.sqrt(theirs) + moved).all()
    assert (ours < 0.95 * theirs).any()


def test_blocks_that_are_whole_steps_are_found_again():
    draws = np.random.default_rng(1)
    integers = draws.integers(-7, 8, size=(64, 5))
    integers[::32] = 7
    steps = np.repeat(draws.uniform(0.01, 1, size=(2, 5)).astype(np.float16), 32, axis=0)
    weight = integers * steps.astype(np.float32)
    values, scales = int4_blocks(weight, 32)
    assert scales.dtype == np.float16
    np.testing.assert_allclose(of_blocks(values, scales, 64), weight, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-5, 1e6])
def test_scales_that_float16_does_not_hold_stay_float32(size):
    """Its least normal number is 6.1e-5, its largest 65,504."""
    steps = np.float32(size) * np.float32([-7, 3, 1, 0])
    values, scales = int4_blocks(np.tile(steps, 4)[:, None], 16)
    assert scales.dtype == np.float32
    np.testing.assert_allclose(of_blocks(values, scales, 16)[:4, 0], steps, rtol=1e-6)


def test_a_block_next_to_nothing_beside_others_loses_little_of_their_step():
    weight = np.zeros((32, 1), np.float32)
    weight[:16, 0], weight[16:, 0] = 7 * 2.0**-14, 1e-9
    values, scales = int4_blocks(weight, 16)
    assert scales.dtype == np.float16
    assert np.abs(of_blocks(values, scales, 32) - weight).max() <= 2.0**-14 / 32


def test_many_blocks_are_the_same_as_each_by_itself():
    """More of them than are searched at once."""
    weight = np.random.default_rng(2).standard_normal((64, 2200)).astype(np.float32)
    values, scales = int4_blocks(weight, 16)
    for column in (0, 1023, 1024, 2199):
        own, own_scales = int4_blocks(weight[:, column : column + 1], 16)
        np.testing.assert_array_equal(values[column], own[0])
        np.testing.assert_array_equal(scales[column], own_scales[0])


def test_blocks_are_packed_two_a_byte_with_eight_for_zero():
    assert packed_blocks(np.int8([[[-8, 7, 0, 1]]])).tolist() == [[[0xF0, 0x98]]]
