"""Rounding to a learned grid, and what the gradient makes of its step and its offset.

With the step s, values v and integers from -Qn to Qp, q = round(clip(v / s, -Qn, Qp)) and what is
seen is q s. The gradient of a value passes where -Qn < v / s < Qp and is zero elsewhere; that of
the step is q - v / s inside, -Qn below, Qp above. A grid of integers 0..255 with the offset b sees
round(clip((v - b) / s, 0, 255)) s + b; there the offset's gradient is 0 inside and 1 outside.
Offsets are whole steps, so that zero is on the grid, as every format of integers has it.

The gradient of a step is multiplied by 1 / sqrt(N Qp), N values that share it. Steps are trained
as ratios to what they began with, s = r s0, and r gets the step's gradient over s0: so gradient
descent moves s as the paper has it, and AdamW, which knows no scale, moves it by a share.
Source: Esser et al. 2020, arXiv:1902.08153, equations 1 to 3 and 5, section 2.2 (LSQ); Bhalgat et
al. 2020, arXiv:2004.09576, section 3.1 (LSQ+, offsets).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TOP = 255
# Of the step that training began with: one that is smaller tells no values apart any more.
COLLAPSED = 1e-3


def step_gradient_scale(values: int, top: int) -> float:
    """What the gradient of a step is multiplied by. values: how many share the step."""
    return 1 / math.sqrt(values * top)


def zero_point(step: Tensor, offset: Tensor) -> Tensor:
    """The integer of 0..255 that stands for zero, as a float."""
    return (-offset / step).round().clamp(0, TOP)


def seen(values: Tensor, step: Tensor, offset: Tensor, lowest: int = 0) -> Tensor:
    """Values as 8-bit integers hold them, with gradients of step and offset.

    lowest: the smallest integer that is used; 1 with zero at 128 is a grid that is as long below
    zero as above it.
    Shapes: values any, step and offset scalars -> as the values. dtype follows the values.
    """
    found: Tensor = _Seen.apply(values.float(), step, offset, lowest)  # type: ignore[no-untyped-call]
    return found.to(values.dtype)


def relative(ratio: Tensor, start: Tensor, factor: float) -> Tensor:
    """``start * ratio``, whose gradient comes to the ratio as ``factor / start`` of itself."""
    found: Tensor = _Relative.apply(ratio, start, factor)  # type: ignore[no-untyped-call]
    return found


def on_steps(weight: Tensor, steps: Tensor, top: int) -> Tensor:
    """Weights on symmetric grids. Shapes: weight (rows, columns), steps (rows, 1)."""
    return (weight / steps).clamp(-top, top).round() * steps


def through_rounding(
    weight: Tensor, steps: Tensor, top: int, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of weights and steps from that of the weights on their grids.

    That of the steps is multiplied by ``step_gradient_scale`` already.
    Shapes: weight, gradient (rows, columns), steps (rows, 1) -> (rows, columns), (rows, 1).
    """
    whole = weight / steps
    is_inside = whole.abs() < top
    share = torch.where(is_inside, whole.round() - whole, whole.sign() * top)
    scale = step_gradient_scale(weight.shape[1], top)
    return gradient * is_inside, (gradient * share).sum(dim=1, keepdim=True) * scale


class _Seen(torch.autograd.Function):
    """8-bit integers of one range."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: Tensor, offset: Tensor, lowest: int) -> Tensor:
        # What is seen is not kept: a model may change it in place.
        ctx.save_for_backward(values, step, offset)
        ctx.lowest = lowest
        return _rounded(values, step, offset, lowest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, step, offset = ctx.saved_tensors
        zero, lowest = zero_point(step, offset), ctx.lowest
        low, high = (lowest - zero) * step, (TOP - zero) * step
        is_inside = (values > low) & (values < high)
        inner = gradient * is_inside
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return inner, None, None, None
        moved = _rounded(values, step, offset, lowest) - values
        above = (gradient * (values >= high)).sum()
        outside = gradient.sum() - inner.sum()
        of_step = (inner * moved).sum() / step + TOP * above + lowest * (outside - above)
        return inner, of_step, outside, None


def _rounded(values: Tensor, step: Tensor, offset: Tensor, lowest: int) -> Tensor:
    point = zero_point(step, offset).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values, step, point, lowest, TOP)


class _Relative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ratio: Tensor, start: Tensor, factor: float) -> Tensor:
        ctx.start, ctx.factor = start, factor
        return ratio * start

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * (ctx.factor / ctx.start), None, None
