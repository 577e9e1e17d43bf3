"""Activations that a training sees rounded to 8-bit integers, each point with a range of its own.

Ranges begin where calibration puts them. With "lsq" they are learned with the weights (steps, and
offsets where values lie on both sides of zero); with "straight_through" they follow the batches by
a moving average of smallest and largest values. A range that holds no value below zero keeps zero
as its lower end.
Source: Jacob et al. 2018, arXiv:1712.05877, section 3.1 (moving average); Esser et al. 2020,
arXiv:1902.08153 (LSQ); Bhalgat et al. 2020, arXiv:2004.09576 (offsets).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekit.compress.training.activation_start import StartRange
from edgekit.compress.training.function_calls import Place
from edgekit.compress.training.function_rules import CLIPS
from edgekit.compress.training.lsq import (
    COLLAPSED,
    TOP,
    relative,
    seen,
    step_gradient_scale,
    zero_point,
)

# Of the range so far, at each batch: arXiv:1712.05877 asks for one "close to 1".
_KEPT = 0.99
# Steps on either side of zero, where both are alike.
_SIDE = 127
# Finite, because a moving average is taken of all tensors of a training.
_NO_END = 1e30


class ActivationRanges(nn.Module):
    """The ranges of one model's points.

    Shapes: all tensors (points). start: the first step. ratio: to it. shift: the offset over 255
    first steps. low, high: moving averages, used without learned steps. highest: what ratios may
    grow to.
    """

    start: Tensor
    low: Tensor
    high: Tensor
    highest: Tensor

    def __init__(
        self,
        places: Sequence[Place],
        ranges: Sequence[StartRange],
        *,
        is_learned: bool,
        is_symmetric: bool = False,
        device: torch.device,
    ) -> None:
        """is_symmetric: ranges reach as far below zero as above it, 127 steps each way."""
        super().__init__()
        self.places, self.is_learned, self.is_symmetric = tuple(places), is_learned, is_symmetric
        low = torch.tensor([item.low for item in ranges], device=device)
        high = torch.tensor([item.high for item in ranges], device=device)
        self.is_one_sided = [item.low == 0 for item in ranges]
        start = torch.maximum(-low, high) / _SIDE if is_symmetric else (high - low) / TOP
        # A clip ends at a bound: an artifact may leave it to the integers' own end.
        ends = [
            item.largest / item.high if place.function in CLIPS else _NO_END
            for place, item in zip(places, ranges, strict=True)
        ]
        self.register_buffer("start", start)
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.register_buffer("highest", torch.tensor(ends, device=device))
        if is_learned:
            self.ratio = nn.Parameter(torch.ones_like(start))
            self.shift = nn.Parameter(low / (high - low))

    def grid(self, index: int, values: int = 1) -> tuple[Tensor, Tensor]:
        """Step and offset of a point. values: of one sample, which share the step."""
        if not self.is_learned:
            return self._moving_grid(index)
        start, scale = self.start[index], step_gradient_scale(values, TOP)
        step = relative(self.ratio[index], start, scale)
        if self.is_symmetric:
            return step, -(_SIDE + 1) * step
        if self.is_one_sided[index]:
            return step, torch.zeros_like(start)
        return step, relative(self.shift[index], TOP * start, scale)

    def _moving_grid(self, index: int) -> tuple[Tensor, Tensor]:
        low, high = self.low[index], self.high[index]
        if self.is_symmetric:
            step = torch.maximum(-low, high) / _SIDE
            return step, -(_SIDE + 1) * step
        # A copy: it is kept for the gradient, and the next batch moves the average in place.
        return (high - low) / TOP, low.clone()

    def see(self, index: int, values: Tensor, *, is_training: bool) -> Tensor:
        """Values of a point as the artifact will hold them."""
        if is_training and not self.is_learned:
            self._follow(index, values)
        count = values[0].numel() if values.ndim else 1
        return seen(values, *self.grid(index, count), lowest=int(self.is_symmetric))

    @torch.no_grad()
    def _follow(self, index: int, values: Tensor) -> None:
        low, high = torch.aminmax(values.detach().float())
        self.low[index].lerp_(low.clamp(max=0.0), 1 - _KEPT)
        self.high[index].lerp_(high.clamp(min=0.0), 1 - _KEPT)

    @torch.no_grad()
    def settle_(self) -> None:
        """Bring steps back to where their clips end."""
        if self.is_learned:
            self.ratio.copy_(torch.minimum(self.ratio, self.highest))

    def collapsed(self) -> str:
        """What to say of a step that is next to nothing; "" where there is none."""
        if not self.is_learned:
            return ""
        least = int(self.ratio.detach().argmin())
        share = float(self.ratio[least].detach())
        if share >= COLLAPSED:
            return ""
        return (
            f"the step of the activations at '{self.places[least]}' fell to {share:.3g} of what it "
            "began with"
        )

    @torch.no_grad()
    def bounds(self) -> list[tuple[float, float]]:
        """The smallest and the largest value that the integers of each point stand for."""
        found = []
        for index in range(len(self.places)):
            step, offset = self.grid(index)
            low = (int(self.is_symmetric) - zero_point(step, offset)) * step
            found.append((float(low), float((TOP - zero_point(step, offset)) * step)))
        return found
