"""The search for ranks under a budget: sensitivities measured, plans judged.

A layer's sensitivity is what it does to the model's own outputs when this layer alone is thinned,
for the share of energy that it lost. That says more than the layer's own error, but adds up only
while errors are small; so a plan by the layers' own errors is made too, and the better of the two
on the selection data is taken.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench, StepPoint
from edgekit.compress.count import count
from edgekit.compress.judge import Judge
from edgekit.compress.low_rank.decomposition import Decomposition
from edgekit.compress.low_rank.rank_budget import Option, options, spend
from edgekit.compress.low_rank.ranks import Ranks
from edgekit.compress.masks import copy_model
from edgekit.compress.moments import fast_path_off, input_batches
from edgekit.compress.thin_layers import replace_module
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.factorize import Factorize

# Batches of calibration data on which a sensitivity is measured.
PROBE_BATCHES = 2
_NO_LOSS = 1e-9

Plan = dict[str, Ranks]


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """The ranks that were found, and the plans that were judged."""

    ranks: Plan
    points: tuple[StepPoint, ...]


def searched_ranks(
    taken_apart: Mapping[str, Decomposition],
    settings: Factorize,
    bench: Bench,
    judge: Judge,
    reporter: Reporter,
) -> Searched:
    """Ranks within the budget that harm the model least.

    Raises: StepError when the smallest ranks are still too large.
    """
    budget = _layers_budget(taken_apart, settings, bench.model)
    sensitivities = measured_sensitivities(taken_apart, bench, reporter)
    evenly = dict.fromkeys(taken_apart, 1.0)
    plans: dict[str, Plan] = {}
    for name, weights in (("by the model's error", sensitivities), ("by layer error", evenly)):
        plan = _plan(taken_apart, weights, budget, bench)
        if plan and plan not in plans.values():
            plans[f"search {name}"] = plan
    judged = [_judged(name, taken_apart, plan, bench, judge) for name, plan in plans.items()]
    best = 0
    for index, point in enumerate(judged):
        if _is_better(judge, point, judged[best]):
            best = index
    if not judged:
        return Searched(ranks={}, points=())
    return Searched(ranks=list(plans.values())[best], points=tuple(judged))


def measured_sensitivities(
    taken_apart: Mapping[str, Decomposition], bench: Bench, reporter: Reporter
) -> dict[str, float]:
    """By layer: relative squared error of the model's outputs, for each share of energy lost.

    Measured at the middle of what the layer offers; 1 where it offers nothing that loses anything.
    """
    model = copy_model(bench.model).eval()
    batches = list(input_batches(bench, PROBE_BATCHES))
    wanted = [_outputs(bench, model, inputs) for inputs in batches]
    found: dict[str, float] = {}
    for number, (path, item) in enumerate(taken_apart.items()):
        reporter.progress(f"sensitivity of {path}", number / len(taken_apart))
        hull = options(item, bench.channel_multiple)
        ranks = hull[len(hull) // 2].ranks
        lost = item.lost(ranks) if ranks is not None else 0.0
        if ranks is None or lost < _NO_LOSS:
            found[path] = 1.0
            continue
        whole = model.get_submodule(path)
        model = replace_module(model, path, item.make(ranks).eval())
        errors = [
            relative_error(_outputs(bench, model, inputs), outputs)
            for inputs, outputs in zip(batches, wanted, strict=True)
        ]
        model = replace_module(model, path, whole)
        found[path] = sum(errors) / len(errors) / lost
    return found


def relative_error(outputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Squared distance of outputs over their squared size, as the mean over outputs of floats."""
    shares = [
        ((outputs[name] - value).double().square().sum() / _size(value)).item()
        for name, value in wanted.items()
        if value.is_floating_point()
    ]
    return sum(shares) / max(1, len(shares))


def _size(value: Tensor) -> Tensor:
    return value.double().square().sum().clamp_min(_NO_LOSS)


def _layers_budget(
    taken_apart: Mapping[str, Decomposition], settings: Factorize, model: nn.Module
) -> int:
    """What the layers may take together, after what cannot shrink has been paid for.

    Raises: StepError when the model is small enough already.
    """
    total = sum(item.numel() for item in model.parameters())
    if settings.keep_bytes:
        size = next(model.parameters()).element_size() if total else 4
        allowed, asked = settings.keep_bytes // size, f"keep_bytes is {settings.keep_bytes:,}"
    else:
        allowed = math.floor(settings.parameter_ratio * total)
        asked = f"parameter_ratio is {settings.parameter_ratio}"
    if allowed >= total:
        raise StepError(
            f"factorize: {asked}, {allowed:,} parameters, and the model has {total:,}; nothing "
            "would change: ask for less, or leave this step out"
        )
    return allowed - (total - sum(item.whole.parameters for item in taken_apart.values()))


def _plan(
    taken_apart: Mapping[str, Decomposition],
    sensitivities: Mapping[str, float],
    budget: int,
    bench: Bench,
) -> Plan:
    offers = {
        path: options(item, bench.channel_multiple, sensitivities[path])
        for path, item in taken_apart.items()
    }
    chosen = spend(offers, budget)
    if chosen is None:
        raise StepError(_too_small(offers, budget, bench.model))
    return {path: option.ranks for path, option in chosen.items() if option.ranks is not None}


def _too_small(offers: Mapping[str, tuple[Option, ...]], budget: int, model: nn.Module) -> str:
    total = sum(item.numel() for item in model.parameters())
    whole = sum(hull[0].parameters for hull in offers.values())
    least = total - whole + sum(hull[-1].parameters for hull in offers.values())
    return (
        f"factorize: the budget leaves {total - whole + budget:,} of {total:,} parameters, and the "
        f"smallest ranks that pay still take {least:,} ({least / total:.1%}); allow that many, "
        "prune first, or take fewer layers out (ignore, methods)"
    )


def _judged(
    name: str, taken_apart: Mapping[str, Decomposition], plan: Plan, bench: Bench, judge: Judge
) -> StepPoint:
    started = time.monotonic()
    model = copy_model(bench.model).eval()
    for path, ranks in plan.items():
        model = replace_module(model, path, taken_apart[path].make(ranks).eval())
    size = count(model, bench)
    point = StepPoint(
        name=name, parameters=size.parameters, macs=size.macs, score=judge.score(model)
    )
    return replace(point, seconds=time.monotonic() - started)


def _is_better(judge: Judge, point: StepPoint, than: StepPoint) -> bool:
    if point.score is None or than.score is None:
        raise AssertionError(point)  # every plan was judged
    return judge.is_better(point.score, than.score)


def _outputs(bench: Bench, model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with torch.no_grad(), fast_path_off():
        return bench.call(model, inputs)
