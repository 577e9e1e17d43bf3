"""How much larger weights are made before rounding, and where their grids end.

A weight's rounding error does not grow with it as long as its grid stays, so the columns that meet
large inputs are multiplied by s and their inputs divided: Q(w s) (x / s). Scales are s = s_X^a, s_X
the mean absolute input of each channel and a from 0 to 1, the one whose outputs are nearest. Then
the grid of each channel (or block) is made to reach as far as is best for what that part of the
weights gives. Inputs take part as the sums of their products, so no samples are kept.
Source: Lin et al. 2024, arXiv:2306.00978, sections 3.2 (equations 2 to 5) and 5.1 (clipping by
mean squared error); scales are normed by the root of largest times smallest, as in its code.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from edgekit.compress.quantization.clipping import full_scales, nearest
from edgekit.compress.quantization.gptq import Grid
from edgekit.compress.training.grids import in_blocks

EXPONENTS = tuple(place / 20 for place in range(21))
# Scales below this, before they are normed, are those of channels that carry nothing.
_LEAST = 1e-4
_SHARES = tuple(1 - place / 50 for place in range(26))


def awq_scales(means: Tensor, exponent: float) -> Tensor:
    """What the weights of each channel are multiplied by.

    Shapes: means of absolute inputs, (channels,) -> the same.
    """
    scales = means.double().pow(exponent).clamp_min(_LEAST)
    return scales / (scales.max() * scales.min()).sqrt()


def rounded_scaled(weight: Tensor, factors: Tensor, grid: Grid) -> Tensor:
    """What is left of weights that are scaled, rounded and scaled back.

    Shapes: weight (groups, rows, columns), factors (groups, 1, columns).
    """
    scaled = weight.double() * factors
    return nearest(scaled, grid.whole(scaled), grid.top) / factors


def clipped_by_outputs(weight: Tensor, products: Tensor, grid: Grid) -> Tensor:
    """The steps of all weights whose grids lose least of what each channel, or block, gives.

    Shapes: weight (groups, rows, columns), products (groups, columns, columns) -> as the weight.
    """
    full = full_scales(grid.blocks(weight), grid.top)
    local = _local(products, grid.blocks(weight).shape[-1])
    best, least = torch.empty_like(weight), torch.full_like(full[..., 0], torch.inf)
    for steps in _steps(weight, full, grid):
        lost = grid.blocks(weight - nearest(weight, steps, grid.top)).transpose(1, 2)
        energy = ((lost @ local) * lost).sum(dim=-1).transpose(1, 2)
        is_less = grid.shared((energy < least)[..., None], weight)
        best = torch.where(is_less, steps, best)
        least = torch.minimum(energy, least)
    return best


def _steps(weight: Tensor, full: Tensor, grid: Grid) -> Iterator[Tensor]:
    """The steps that are tried, from those that hold the largest weight down."""
    for share in _SHARES:
        yield grid.stored(grid.shared(full * share, weight))


def _local(products: Tensor, size: int) -> Tensor:
    """The products of each block with itself. Shapes: -> (groups, blocks, size, size)."""
    split = in_blocks(in_blocks(products, size).movedim(1, -1), size)
    return split.diagonal(dim1=1, dim2=3).permute(0, 3, 2, 1)
