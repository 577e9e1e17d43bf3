"""Rounding by second order: what one weight loses is made up for by those that are rounded later.

The squared error of a linear layer's outputs has the same Hessian for every row of weights,
H = 2 X^T X. With H^-1 = U^T U (U upper triangular, from Cholesky's method), rounding weight j to
q_j leaves the error (w_j - q_j) / U_jj, and that times U_jk is taken from each weight k > j.
Columns go one after another, those with the largest inputs first, because the last ones have
nothing left to make up for them. Steps of the grid are chosen before (``clipping``).

A grid that is found again in the exported file just holds its largest weight, so one weight of each
channel (or block) must be the largest integer. Where none is, the step is made smaller and the
channel is solved once more.
Source: Frantar et al. 2023, arXiv:2210.17323, sections 3.2 and 3.3 and algorithm 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit.compress.quantization.clipping import clipped_scales, full_scales, nearest
from edgekit.compress.quantization.descent import descended
from edgekit.compress.sparsity.sparsegpt import damped_products, inverse_factor
from edgekit.compress.training.grids import has_blocks, in_blocks, out_of_blocks
from edgekit.compress.training.rounding import short_scales

# Columns whose corrections to later ones are added up before they are applied: speed alone.
_LAZY_COLUMNS = 128
_RESCALES = 6
SWEEPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A symmetric grid. top: the largest integer. block_size: columns that share a step; 0 is all.

    Blocks that do not divide the columns are not used, or with has_short_blocks the last one is
    filled up with zeros.
    """

    top: int
    block_size: int = 0
    has_short_blocks: bool = False

    def blocks(self, weight: Tensor) -> Tensor:
        """Weights in blocks that share a step. Shapes: (..., columns) -> (..., blocks, size)."""
        return in_blocks(weight, self.block_size if self._has_blocks(weight) else weight.shape[-1])

    def shared(self, values: Tensor, weight: Tensor) -> Tensor:
        """What each weight gets of its block. Shapes: (..., blocks, 1 or size) -> the weight's."""
        return out_of_blocks(values.expand_as(self.blocks(weight)), weight.shape[-1])

    def scales(self, weight: Tensor, importance: Tensor | None = None) -> Tensor:
        """The step of every weight, clipped where that loses less.

        Shapes: weight (..., columns), importance (columns) or broadcast to it -> as the weight.
        """
        weighed = None if importance is None else self.blocks(importance.expand_as(weight))
        found = clipped_scales(self.blocks(weight), self.top, weighed)
        return self.stored(self.shared(found, weight))

    def whole(self, weight: Tensor) -> Tensor:
        """The step of every weight that holds the largest of its block. Shapes: the same."""
        return self.stored(self.shared(full_scales(self.blocks(weight), self.top), weight))

    def stored(self, scales: Tensor) -> Tensor:
        """Steps of every weight as files hold them."""
        return short_scales(scales) if self._has_blocks(scales) else scales

    def _has_blocks(self, weight: Tensor) -> bool:
        columns = weight.shape[-1]
        return has_blocks(columns, self.block_size, has_short=self.has_short_blocks)


def round_nearest(weight: Tensor, grid: Grid, importance: Tensor | None = None) -> Tensor:
    """Each weight by itself, on steps that lose least. Shapes: (..., columns) -> the same."""
    values = weight.detach().double()
    return nearest(values, grid.scales(values, importance), grid.top).to(weight.dtype)


