"""What the steps on the module will probably leave of a model, by their settings alone.

Every way in which a step states a size is followed; where a size is only known once the step has
run (ranks by energy, a student of the user's), the interval is wide and says why.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.core.facts import ModelFacts
from edgekit.core.strategy import PlannedStep
from edgekit.plan.container import STUDENT_FILE_BYTES, STUDENT_LAYER_BYTES
from edgekit.plan.forecast_prune import pruned
from edgekit.plan.foreseen import Forecast, droppable, middle, ranged
from edgekit.plan.narrowing import scaled, split, without_blocks

Settings = Mapping[str, Any]

# Steps whose result has the size of what they got. A sparse weight takes as much room as any.
_SAME_SIZE = (
    *("sparsify", "lora", "train", "equalize", "rotate", "smooth", "awq", "round", "spread"),
    "quantize",
)
# Of a made student, its counts rounded down: asked for 0.33 of ResNet-20's 272,186 parameters, one
# had 0.256 (Fashion-MNIST, 2026-11).
_MADE = (0.65, 0.85, 1.0)
# Multiply-accumulates and parameters do not fall alike.
_MADE_BY_MACS = (0.5, 0.95, 1.4)
# ResNet-56 kept 0.86 of its parameters at an energy of 0.98 and 0.70 at 0.95 (docs/strategies.md);
# layers with a flat spectrum stay whole.
_BY_ENERGY = (0.3, 0.8, 1.0)
_FACTORY = (0.02, 0.5, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """Where a step starts. original: the user's model. is_changed: by earlier steps."""

    now: Forecast
    original: ModelFacts
    is_changed: bool
    has_student: bool


def forecasts(
    facts: ModelFacts, steps: Iterable[PlannedStep], *, has_student: bool = False
) -> tuple[Forecast, ...]:
    """The model before the first step that runs, and after each of them.

    has_student: the workload makes students of its own.
    """
    found = [Forecast(likely=facts, least=facts, most=facts)]
    for step in steps:
        if step.is_run:
            is_changed = len(found) > 1
            way = _Way(
                now=found[-1], original=facts, is_changed=is_changed, has_student=has_student
            )
            found.append(_after(step.name, step.settings, way))
    return tuple(found)


def _after(name: str, settings: Settings, way: _Way) -> Forecast:
    if name in _STEPS:
        return _STEPS[name](settings, way)
    if name in _SAME_SIZE:
        return way.now
    why = f"step '{name}' does not say beforehand what it leaves"
    return ranged(way.now, (0.1, 1.0, 1.0), why)


def _distil(settings: Settings, way: _Way) -> Forecast:
    kind = settings.get("student", "auto")
    if kind == "auto":
        own = "current" if way.is_changed else "made"
        kind = "factory" if way.has_student else own
    if kind == "current":
        return way.now
    start = Forecast(likely=way.original, least=way.original, most=way.original)
    if kind == "factory":
        return ranged(start, _FACTORY, "the student is the workload's own")
    return _made(settings, way.original)


def _made(settings: Settings, facts: ModelFacts) -> Forecast:
    """The teacher narrowed and thinned: of all depths, that of the largest smaller share."""
    blocks, layers = droppable(facts), len(facts.layers)
    ways = []
    for gone in range(len(blocks) + 1):
        shallow = without_blocks(facts, middle(blocks, gone) if gone else [])
        width = min(1.0, _room(settings, facts, shallow)) ** 0.5
        ways.append((min(width, len(shallow.layers) / max(1, layers)), gone, width))
    _, gone, width = max(ways)
    if width <= 0:
        return ranged(
            Forecast(likely=facts, least=facts, most=facts),
            (0.02, 0.1, 1.0),
            "the student's budget is less than its layers take",
        )
    shallow = without_blocks(facts, middle(blocks, gone) if gone else [])
    least, likely, most = _MADE_BY_MACS if settings.get("student_macs") else _MADE
    return Forecast(
        least=scaled(shallow, width**2 * least),
        likely=scaled(shallow, min(1.0, width**2 * likely)),
        most=scaled(shallow, min(1.0, width**2 * most)),
    )


def _room(settings: Settings, facts: ModelFacts, shallow: ModelFacts) -> float:
    """The share of a shallower model that fits the budget."""
    if settings.get("student_bytes"):
        container = STUDENT_FILE_BYTES + STUDENT_LAYER_BYTES * len(shallow.layers)
        room = max(0.0, settings["student_bytes"] - container)
        return float(room * 8 / settings.get("student_bits", 32) / max(1, shallow.parameters))
    if settings.get("student_macs"):
        return float(settings["student_macs"] / max(1, shallow.macs))
    wanted = float(settings.get("student_ratio", 0.33)) * facts.parameters
    return wanted / max(1, shallow.parameters)


def _factorize(settings: Settings, way: _Way) -> Forecast:
    now, ranks = way.now, settings.get("ranks", "energy")
    if ranks == "search":
        kept = float(settings.get("keep_bytes", 0)) / (4 * max(1, now.likely.parameters))
        share = min(1.0, kept or float(settings.get("parameter_ratio", 0.5)))
        return _split_to(now, (0.9 * share, 0.97 * share, share))
    if ranks == "ratio":
        ratio, ignore = float(settings.get("ratio", 0.5)), settings.get("ignore", ())
        least, likely, most = (
            split(facts, _ratio_shares(facts, ratio, ignore))
            for facts in (now.least, now.likely, now.most)
        )
        return Forecast(
            least=scaled(least, 0.85),
            likely=likely,
            most=scaled(most, min(1.15, now.most.parameters / max(1, most.parameters))),
            unknown=now.unknown,
        )
    return _split_to(now, _BY_ENERGY, "ranks by energy are known once the weights were looked at")


def _split_to(now: Forecast, shares: tuple[float, float, float], *why: str) -> Forecast:
    """Layers become two or three, all of them together a share of the parameters."""
    kept = [
        split(facts, dict.fromkeys(_matrices(facts), (share, parts))) if share < 1 else facts
        for facts, share, parts in zip(
            (now.least, now.likely, now.most), shares, (1, 2, 3), strict=True
        )
    ]
    return Forecast(least=kept[0], likely=kept[1], most=kept[2], unknown=(*now.unknown, *why))


def _matrices(facts: ModelFacts) -> list[str]:
    return [layer.module_path for layer in facts.layers if layer.kind in ("conv", "linear")]


def _ratio_shares(
    facts: ModelFacts, ratio: float, ignore: Iterable[str]
) -> dict[str, tuple[float, int]]:
    """What a share of the full rank leaves of each layer that gets smaller by it, and in how many.

    Source: the sizes of truncated SVD and of Tucker-2 (Kim et al. 2016, arXiv 1511.06530).
    """
    found = {}
    for layer in facts.layers:
        is_left = any(re.search(pattern, layer.module_path) for pattern in ignore)
        if layer.kind not in ("conv", "linear") or len(layer.weight_shape) < 2 or is_left:
            continue
        rows, columns, *kernel = layer.weight_shape
        taps = math.prod(kernel)
        if taps == 1:
            size, parts = ratio * min(rows, columns) * (rows + columns), 2
        else:
            size, parts = ratio * (columns**2 + rows**2) + ratio**2 * rows * columns * taps, 3
        if size < rows * columns * taps:
            found[layer.module_path] = (size / (rows * columns * taps), parts)
    return found


_STEPS: dict[str, Callable[[Settings, _Way], Forecast]] = {
    "prune": lambda settings, way: pruned(settings, way.now),
    "distil": _distil,
    "factorize": _factorize,
}
