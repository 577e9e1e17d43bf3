"""How far a grid of integers reaches: a smaller step for many weights, a clipped value for few.

What is lost of a row of weights w with the step s and integers up to n is
sum_j h_j (w_j - s clip(round(w_j / s), -n, n))^2, with h_j what the squared input j is on average.
The best of some shares of the full range is taken; 1 is among them, so it never loses more.
Source: Nagel et al. 2021, arXiv:2106.08295, section 3.1 (ranges by mean squared error).
"""

import torch
from torch import Tensor

SHARES = torch.linspace(0.5, 1.0, 51, dtype=torch.float64)


def full_scales(weight: Tensor, top: int) -> Tensor:
    """The step with which each row's largest weight is the largest integer; 1 for rows of zeros.

    Shapes: (..., columns) -> (..., 1).
    """
    largest = weight.abs().amax(dim=-1, keepdim=True)
    return torch.where(largest > 0, largest, torch.full_like(largest, top)) / top


def clipped_scales(weight: Tensor, top: int, importance: Tensor | None = None) -> Tensor:
    """The step of each row that loses least.

    importance: of an error in each column, 0 or more; none counts all alike.
    Shapes: weight (..., columns), importance broadcast to it -> (..., 1).
    """
    full = full_scales(weight, top)
    best, least = full, _lost(weight, full, top, importance)
    for share in SHARES.flip(0)[1:].tolist():
        scales = full * share
        lost = _lost(weight, scales, top, importance)
        best = torch.where(lost < least, scales, best)
        least = torch.minimum(lost, least)
    return best


def nearest(weight: Tensor, scales: Tensor, top: int) -> Tensor:
    """Each weight at the nearest value of its grid. Shapes: scales broadcast to the weight's."""
    return (weight / scales).round().clamp(-top, top) * scales


def _lost(weight: Tensor, scales: Tensor, top: int, importance: Tensor | None) -> Tensor:
    errors = (weight - nearest(weight, scales, top)).square()
    return (errors if importance is None else errors * importance).sum(dim=-1, keepdim=True)
