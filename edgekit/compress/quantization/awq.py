"""The step "awq": weights that meet large inputs are scaled up, then rounded on their own grid.

Where a norm or a layer can take the scales in, the outputs stay the same until weights are rounded;
a layer behind anything else is clipped and rounded alone, and named. The model stays an ordinary
float model, whose exporters find the grid again as they do after ``round``.
Source: Lin et al. 2024, arXiv:2306.00978 (AWQ).
"""

from collections.abc import Mapping
from dataclasses import asdict
from statistics import median

import torch
from torch import nn

from edgekit.compress.bench import Bench, StepPoint, StepResult
from edgekit.compress.count import count
from edgekit.compress.judge import Judge
from edgekit.compress.masks import copy_model
from edgekit.compress.quantization.awq_scales import clipped_by_outputs
from edgekit.compress.quantization.awq_scaling import Scaled, Scaling
from edgekit.compress.quantization.bias import BiasCorrector, Correction
from edgekit.compress.quantization.bias_trial import SEEN, BiasTrial, try_correction
from edgekit.compress.quantization.clipping import nearest
from edgekit.compress.quantization.gptq import output_error
from edgekit.compress.quantization.layers import (
    LayerError,
    Layers,
    Rounded,
    grid_of,
)
from edgekit.compress.quantization.readers import find_behind
from edgekit.compress.quantization.rescale_groups import told_unscaled
from edgekit.compress.quantization.summed_rounding import Task, round_each
from edgekit.compress.training.rounding import make_rounder
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.awq import Awq
from edgekit.core.steps.rounding import AUTO


def awq(settings: Awq, bench: Bench, reporter: Reporter) -> StepResult:
    """Scale the weights of a model in place, and round them.

    Raises: StepError where nothing changes, where scaling would change the outputs, no layer is
    left to round, and for a layer that gets NaN or infinity.
    """
    model = bench.model.to(bench.device).eval()
    rounder = make_rounder(model, settings.rounding, bench.call, bench.example())
    layers, judge, size = Layers(bench, rounder), Judge(bench), count(model, bench)
    scores = {"as it came": judge.score(model)}
    scaling = Scaling(bench, layers)
    scaling.run(reporter)
    if scaling.has_changed:
        scores["scaled"] = judge.score(model)
    corrections: Mapping[str, Correction] = {}
    trial: BiasTrial | None = None
    if settings.is_rounded:
        corrections, trial = _round(settings, bench, layers, reporter)
        scores["rounded"] = judge.score(model)
    _check_changed(settings, scaling, layers)
    for path in rounder.left:
        reporter.note(f"{path}: left as it is: its weight is computed at each call")
    _tell(scaling, layers.errors, reporter)
    if trial is not None:
        reporter.note(trial.text)
    return StepResult(
        model=model.cpu(),
        masks=bench.masks,
        points=tuple(
            StepPoint(name=name, parameters=size.parameters, macs=size.macs, score=score)
            for name, score in scores.items()
        ),
        values={
            "bits": {layer.path: layer.bits for layer in rounder.layers},
            "groups": {path: asdict(item) for path, item in scaling.groups.items()},
            "unscaled": scaling.unscaled,
            "output_errors": {path: asdict(item) for path, item in layers.errors.items()},
            "bias_corrections": {path: asdict(item) for path, item in corrections.items()},
            "bias_trial": None if trial is None else asdict(trial),
        },
    )


@torch.no_grad()
def _round(
    settings: Awq, bench: Bench, layers: Layers, reporter: Reporter
) -> tuple[Mapping[str, Correction], BiasTrial | None]:
    """Round all layers in place, then put means back."""
    reference = copy_model(bench.model)
    round_each(bench, layers, lambda task: _rounded(task, settings), reporter)
    if not settings.is_bias_corrected:
        return {}, None
    return _correct(settings, bench, layers, reference, reporter)


def _correct(
    settings: Awq, bench: Bench, layers: Layers, reference: nn.Module, reporter: Reporter
) -> tuple[Mapping[str, Correction], BiasTrial | None]:
    """Put means back that rounding has moved; or try it, and keep what is better."""
    paths, is_tried = list(layers.weights), settings.is_bias_corrected == AUTO
    behind = find_behind(bench.model, layers.weights, bench.call, bench.example())
    corrector = BiasCorrector(bench, reference, behind, paths, half=SEEN if is_tried else None)
    if is_tried:
        trial = try_correction(corrector, bench, reference, paths, reporter)
        return corrector.corrections, trial
    for path in paths:
        reporter.progress(f"correcting the bias of {path}")
        corrector.correct(path)
    return corrector.corrections, None


def _rounded(task: Task, settings: Awq) -> Rounded:
    """A layer on its own grid, each channel's as wide as is best for what it gives."""
    item, products, grid = task.item, task.products, grid_of(task.layer)
    weight = item.matrix(item.parameter.detach()).double()
    split = weight.reshape(item.groups, -1, weight.shape[1])
    whole = nearest(split, grid.whole(split), grid.top).reshape(weight.shape)
    rounded = whole
    if settings.is_clipped:
        steps = clipped_by_outputs(split, products, grid)
        rounded = nearest(split, steps, grid.top).reshape(weight.shape)
    before, after = (output_error(weight, it, products) for it in (whole, rounded))
    return Rounded(
        weight=item.restored(rounded),
        nearest=item.restored(whole),
        error=LayerError(nearest=before, rounded=after),
    )


def _check_changed(settings: Awq, scaling: Scaling, layers: Layers) -> None:
    """Refuse a step that did nothing.

    Raises: StepError, saying why.
    """
    if scaling.has_changed or layers.has_changed:
        return
    if settings.is_rounded:
        raise StepError(
            "awq: every weight was on its grid already, so nothing changed; take the step out"
        )
    raise StepError(
        "awq: no group of layers loses less with its weights scaled, and is_rounded is false, so "
        f"nothing changed ({told_unscaled(scaling.unscaled) or 'all are best as they are'}); take "
        "the step out, or set is_rounded"
    )


def _tell(scaling: Scaling, errors: Mapping[str, LayerError], reporter: Reporter) -> None:
    """What became of the layers, for the report."""
    reporter.note(_scaled_text(scaling.groups))
    if scaling.unscaled:
        named = told_unscaled(scaling.unscaled)
        reporter.note(f"{len(scaling.unscaled)} layers have no scales: {named}")
    known = [item for item in errors.values() if not item.why_nearest]
    if known:
        reporter.note(
            f"{len(errors)} layers rounded; squared error of a layer's outputs, median of layers: "
            f"{median(item.rounded for item in known):.2e} of their squares, "
            f"{median(item.nearest for item in known):.2e} without clipping"
        )
    blind = {path: item.why_nearest for path, item in errors.items() if item.why_nearest}
    if blind:
        reporter.note(f"by their weights alone: {told_unscaled(blind)}")


def _scaled_text(groups: Mapping[str, Scaled]) -> str:
    done = [item for item in groups.values() if item.exponent is not None]
    text = f"{len(done)} of {len(groups)} groups of layers scaled"
    if not done:
        return text
    before, after = (
        median(error for item in done for error in getattr(item, name).values())
        for name in ("before", "after")
    )
    return (
        f"{text}; squared error of a layer's outputs rounded to nearest, median of layers: "
        f"{before:.2e} of their squares before and {after:.2e} after"
    )
