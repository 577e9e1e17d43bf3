"""Ranks from spectra: how many directions keep a share of the energy."""

import torch
from torch import Tensor

Ranks = tuple[int, ...]
# Of the energies' sum: what rounding errors of float64 may leave in a tail that is truly empty.
_ROUNDING = 1e-12


def tail_energies(energies: Tensor) -> Tensor:
    """What is lost when the first r are kept, for r from 0 to all.

    Shapes: energies (n,), falling -> (n + 1,).
    """
    # Summed from the small end, so that a small tail is exact.
    tails = energies.flip(0).cumsum(0).flip(0)
    return torch.cat([tails, torch.zeros(1, dtype=energies.dtype)])


def energy_rank(energies: Tensor, energy: float) -> int:
    """The smallest rank that keeps this share of the energy, 1 at least.

    Shapes: energies (n,), falling.
    """
    allowed = (1 - energy + _ROUNDING) * energies.sum()
    is_enough = tail_energies(energies)[1:] <= allowed
    return int(is_enough.int().argmax()) + 1


def energy_ranks(energies: tuple[Tensor, ...], energy: float) -> Ranks:
    """Ranks that keep this share of the energy in all; the modes share evenly in what is lost."""
    lost = (1 - energy) / len(energies)
    return tuple(energy_rank(item, 1 - lost) for item in energies)


def ratio_ranks(full: Ranks, ratio: float) -> Ranks:
    """A share of each full rank, rounded up."""
    # Rounded first: 0.1 * 30 is a little more than 3 in binary.
    return tuple(max(1, -int(-round(size * ratio, 9) // 1)) for size in full)


def rounded_up(rank: int, full: int, multiple: int) -> int:
    """The next multiple, or the full rank where that is less."""
    return min(full, -(-rank // multiple) * multiple)
