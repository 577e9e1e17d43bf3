"""Better integers than those found column by column: one weight at a time, again and again.

With all other weights of a row as they are, the squared error of its outputs is a parabola in one
weight, so the nearest grid value to its lowest point is the best one. Each sweep visits all columns
once, and none makes the error larger. One weight of each block that is the largest integer stays,
because a file's scale is found by it.
Source: Behdin et al. 2023, arXiv:2309.01885 (QuantEase), section 3.
"""

import torch
from torch import Tensor

from edgekit.compress.quantization.clipping import nearest


def descended(
    found: Tensor,
    original: Tensor,
    hessian: Tensor,
    scales: Tensor,
    *,
    top: int,
    is_free: Tensor,
    sweeps: int,
) -> Tensor:
    """Weights on the same grid whose outputs are nearer to those of the original ones.

    is_free: which weights may change.
    Shapes: found, original, scales and is_free (groups, rows, columns), hessian (groups, columns,
    columns).
    """
    result = found.clone()
    left = (original - result) @ hessian
    for _ in range(sweeps):
        has_moved = False
        for column in range(result.shape[-1]):
            line = hessian[:, None, column]
            present, step = result[..., column], scales[..., column]
            lowest = present + left[..., column] / line[..., column]
            wanted = nearest(lowest, step, top)
            # What is on the grid differs by whole steps or not at all.
            moves = is_free[..., column] & ((wanted - present).abs() > step / 2)
            if bool(moves.any()):
                change = torch.where(moves, wanted - present, 0.0)
                left -= change[..., None] * line
                result[..., column] = torch.where(moves, wanted, present)
                has_moved = True
        if not has_moved:
            break
    return result
