"""The step "factorize": large layers become products of thinner ones, as far as that pays.

A layer is replaced only where that makes it both smaller and cheaper; every other one is named
with the reason. Which ranks: ``ranks`` (energy, ratio) and ``rank_search`` (a budget).
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from edgekit.compress.bench import Bench, StepPoint, StepResult
from edgekit.compress.count import count
from edgekit.compress.judge import Judge
from edgekit.compress.layer_paths import matching
from edgekit.compress.low_rank.decomposition import Decomposition, decompose, sides_of
from edgekit.compress.low_rank.rank_search import searched_ranks
from edgekit.compress.low_rank.ranks import Ranks, energy_ranks, ratio_ranks, rounded_up
from edgekit.compress.low_rank.replaceable import refused_by_model
from edgekit.compress.moments import Sides, in_groups, observe
from edgekit.compress.thin_layers import has_matrix, method_of, replace_module, why_whole
from edgekit.compress.training.recovery import recover
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.factorize import Factorize


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted:
    """The layers of a model. chosen: those that may be decomposed. whole: the others, and why."""

    chosen: dict[str, nn.Module]
    whole: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """Ranks of the layers that are replaced, and why the others are not."""

    ranks: dict[str, Ranks]
    whole: dict[str, str]
    points: tuple[StepPoint, ...] = ()


def factorize(settings: Factorize, bench: Bench, reporter: Reporter) -> StepResult:
    """Replace layers by thinner ones, then train if asked.

    Raises: StepError when nothing gets smaller and cheaper, a budget cannot be met, a pattern
    matches nothing, or training is asked for without training data.
    """
    if settings.recover.epochs and bench.training is None:
        raise StepError(
            f"factorize: recover.epochs is {settings.recover.epochs} and there are no training "
            "data; give the workload some, or set epochs to 0"
        )
    started = time.monotonic()
    bench.model.to(bench.device)
    judge = Judge(bench)
    start = _point("as it came", bench.model, bench, judge)
    sorted_layers = sort_layers(bench, settings)
    taken_apart = spectra(bench, sorted_layers, settings, reporter)
    found = _ranked(taken_apart, settings, bench, judge, reporter)
    whole = sorted_layers.whole | found.whole
    if not found.ranks:
        raise StepError(_nothing(whole, settings))
    before = {path: taken_apart[path].whole.parameters for path in found.ranks}
    model = build(bench.model, taken_apart, found.ranks)
    bare = replace(_point("factorized", model, bench, judge), seconds=time.monotonic() - started)
    reporter.note(_summary(found, taken_apart))
    points = recover(model, settings.recover, settings.teacher_weight, bench, reporter)
    values = {
        "factorized": {
            path: _described(taken_apart[path], ranks, before[path])
            for path, ranks in found.ranks.items()
        },
        "whole": whole,
    }
    kept = (replace(bare, is_kept=not points), *points)
    return StepResult(
        model=model.eval().cpu(),
        masks=bench.masks,
        points=(start, *found.points, *kept),
        values=values,
    )


def sort_layers(bench: Bench, settings: Factorize) -> Sorted:
    """The layers that could be decomposed, and the others with the reason.

    Raises: StepError for a pattern of ``ignore`` that matches nothing.
    """
    layers = {path: item for path, item in bench.model.named_modules() if has_matrix(item)}
    ignored = matching("factorize: ignore", settings.ignore, layers)
    shared = shared_layers(bench.model)
    whole: dict[str, str] = {}
    for path, layer in layers.items():
        reason = why_whole(layer) or shared.get(path, "")
        if not reason and path in ignored:
            reason = "the settings say so (ignore)"
        if not reason and method_of(layer) not in settings.methods:
            reason = f"{method_of(layer)} is not among the methods"
        if not reason and any(name.rpartition(".")[0] == path for name in bench.masks):
            reason = "its weight is masked, and factors would not keep the zeros"
        if reason:
            whole[path] = reason
    chosen = {path: item for path, item in layers.items() if path not in whole}
    refused = refused_by_model(bench, chosen)
    return Sorted(
        chosen={path: item for path, item in chosen.items() if path not in refused},
        whole=whole | refused,
    )


def shared_layers(model: nn.Module) -> dict[str, str]:
    """Layers that a model has in two places, or whose weight another one has too, and where."""
    found: dict[str, str] = {}
    modules: dict[int, str] = {}
    owners: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if id(module) in modules:
            found[modules[id(module)]] = f"it is also '{path}'"
            continue
        modules[id(module)] = path
        for value in module.parameters(recurse=False):
            if id(value) in owners:
                other = owners[id(value)]
                found[path] = f"its weight is that of '{other}' too"
                found.setdefault(other, f"its weight is that of '{path}' too")
            owners.setdefault(id(value), path)
    return found


def spectra(
    bench: Bench, layers: Sorted, settings: Factorize, reporter: Reporter
) -> dict[str, Decomposition]:
    """All chosen layers taken apart; those that the model never calls go to ``layers.whole``."""
    chosen = layers.chosen
    if not settings.is_whitened:
        nothing: Sides = frozenset()
        groups = [dict.fromkeys(chosen, nothing)] if chosen else []
    else:
        groups = list(in_groups({path: sides_of(item) for path, item in chosen.items()}))
    found: dict[str, Decomposition] = {}
    for number, group in enumerate(groups):
        reporter.progress(f"{len(group)} layers", number / len(groups))
        seen = observe(bench, bench.model, group, batches=0 if settings.is_whitened else 1)
        for path in group:
            if path in seen:
                found[path] = decompose(chosen[path], seen[path])
            else:
                layers.whole[path] = "the model did not call it on the calibration data"
    return found


def build(
    model: nn.Module, taken_apart: Mapping[str, Decomposition], ranks: Mapping[str, Ranks]
) -> nn.Module:
    """The model with chains in the place of layers, changed in place."""
    for path, chosen in ranks.items():
        model = replace_module(model, path, taken_apart[path].make(chosen))
    return model


def paying_ranks(item: Decomposition, ranks: Ranks, multiple: int) -> Ranks | None:
    """Ranks rounded up to a multiple where that still pays, else as they are; None if none pay."""
    rounded = tuple(
        rounded_up(rank, full, multiple) for rank, full in zip(ranks, item.full, strict=True)
    )
    return next((chosen for chosen in (rounded, ranks) if item.is_gain(chosen)), None)


def _ranked(
    taken_apart: Mapping[str, Decomposition],
    settings: Factorize,
    bench: Bench,
    judge: Judge,
    reporter: Reporter,
) -> Ranked:
    if settings.ranks == "search":
        searched = searched_ranks(taken_apart, settings, bench, judge, reporter)
        left = "saving elsewhere harms less, or it gets neither smaller nor cheaper"
        whole = {path: left for path in taken_apart if path not in searched.ranks}
        return Ranked(ranks=searched.ranks, whole=whole, points=searched.points)
    ranks: dict[str, Ranks] = {}
    whole = {}
    for path, item in taken_apart.items():
        if settings.ranks == "energy":
            wanted = energy_ranks(item.energies, settings.energy)
        else:
            wanted = ratio_ranks(item.full, settings.ratio)
        chosen = paying_ranks(item, wanted, bench.channel_multiple)
        if chosen is None:
            whole[path] = _no_gain(item, wanted)
        else:
            ranks[path] = chosen
    return Ranked(ranks=ranks, whole=whole)


def _no_gain(item: Decomposition, ranks: Ranks) -> str:
    whole, thin = item.whole, item.cost(ranks)
    shown = " x ".join(f"{rank} of {full}" for rank, full in zip(ranks, item.full, strict=True))
    return (
        f"at rank {shown} it would take {thin.parameters:,} parameters and {thin.macs:,.0f} MACs "
        f"a sample, and now takes {whole.parameters:,} and {whole.macs:,.0f}"
    )


def _nothing(whole: Mapping[str, str], settings: Factorize) -> str:
    wish = {
        "energy": f"lower energy (now {settings.energy})",
        "ratio": f"lower ratio (now {settings.ratio})",
        "search": f"lower parameter_ratio (now {settings.parameter_ratio})",
    }[settings.ranks]
    if not whole:
        return "factorize: the model has no layer with a matrix; leave this step out"
    return (
        f"factorize: no layer would get both smaller and cheaper, so nothing changed: "
        f"{_by_reason(whole)}; {wish}, or leave this step out"
    )


def _by_reason(whole: Mapping[str, str]) -> str:
    """Each reason once, the most frequent first, with the first layer that it is true of."""
    counts = Counter(whole.values())
    parts = []
    for reason, number in counts.most_common(5):
        path = next(path for path in whole if whole[path] == reason)
        others = f" and {number - 1} more" if number > 1 else ""
        parts.append(f"'{path}'{others}: {reason}")
    rest = sum(counts.values()) - sum(number for _, number in counts.most_common(5))
    return "; ".join(parts) + (f"; and {rest} layers more" if rest else "")


def _summary(found: Ranked, taken_apart: Mapping[str, Decomposition]) -> str:
    methods = Counter(taken_apart[path].method for path in found.ranks)
    parts = ", ".join(f"{number} by {method}" for method, number in sorted(methods.items()))
    return f"layers replaced: {len(found.ranks)} ({parts})"


def _described(item: Decomposition, ranks: Ranks, parameters_before: int) -> dict[str, Any]:
    return {
        "method": item.method,
        "ranks": list(ranks),
        "full_ranks": list(item.full),
        "kept_energy": 1 - item.lost(ranks),
        "parameters_before": parameters_before,
        "parameters_after": item.cost(ranks).parameters,
        "macs_before": item.whole.macs,
        "macs_after": item.cost(ranks).macs,
    }


def _point(name: str, model: nn.Module, bench: Bench, judge: Judge) -> StepPoint:
    size = count(model, bench)
    return StepPoint(
        name=name,
        parameters=size.parameters,
        macs=size.macs,
        score=judge.score(model),
    )
