"""Pruning by second order: what goes is made up for by the weights that stay.

For a linear layer the squared error of its outputs has the same Hessian for every row of weights,
H = 2 X^T X. With H^-1 = U^T U (U upper triangular, from Cholesky's method), removing weight j and
correcting those behind it costs w_j^2 / U_jj^2 and adds -w_j / U_jj * U_jk to each weight k > j:
optimal brain surgery (Hassibi & Stork 1993) with the columns before j frozen. Columns go one after
another; which weights of a block of columns go is chosen when the block is reached.

Columns before j could make up for weight j as well. So the weights that stay are polished at the
end: conjugate gradients on each row bring them towards the least-squares solution on the support
that was found, which for a single weight is optimal brain surgery in full.

Source: Frantar & Alistarh 2023, arXiv:2301.00774, sections 3.2 to 3.5 and algorithm 1; Hestenes &
Stiefel 1952, doi:10.6028/jres.049.044 (conjugate gradients).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit.compress.sparsity.sparse_pick import kept_anywhere, kept_in_groups
from edgekit.core.errors import StepError

# Of the mean diagonal, and the most columns a block: arXiv:2301.00774, section 4, and its code.
DAMPING = 0.01
BLOCK_COLUMNS = 128
# A block is chosen at once, so what goes of it cannot be made up for by the rest of it: a layer of
# few columns needs several. Error at 80% zeros with correlated inputs, 64 columns, against one
# block: halves .92, quarters .84, eighths .88, sixteenths .91 (mean of 3 seeds, 2026-11).
FEWEST_BLOCKS = 4
POLISH_STEPS = 32
_CONVERGED = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Solver:
    """How a layer is solved.

    damping: of the Hessian, as a share of its mean diagonal. block_columns: whose weights are
    chosen at once; 0 takes a quarter of all columns, and BLOCK_COLUMNS at most. polish_steps: of
    conjugate gradients, at most.
    """

    damping: float = DAMPING
    block_columns: int = 0
    polish_steps: int = POLISH_STEPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """Weights after pruning, exact zeros among them, and the mask (True stays)."""

    weight: Tensor
    mask: Tensor


def sparsegpt(
    weight: Tensor,
    products: Tensor,
    zeros_ratio: float,
    *,
    group: int = 0,
    keep: Tensor | None = None,
    solver: Solver | None = None,
) -> Solved:
    """Prune a layer and correct what stays.

    group: neighbours in a row that each get the same share of zeros; 0 looks at blocks of columns.
    keep: a mask whose zeros are among those of the result.
    Shapes: weight (rows, columns); products, the sum of x x^T, (columns, columns), or (groups,
    columns, columns) for a convolution whose rows come in groups with inputs of their own.
    Raises: StepError for inputs that are all zero, and columns that are no whole groups.
    """
    solver, columns = solver or Solver(), weight.shape[1]
    if group and columns % group:
        raise StepError(f"{columns} columns are no whole groups of {group}")
    products = products.reshape(-1, columns, columns)
    hessian = damped_products(products, solver.damping)
    # What never comes in costs nothing, whatever the damping makes of it.
    is_coming = products.diagonal(dim1=1, dim2=2) > 0
    shape = (len(products), -1, columns)
    original = weight.detach().double().reshape(shape)
    there = torch.ones_like(weight, dtype=torch.bool) if keep is None else keep
    work, mask = original.clone(), there.reshape(shape).clone()
    width = _width(columns, solver.block_columns, group)
    _eliminate_blocks_(work, mask, inverse_factor(hessian), is_coming, zeros_ratio, width, group)
    work = polished(work, original, mask, hessian, solver.polish_steps)
    return Solved(
        weight=work.reshape(weight.shape).to(weight.dtype), mask=mask.reshape(weight.shape)
    )


def damped_products(products: Tensor, damping: float = DAMPING) -> Tensor:
    """Half the Hessian: the products plus a share of their mean diagonal.

    The factor 2 is left out: neither the choice nor the correction depends on it.
    Shapes: (groups, columns, columns) both, float64.
    Raises: StepError for products that are all zero.
    """
    second = products.double()
    mean = second.diagonal(dim1=1, dim2=2).mean(dim=1)
    if not bool((mean > 0).any()):
        raise StepError("the layer gets nothing but zeros on the calibration data")
    # A group of a convolution that gets only zeros has no diagonal of its own.
    share = damping * torch.where(mean > 0, mean, mean.mean())
    eye = torch.eye(second.shape[-1], dtype=second.dtype, device=second.device)
    return second + share[:, None, None] * eye


def inverse_factor(hessian: Tensor) -> Tensor:
    """The upper triangular U with hessian^-1 = U^T U. Shapes: (groups, columns, columns) both."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper


