"""By how much the channels that some layers read are scaled: the strength that loses least."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit.compress.quantization.channel_inputs import ChannelInputs, column_factors
from edgekit.compress.quantization.rescale_groups import moves
from edgekit.compress.quantization.smoothing import int8_error
from edgekit.compress.sparsity.sparse_layers import SparseWeight
from edgekit.core.steps.smooth import AUTO, Smooth

# Ranges of activations are those of the calibration data, and what hardly came into a channel there
# may come larger elsewhere: a channel scaled up in full would leave the range. Static INT8 of
# MiniLM, lowest cosine of 200 sentences: 0.986 with strengths up to 1, 0.992 with these (2026-11).
_STEP, _STRONGEST = 0.05, 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothed:
    """What was done to one group of layers.

    strength: None where it was left as it was. before, after: of each layer, the squared error of
    its outputs in INT8 over their own squares.
    """

    strength: float | None
    before: Mapping[str, float]
    after: Mapping[str, float]


def choose(
    settings: Smooth,
    scales_of: Callable[[float], Tensor],
    errors_of: Callable[[Tensor], Mapping[str, float]],
    *,
    worth: float,
) -> tuple[Smoothed, Tensor | None]:
    """The stated strength, or the best of many; and the scales, if any.

    worth: the share of the error without scales that a strength must come under.
    """
    before = after = errors_of(torch.ones_like(scales_of(0.0)))
    best, chosen = None, None
    for strength in _strengths(settings):
        scales = scales_of(strength)
        errors = errors_of(scales)
        is_better = _total(errors) < min(_total(after), worth * _total(before))
        if moves(scales) and (is_better or settings.strength != AUTO):
            best, chosen, after = strength, scales, errors
    return Smoothed(strength=best, before=before, after=after), chosen


def _strengths(settings: Smooth) -> tuple[float, ...]:
    if settings.strength != AUTO:
        return (float(settings.strength),)
    return tuple(place * _STEP for place in range(round(_STRONGEST / _STEP) + 1))


def _total(errors: Mapping[str, float]) -> float:
    return sum(errors.values())


def layer_errors(
    layers: Sequence[SparseWeight], inputs: Sequence[ChannelInputs], scales: Sequence[Tensor]
) -> dict[str, float]:
    """What each layer loses in INT8 where its inputs are divided by its scales, by its path.

    Shapes: scales (inputs,) of each layer.
    """
    found: dict[str, float] = {}
    for layer, seen, each in zip(layers, inputs, scales, strict=True):
        factors = each.to(seen.low)
        matrix = layer.matrix(layer.parameter.detach()).float()
        found[layer.path] = int8_error(
            matrix.reshape(layer.groups, -1, matrix.shape[1]),
            seen.rows,
            column_factors(layer, factors),
            float((seen.low / factors).min()),
            float((seen.high / factors).max()),
        )
    return found
