"""Rotations against scipy's Hadamard matrices, and against what defines them."""

import math

import pytest
import scipy.linalg
import torch

from edgekit.compress.quantization.hadamard import (
    hadamard,
    mean_keeping_rotation,
    spreading_rotation,
)

# Rounding of float64 in sums of at most 768 products.
EXACT = 1e-12


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def is_rotation(matrix):
    eye = torch.eye(len(matrix), dtype=matrix.dtype)
    return bool((matrix @ matrix.T - eye).abs().max() < EXACT)


@pytest.mark.parametrize("order", [1, 2, 4, 8, 64, 256])
def test_powers_of_two_are_sylvesters_as_scipy_has_them(order):
    assert torch.equal(hadamard(order), torch.from_numpy(scipy.linalg.hadamard(order)).double())


@pytest.mark.parametrize("order", [12, 20, 28, 36, 44, 24, 96, 384, 768])
def test_orders_with_an_odd_part_have_entries_of_one_and_orthogonal_rows(order):
    matrix = hadamard(order)
    assert matrix.abs().eq(1).all()
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize("order", [3, 6, 10, 52, 172])
def test_orders_without_a_construction_are_none(order):
    assert hadamard(order) is None


@pytest.mark.parametrize("order", [2, 12, 64, 768])
def test_one_large_channel_is_spread_evenly_over_all(order):
    matrix = spreading_rotation(order, draws())
    assert is_rotation(matrix)
    torch.testing.assert_close(
        matrix.abs(), torch.full_like(matrix, 1 / math.sqrt(order)), rtol=EXACT, atol=0
    )


@pytest.mark.parametrize("order", [1, 3, 7, 52, 172, 86])
def test_odd_parts_are_turned_by_a_random_rotation(order):
    assert is_rotation(spreading_rotation(order, draws()))


@pytest.mark.parametrize("order", [2, 3, 4, 12, 16, 64, 96, 128, 172, 384])
def test_the_mean_stays_where_the_ones_are_kept(order):
    matrix = mean_keeping_rotation(order, draws())
    assert is_rotation(matrix)
    vectors = torch.randn(5, order, generator=draws(1), dtype=torch.float64)
    torch.testing.assert_close((vectors @ matrix).mean(-1), vectors.mean(-1))
    torch.testing.assert_close((vectors @ matrix).var(-1), vectors.var(-1))


@pytest.mark.parametrize("order", [16, 64, 256])
def test_powers_of_four_keep_the_ones_and_have_equal_entries(order):
    matrix = mean_keeping_rotation(order, draws())
    torch.testing.assert_close(matrix.abs(), torch.full_like(matrix, 1 / math.sqrt(order)))


@pytest.mark.parametrize("order", [96, 384, 768])
def test_other_orders_leave_no_channel_more_than_a_fraction(order):
    # Of one channel's energy at most a tenth stays in one place.
    assert mean_keeping_rotation(order, draws()).square().max() < 0.12


@pytest.mark.parametrize("make", [spreading_rotation, mean_keeping_rotation])
def test_a_seed_gives_the_same_matrix_and_another_seed_another(make):
    assert torch.equal(make(24, draws(3)), make(24, draws(3)))
    assert not torch.equal(make(24, draws(3)), make(24, draws(4)))