def gptq(
    weight: Tensor,
    products: Tensor,
    grid: Grid,
    *,
    keep: Tensor | None = None,
    sweeps: int = SWEEPS,
) -> Tensor:
    """Weights on a grid whose outputs are near those of the original ones.

    keep: a mask of the weight's shape; where it is False the result is zero. sweeps: over all
    columns afterwards (``descent``), at most; 0 is GPTQ alone.
    Shapes: weight (rows, columns); products, the sum of x x^T, (columns, columns), or (groups,
    columns, columns) for a convolution whose rows come in groups with inputs of their own.
    Raises: StepError for inputs that are all zero.
    """
    columns = weight.shape[1]
    products = products.reshape(-1, columns, columns)
    shape = (len(products), -1, columns)
    original = weight.detach().double().reshape(shape)
    there = torch.ones_like(original, dtype=torch.bool) if keep is None else keep.reshape(shape)
    solver = _Solver(original, products, there)
    scales = grid.scales(original, products.diagonal(dim1=1, dim2=2)[:, None].double())
    found = solver.solved(scales, grid.top)
    for _ in range(_RESCALES):
        share = _reached(found, scales, original, grid) / grid.top
        if bool((share == 1).all()):
            break
        scales = grid.stored(scales * share)
        found = solver.solved(scales, grid.top)
    is_short = _reached(found, scales, original, grid) < grid.top
    scales = torch.where(is_short, grid.whole(original), scales)
    found = torch.where(is_short, nearest(original, scales, grid.top) * there, found)
    found = descended(
        found,
        original,
        damped_products(products),
        scales,
        top=grid.top,
        is_free=there & ~_holds_the_scale(found, scales, grid),
        sweeps=sweeps,
    )
    return found.reshape(weight.shape).to(weight.dtype)


def output_error(weight: Tensor, rounded: Tensor, products: Tensor) -> float:
    """The squared error of a layer's outputs over their own squares. Shapes: as ``gptq``."""
    columns = weight.shape[1]
    products = products.reshape(-1, columns, columns).double()
    shape = (len(products), -1, columns)
    wanted = weight.detach().double().reshape(shape)
    lost = wanted - rounded.detach().double().reshape(shape)
    return float(_energy(lost, products) / _energy(wanted, products).clamp_min(1e-300))


def _energy(weight: Tensor, products: Tensor) -> Tensor:
    return ((weight @ products) * weight).sum()


def _reached(found: Tensor, scales: Tensor, original: Tensor, grid: Grid) -> Tensor:
    """The largest integer of each weight's block; the grid's own where the block is zeros."""
    blocks = grid.blocks((found / scales).abs().round())
    largest = blocks.amax(dim=-1, keepdim=True).clamp_min(1)
    is_there = grid.blocks(original).any(dim=-1, keepdim=True)
    reached = torch.where(is_there, largest, torch.full_like(largest, grid.top))
    return grid.shared(reached, original)


def _holds_the_scale(found: Tensor, scales: Tensor, grid: Grid) -> Tensor:
    """One weight of each block, the first of the largest ones."""
    blocks = grid.blocks((found / scales).abs().round())
    first = blocks.argmax(dim=-1, keepdim=True)
    held = torch.zeros_like(blocks, dtype=torch.bool).scatter(-1, first, value=True)
    return grid.shared(held, found)


class _Solver:
    """One layer, its columns in the order in which they are rounded."""

    def __init__(self, original: Tensor, products: Tensor, keep: Tensor) -> None:
        hessian = damped_products(products)
        order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
        self._order = order[:, None].expand_as(original)
        self._back = self._order.argsort(dim=-1)
        rows = order[:, :, None].expand_as(hessian)
        turned = hessian.gather(1, rows).gather(2, order[:, None].expand_as(hessian))
        self._factor = inverse_factor(turned)
        self._weight, self._keep = (item.gather(2, self._order) for item in (original, keep))

    def solved(self, scales: Tensor, top: int) -> Tensor:
        """Every column rounded, with what it leaves to those after it."""
        work, steps = self._weight.clone(), scales.gather(2, self._order)
        columns = work.shape[-1]
        for start in range(0, columns, _LAZY_COLUMNS):
            end = min(start + _LAZY_COLUMNS, columns)
            errors = self._round_(work, steps, start, end, top)
            work[..., end:] -= errors @ self._factor[:, start:end, end:]
        return work.gather(2, self._back)

    def _round_(self, work: Tensor, steps: Tensor, start: int, end: int, top: int) -> Tensor:
        errors = torch.zeros_like(work[..., start:end])
        for column in range(start, end):
            line = self._factor[:, None, column, column:end]
            present = work[..., column].clone()
            rounded = nearest(present, steps[..., column], top) * self._keep[..., column]
            error = (present - rounded) / line[..., 0]
            work[..., column:end] -= error[..., None] * line
            work[..., column] = rounded
            errors[..., column - start] = error
        return errors
