"""The step "smooth": activations that 8 bits hold, with the same outputs.

It trains nothing. Outliers of activations stand in a few channels; those are made smaller by the
norm or layer that gives them, and larger in the weights that read them, which have a scale for each
output channel and lose little by it.
Source: Xiao et al. 2023, arXiv:2211.10438 (SmoothQuant).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median

import torch
from torch import nn

from edgekit.compress.bench import Bench, StepPoint, StepResult
from edgekit.compress.count import count
from edgekit.compress.judge import Judge
from edgekit.compress.moments import MOMENT_BYTES
from edgekit.compress.plain_linears import plain_linears
from edgekit.compress.quantization.channel_inputs import ChannelInputs, observe_channels
from edgekit.compress.quantization.rescale_groups import (
    Group,
    groups_of,
    in_batches,
    row_bytes,
    told_unscaled,
)
from edgekit.compress.quantization.rescale_pairs import are_same, find_pairs
from edgekit.compress.quantization.smooth_choice import Smoothed, choose, layer_errors
from edgekit.compress.quantization.smooth_multipliers import multiply
from edgekit.compress.quantization.smoothing import smoothing_scales
from edgekit.core.errors import NothingGainedError
from edgekit.core.progress import Reporter
from edgekit.core.steps.smooth import Smooth

# Of the error without any scaling: what a group must win to be touched.
_WORTH = 0.99
_ROWS = 2048


def smooth(settings: Smooth, bench: Bench, reporter: Reporter) -> StepResult:
    """Smooth the activations of a model in place.

    Raises: NothingGainedError where no channels can be rescaled or none is, or the outputs would
    change; StepError for a layer that gets NaN or infinity.
    """
    model = bench.model.to(bench.device).eval()
    example = bench.example()
    groups, unscaled = groups_of(find_pairs(model, bench.call, example), model)
    if not groups and not (settings.has_multipliers and plain_linears(model)):
        raise NothingGainedError(
            "smooth: no norm or layer gives its channels to linear layers or convolutions alone "
            f"({told_unscaled(unscaled) or 'it has no such layers'})",
            _or_multiply(model),
        )
    judge, size = Judge(bench), count(model, bench)
    scores = {"as it came": judge.score(model)}
    outputs = _outputs(bench, example)
    found = _smooth_all(settings, bench, groups, reporter)
    multiplied: dict[str, Smoothed] = {}
    if settings.has_multipliers:
        taken = {layer.path for group in groups for layer in group.layers}
        multiplied = multiply(settings, bench, taken, _ROWS, reporter)
    if all(item.strength is None for item in (*found.values(), *multiplied.values())):
        raise NothingGainedError(
            f"smooth: none of {len(found) + len(multiplied)} groups of layers loses less in INT8 "
            "with its channels scaled, so nothing changed",
            "take the step out, or state a strength",
        )
    if not are_same(outputs, _outputs(bench, example)):
        raise NothingGainedError(
            "smooth: the outputs on the first calibration samples are not the same any more, as "
            "float32 does not hold the scaled weights",
            "state a smaller strength, or take the step out",
        )
    scores["smoothed"] = judge.score(model)
    paths = {path for item in multiplied.values() for path in item.before}
    unscaled = {name: why for name, why in unscaled.items() if name.rpartition(".")[0] not in paths}
    _tell(found, multiplied, unscaled, reporter)
    return StepResult(
        model=model.cpu(),
        masks=bench.masks,
        points=tuple(
            StepPoint(name=name, parameters=size.parameters, macs=size.macs, score=score)
            for name, score in scores.items()
        ),
        values={
            "groups": {path: asdict(item) for path, item in found.items()},
            "multiplied": {path: asdict(item) for path, item in multiplied.items()},
            "unscaled": unscaled,
        },
    )


def _or_multiply(model: nn.Module) -> str:
    if plain_linears(model):
        return (
            "set has_multipliers = true, which gives linear layers a multiplication of their own, "
            "or take the step out"
        )
    return "take it out"


def _tell(
    found: Mapping[str, Smoothed],
    multiplied: Mapping[str, Smoothed],
    unscaled: Mapping[str, str],
    reporter: Reporter,
) -> None:
    for items, what in ((found, "groups of layers"), (multiplied, "multiplied inputs")):
        changed = [item for item in items.values() if item.strength is not None]
        if changed:
            reporter.note(_summary(changed, len(items), what))
    if unscaled:
        reporter.note(
            f"{len(unscaled)} layers read channels as they are: {told_unscaled(unscaled)}"
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
    for batch in in_batches(groups, lambda layer: row_bytes(layer, _ROWS), MOMENT_BYTES):
        reporter.progress(f"smoothing {len(batch)} groups of layers", len(found) / len(groups))
        layers = {item.name: item for group in batch for item in group.layers}
        seen = observe_channels(bench, bench.model, list(layers.values()), rows=_ROWS)
        for group in batch:
            if all(item.name in seen for item in group.layers):
                inputs = [seen[item.name] for item in group.layers]
                found[group.pair.path] = _smooth_one(settings, group, inputs)
    return found


def _smooth_one(settings: Smooth, group: Group, inputs: Sequence[ChannelInputs]) -> Smoothed:
    """Scale one group by the stated strength, or by the best of many."""
    largest = group.by_channel([item.largest for item in inputs], "amax")
    weights = group.pair.reader_ranges()
    done, scales = choose(
        settings,
        lambda strength: smoothing_scales(largest, weights, strength),
        lambda scales: layer_errors(group.layers, inputs, group.by_input(scales)),
        worth=_WORTH,
    )
    if scales is not None:
        group.pair.scale_(scales)
    return done


def _summary(changed: Sequence[Smoothed], count: int, what: str) -> str:
    before = [error for item in changed for error in item.before.values()]
    after = [error for item in changed for error in item.after.values()]
    strengths = sorted({item.strength for item in changed if item.strength is not None})
    return (
        f"{len(changed)} of {count} {what}, strength {strengths[0]:g} to {strengths[-1]:g}; "
        f"squared error of a layer's outputs in INT8, median of {len(before)} layers: "
        f"{median(before):.2e} of their squares before and {median(after):.2e} after"
    )