def polished(weight: Tensor, original: Tensor, mask: Tensor, hessian: Tensor, steps: int) -> Tensor:
    """Weights on the same support whose outputs are nearer to those of the original ones.

    Conjugate gradients with the diagonal as preconditioner, all rows at once: each step brings
    (w - original) H (w - original)^T down for every row, and none takes it up.
    Shapes: weight, original and mask (groups, rows, columns), hessian (groups, columns, columns).
    """
    scale = hessian.diagonal(dim1=1, dim2=2)[:, None]
    result = weight.clone()
    left = ((original - weight) @ hessian) * mask
    direction = left / scale
    size = (left * direction).sum(dim=-1, keepdim=True)
    enough = _CONVERGED * size
    for _ in range(steps):
        is_going = size > enough
        if not bool(is_going.any()):
            break
        pushed = (direction @ hessian) * mask
        length = torch.where(is_going, size / (direction * pushed).sum(dim=-1, keepdim=True), 0.0)
        result += length * direction
        left -= length * pushed
        nearer = left / scale
        new_size = (left * nearer).sum(dim=-1, keepdim=True)
        direction = nearer + torch.where(is_going, new_size / size, 0.0) * direction
        size = torch.where(is_going, new_size, size)
    return result


def _width(columns: int, asked: int, group: int) -> int:
    """Columns a block; whole groups."""
    width = asked or min(BLOCK_COLUMNS, -(-columns // FEWEST_BLOCKS))
    return max(group, width - width % group) if group else width


def _zeros_of_block(kept: Tensor, later: Tensor, wanted: int) -> int:
    """The zeros that a block gets of those wanted in it and the later ones, an even share.

    Zeros that are there already count, in this block and in the later ones.
    """
    share = round(wanted * kept.numel() / (kept.numel() + later.numel()))
    return max(0, min(share, wanted - int((~later).sum())))


def _eliminate_blocks_(
    work: Tensor,
    mask: Tensor,
    factor: Tensor,
    is_coming: Tensor,
    zeros_ratio: float,
    width: int,
    group: int,
) -> None:
    """Choose and eliminate weights, block of columns after block, with what they leave behind.

    Shapes: work and mask (groups, rows, columns), factor (groups, columns, columns), is_coming
    (groups, columns).
    """
    prices = factor.diagonal(dim1=1, dim2=2).square().reciprocal() * is_coming
    columns, wanted = work.shape[-1], round(zeros_ratio * work.numel())
    for start in range(0, columns, width):
        end = min(start + width, columns)
        block, kept = work[..., start:end], mask[..., start:end]
        local, costs = factor[:, start:end, start:end], prices[:, None, start:end]
        if not group:
            done = int((~mask[..., :start]).sum())
            zeros = _zeros_of_block(kept, mask[..., end:], wanted - done)
            kept.copy_(kept_anywhere(block.square() * costs, zeros, kept))
        zeros = round(zeros_ratio * group)
        errors = _eliminate_(block, kept, local, costs, zeros, group)
        work[..., end:] -= errors @ factor[:, start:end, end:]


def _eliminate_(
    block: Tensor, kept: Tensor, local: Tensor, costs: Tensor, zeros: int, group: int
) -> Tensor:
    """Make weights of a block zero, column by column; what they leave to the later columns.

    zeros, group: a pattern, chosen as its columns are reached; group 0 takes ``kept`` as it is.
    costs: of a weight of 1 in each column.
    Shapes: block, kept and the result (groups, rows, columns), local (groups, columns, columns),
    costs (groups, 1, columns).
    """
    errors = torch.zeros_like(block)
    for column in range(block.shape[-1]):
        if group and column % group == 0:
            here = slice(column, column + group)
            scores = block[..., here].square() * costs[..., here]
            kept[..., here] = kept_in_groups(scores, zeros, group, kept[..., here])
        present = block[..., column]
        left = present.masked_fill(~kept[..., column], 0.0)
        error = (present - left) / local[:, None, column, column]
        block[..., column:] -= error[..., None] * local[:, None, column, column:]
        block[..., column] = left
        errors[..., column] = error
    return errors
