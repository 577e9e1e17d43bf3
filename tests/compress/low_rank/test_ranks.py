"""Ranks from spectra, by hand."""

import pytest
import torch

from edgekit.compress.low_rank.ranks import (
    energy_rank,
    energy_ranks,
    ratio_ranks,
    rounded_up,
    tail_energies,
)

# Squared singular values 4, 3, 2, 1 of 10 in all.
SPECTRUM = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)


def test_tails_are_what_is_left_after_the_first_ranks():
    assert tail_energies(SPECTRUM).tolist() == [10.0, 6.0, 3.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("energy", "rank"), [(0.3, 1), (0.4, 1), (0.41, 2), (0.7, 2), (0.71, 3), (0.91, 4), (1.0, 4)]
)
def test_rank_is_the_smallest_that_keeps_the_energy(energy, rank):
    assert energy_rank(SPECTRUM, energy) == rank


def test_all_energy_of_a_low_rank_matrix_is_in_its_rank():
    generator = torch.Generator().manual_seed(0)
    thin = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    values = torch.linalg.svdvals(thin @ thin.T) ** 2
    assert energy_rank(values, 1.0) == 3


def test_two_modes_share_what_may_be_lost():
    # To keep 0.7 may lose 0.3: one mode may lose it all at rank 2, two may lose 0.15 each.
    assert energy_ranks((SPECTRUM,), 0.7) == (2,)
    assert energy_ranks((SPECTRUM, SPECTRUM), 0.7) == (3, 3)


def test_zeros_still_have_a_rank_of_one():
    assert energy_rank(torch.zeros(4, dtype=torch.float64), 0.9) == 1


def test_a_ratio_is_rounded_up_and_never_nothing():
    assert ratio_ranks((30, 10), 0.1) == (3, 1)
    assert ratio_ranks((31,), 0.1) == (4,)
    assert ratio_ranks((4,), 0.01) == (1,)


@pytest.mark.parametrize(
    ("rank", "full", "rounded"), [(1, 64, 8), (8, 64, 8), (9, 64, 16), (9, 12, 12), (60, 60, 60)]
)
def test_rounding_goes_up_to_a_multiple_and_never_past_the_full_rank(rank, full, rounded):
    assert rounded_up(rank, full, 8) == rounded
