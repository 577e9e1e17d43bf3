"""Pruning by weights and activations: what adds least to its own output goes.

Score of weight (i, j): |w_ij| * ||x_j||_2, with the norm of input j over all vectors of the
calibration data; scores are compared within the row of one output. The remaining weights stay as
they are. Source: Sun et al. 2023, arXiv:2306.11695, section 3.
"""

import torch
from torch import Tensor

from edgekit.compress.sparsity.sparse_pick import kept_in_groups, kept_in_rows


def wanda_mask(
    weight: Tensor,
    norms: Tensor,
    zeros_ratio: float,
    *,
    group: int = 0,
    keep: Tensor | None = None,
) -> Tensor:
    """A mask (True stays) with this share of zeros in every row.

    group: neighbours in a row that each get the same share; 0 looks at whole rows. keep: a mask
    whose zeros are among those of the result.
    Shapes: weight (rows, columns); norms (columns,), or (groups, columns) for a convolution whose
    rows come in groups with inputs of their own -> (rows, columns).
    """
    scores = weight.detach().abs().double() * _for_rows(norms, len(weight))
    there = torch.ones_like(weight, dtype=torch.bool) if keep is None else keep
    if group:
        return kept_in_groups(scores, round(zeros_ratio * group), group, there)
    return kept_in_rows(scores, zeros_ratio, there)


def _for_rows(norms: Tensor, rows: int) -> Tensor:
    """The norms of each row's inputs. Shapes: (rows, columns)."""
    groups = norms.reshape(-1, norms.shape[-1]).double()
    return groups.repeat_interleave(rows // len(groups), dim=0)
