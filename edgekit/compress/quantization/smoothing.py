"""How far each channel of activations is shrunk so that 8 bits hold it, and what that costs.

Y = (X diag(s)^-1) (diag(s) W), with s_j = max|X_j|^a / max|W_j|^(1-a): the larger a, the more of
the activations' range goes into the weights. Activations have one scale and one zero point for the
whole tensor, weights a scale for each output channel.
Source: Xiao et al. 2023, arXiv:2211.10438, equations 3 and 4.
"""

import torch
from torch import Tensor

from edgekit.compress.quantization.clipping import full_scales, nearest
from edgekit.compress.quantization.rescale_groups import MOST

WEIGHT_TOP, ACTIVATION_STEPS = 127, 255


def smoothing_scales(inputs: Tensor, weights: Tensor, strength: float) -> Tensor:
    """What each channel of the activations is divided by; 1 where it, or its weights, are zero.

    Shapes: the largest absolute values (channels,), of the activations and of the weights.
    """
    is_open = (inputs > 0) & (weights > 0)
    inputs, weights = (torch.where(is_open, item.double(), 1.0) for item in (inputs, weights))
    scales = inputs.pow(strength) / weights.pow(1 - strength)
    return torch.where(is_open, scales.clamp(1 / MOST, MOST), 1.0)


def asymmetric(values: Tensor, low: float, high: float) -> Tensor:
    """Values on 256 steps from ``low`` to ``high``, zero among them. Shapes: the same."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / ACTIVATION_STEPS
    if step == 0:
        return values
    zero = round(-low / step)
    return ((values / step).round() + zero).clamp(0, ACTIVATION_STEPS).sub(zero) * step


def int8_error(weight: Tensor, rows: Tensor, factors: Tensor, low: float, high: float) -> float:
    """The squared error of a layer's outputs in INT8 over their own squares.

    factors: what the columns of the inputs are divided by and those of the weight multiplied.
    low, high: of all inputs after that.
    Shapes: weight (groups, rows, columns), rows (groups, vectors, columns), factors (groups, 1,
    columns).
    """
    scaled = weight * factors
    rounded = nearest(scaled, full_scales(scaled, WEIGHT_TOP), WEIGHT_TOP)
    seen = asymmetric(rows / factors, low, high)
    wanted = rows @ weight.transpose(1, 2)
    lost = seen @ rounded.transpose(1, 2) - wanted
    return float(lost.square().sum() / wanted.square().sum().clamp_min(1e-30))
