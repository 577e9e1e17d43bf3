"""The step "smooth": activations that 8 bits hold, with the same outputs.

It trains nothing. Outliers of activations stand in a few channels; those are made smaller by the
norm or layer that gives them, and larger in the weights that read them, which have a scale for each
output channel and lose little by it.
Source: Xiao et al. 2023, arXiv:2211.10438 (SmoothQuant).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import torch

from edgekit.compress.bench import Bench, StepPoint, StepResult
from edgekit.compress.count import count
from edgekit.compress.judge import Judge
from edgekit.compress.moments import MOMENT_BYTES
from edgekit.compress.quantization.channel_inputs import (
    ChannelInputs,
    column_factors,
    observe_channels,
)
from edgekit.compress.quantization.rescale_groups import (
    Group,
    groups_of,
    in_batches,
    moves,
    told_unscaled,
)
from edgekit.compress.quantization.rescale_trace import are_same, find_pairs
from edgekit.compress.quantization.smoothing import int8_error, smoothing_scales
from edgekit.compress.sparsity.sparse_layers import SparseWeight
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.smooth import AUTO, Smooth

STRENGTHS = tuple(place / 20 for place in range(21))
# Of the error without any scaling: what a group must win to be touched.
_WORTH = 0.99
_ROWS, _FLOAT_BYTES = 2048, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothed:
    """What was done to one group of layers.

    strength: None where it was left as it was. before, after: of each layer, the squared error of
    its outputs in INT8 over their own squares.
    """

    strength: float | None
    before: Mapping[str, float]
    after: Mapping[str, float]


def smooth(settings: Smooth, bench: Bench, reporter: Reporter) -> StepResult:
    """Smooth the activations of a model in place.

    Raises: StepError where no channels can be rescaled or none is, where the outputs would change,
    and for a layer that gets NaN or infinity.
    """
    model = bench.model.to(bench.device).eval()
    example = bench.example()
    groups, unscaled = groups_of(find_pairs(model, bench.call, example), model)
    if not groups:
        raise StepError(
            "smooth: no norm or layer gives its channels to linear layers or convolutions alone "
            f"({told_unscaled(unscaled) or 'it has no such layers'}); take the step out"
        )
    judge, size = Judge(bench), count(model, bench)
    scores = {"as it came": judge.score(model)}
    outputs = _outputs(bench, example)
    found = _smooth_all(settings, bench, groups, reporter)
    if all(item.strength is None for item in found.values()):
        raise StepError(
            f"smooth: none of {len(groups)} groups of layers loses less in INT8 with its channels "
            "scaled, so nothing changed; take the step out, or state a strength"
        )
    if not are_same(outputs, _outputs(bench, example)):
        raise StepError(
            "smooth: the outputs on the first calibration samples are not the same any more, as "
            "float32 does not hold the scaled weights; state a smaller strength, or take the step "
            "out"
        )
    scores["smoothed"] = judge.score(model)
    reporter.note(_summary(found))
    if unscaled:
        reporter.note(
            f"{len(unscaled)} layers read channels as they are: {told_unscaled(unscaled)}"
        )
    return StepResult(
        model=model.cpu(),
        masks=bench.masks,
        points=tuple(
            StepPoint(name=name, parameters=size.parameters, macs=size.macs, score=score)
            for name, score in scores.items()
        ),
        values={
            "groups": {path: asdict(item) for path, item in found.items()},
            "unscaled": unscaled,
        },
    )


@torch.no_grad()
def _outputs(bench: Bench, example: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in bench.call(bench.model, example).items()}


@torch.no_grad()
def _smooth_all(
    settings: Smooth, bench: Bench, groups: Sequence[Group], reporter: Reporter
) -> dict[str, Smoothed]:
    """What was done to each group, by the path of what gives its channels."""
    found: dict[str, Smoothed] = {}
    for batch in in_batches(groups, _row_bytes, MOMENT_BYTES):
        reporter.progress(f"smoothing {len(batch)} groups of layers", len(found) / len(groups))
        layers = {item.name: item for group in batch for item in group.layers}
        seen = observe_channels(bench, bench.model, list(layers.values()), rows=_ROWS)
        for group in batch:
            if all(item.name in seen for item in group.layers):
                inputs = [seen[item.name] for item in group.layers]
                found[group.pair.path] = _smooth_one(settings, group, inputs)
    return found


def _row_bytes(item: SparseWeight) -> int:
    return _FLOAT_BYTES * _ROWS * item.groups * item.matrix(item.parameter).shape[1]


def _smooth_one(settings: Smooth, group: Group, inputs: Sequence[ChannelInputs]) -> Smoothed:
    """Scale one group by the stated strength, or by the best of many."""
    largest = group.by_channel([item.largest for item in inputs], "amax")
    weights = group.pair.reader_ranges()
    before = _errors(group, inputs, torch.ones_like(largest))
    best: float | None = None
    after = before
    tried = STRENGTHS if settings.strength == AUTO else (float(settings.strength),)
    for strength in tried:
        scales = smoothing_scales(largest, weights, strength)
        errors = _errors(group, inputs, scales)
        is_better = _total(errors) < min(_total(after), _WORTH * _total(before))
        if moves(scales) and (is_better or settings.strength != AUTO):
            best, after = strength, errors
    if best is not None:
        group.pair.scale_(smoothing_scales(largest, weights, best))
    return Smoothed(strength=best, before=before, after=after)


def _total(errors: Mapping[str, float]) -> float:
    return sum(errors.values())


def _errors(
    group: Group, inputs: Sequence[ChannelInputs], scales: torch.Tensor
) -> dict[str, float]:
    """What each layer loses in INT8 with these scales, by its path."""
    found: dict[str, float] = {}
    for layer, seen, each in zip(group.layers, inputs, group.by_input(scales), strict=True):
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


def _summary(found: Mapping[str, Smoothed]) -> str:
    changed = [item for item in found.values() if item.strength is not None]
    before = [error for item in changed for error in item.before.values()]
    after = [error for item in changed for error in item.after.values()]
    strengths = sorted({item.strength for item in changed if item.strength is not None})
    return (
        f"{len(changed)} of {len(found)} groups of layers, strength {strengths[0]:g} to "
        f"{strengths[-1]:g}; squared error of a layer's outputs in INT8, median of {len(before)} "
        f"layers: {median(before):.2e} of their squares before and {median(after):.2e} after"
    )
