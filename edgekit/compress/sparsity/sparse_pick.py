"""Which weights go: as many of the lowest scores as are wanted, exactly and without chance.

Scores are matrices with a row for each output (``sparse_layers``); higher stays. Weights that are
zero for good already are always among those that go. Equal scores go in the order of their places.
"""

import torch
from torch import Tensor

from edgekit.core.errors import StepError

# Scores are 0 or more, so this is below all of them.
_GONE = -1.0


def lowest(scores: Tensor, counts: Tensor) -> Tensor:
    """The places of the lowest scores of each row.

    Shapes: scores (rows, columns), counts (rows,) whole numbers -> (rows, columns) of bool.
    """
    order = scores.argsort(dim=1, stable=True)
    ranks = torch.empty_like(order)
    places = torch.arange(scores.shape[1], device=scores.device)
    ranks.scatter_(1, order, places.expand_as(order))
    return ranks < counts[:, None]


def kept_anywhere(scores: Tensor, zeros: int, keep: Tensor) -> Tensor:
    """A mask with ``zeros`` zeros wherever the scores are lowest; more where ``keep`` has more.

    Shapes: scores and keep (True stays) alike, of any shape -> the same.
    """
    if zeros <= 0:
        return keep.clone()
    ranked = scores.masked_fill(~keep, _GONE).reshape(-1)
    limit = ranked.kthvalue(zeros).values
    gone = ranked < limit
    at_limit = (ranked == limit).nonzero().flatten()
    gone[at_limit[: zeros - int(gone.sum())]] = True
    return ~gone.reshape(scores.shape) & keep


def kept_in_rows(scores: Tensor, ratio: float, keep: Tensor) -> Tensor:
    """A mask with the same share of zeros in every row.

    A row has a whole number of zeros, so rows differ by one where the share asks for it: the sum
    over all rows is the share of the matrix. One weight of each row stays.
    Shapes: scores and keep (rows, columns) -> the same.
    """
    rows, columns = scores.shape
    wanted = [round(ratio * columns * row) for row in range(rows + 1)]
    counts = torch.tensor(wanted, device=scores.device).diff()
    ranked = scores.masked_fill(~keep, _GONE)
    return ~lowest(ranked, counts.clamp_max(columns - 1)) & keep


def kept_in_groups(scores: Tensor, zeros: int, group: int, keep: Tensor) -> Tensor:
    """A mask with ``zeros`` zeros in each ``group`` neighbours of a row; more where keep has more.

    Shapes: scores and keep (..., columns) -> the same.
    Raises: StepError when the columns are no whole groups.
    """
    if scores.shape[-1] % group:
        raise StepError(f"{scores.shape[-1]} columns are no whole groups of {group}")
    ranked = scores.masked_fill(~keep, _GONE).reshape(-1, group)
    counts = torch.full((len(ranked),), zeros, device=scores.device)
    return ~lowest(ranked, counts).reshape(scores.shape) & keep
