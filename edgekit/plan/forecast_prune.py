"""What pruning will probably leave, by its goal, units and shares."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from edgekit.core.facts import LayerFact, ModelFacts
from edgekit.plan.foreseen import Forecast, dropped
from edgekit.plan.narrowing import Width, narrowed, narrowed_to, scaled

Settings = Mapping[str, Any]

# What target kernels like, where a step leaves it open (``compress.bench.Bench``).
CHANNEL_MULTIPLE = 8
# (least, most) of what is foreseen: goals are met at the next smaller count of channels; layers are
# no chain; channels that compete leave layers of other shapes.
_GOAL, _CHANNELS, _OTHER_GOAL, _COMPETING = (0.85, 1.05), (0.8, 1.25), (0.7, 1.35), (0.5, 1.6)


def pruned(settings: Settings, now: Forecast) -> Forecast:
    """The model without what a prune step takes out."""
    # The goal is of the model as the step got it, layers and all.
    limit = _limit(settings, now.likely)
    shallow = dropped(
        now,
        int(settings.get("drop_layers", 0)),
        float(settings.get("depth_ratio", 0.0)),
        settings.get("ignore", ()),
    )
    units = set(settings.get("units", ("channels",)))
    units |= {"heads"} if settings.get("head_ratio") is not None else set()
    units |= {"ffn"} if settings.get("ffn_ratio") is not None else set()
    if not units - {"layers"}:
        return shallow
    cut = _cutter(settings, units, limit)
    spread = _spread(settings)
    narrow = {
        name: _within(cut(getattr(shallow, name)), getattr(shallow, name), factor)
        for name, factor in (("least", spread[0]), ("likely", 1.0), ("most", spread[1]))
    }
    unknown = shallow.unknown
    if settings.get("goal", "channels") == "channels" and settings.get("keep"):
        narrow["most"] = shallow.most
        unknown = (*unknown, "channels that go together count once, which only the graph tells")
    if settings.get("is_within_limit"):
        narrow["most"] = shallow.most
        unknown = (*unknown, "prune stops where the metric's limit says")
    return Forecast(**narrow, unknown=unknown)


def _within(cut: ModelFacts, whole: ModelFacts, factor: float) -> ModelFacts:
    """What is foreseen, a factor smaller or larger, but no larger than the whole."""
    return scaled(cut, min(factor, whole.parameters / max(1, cut.parameters)))


def _spread(settings: Settings) -> tuple[float, float]:
    goal = settings.get("goal", "channels")
    if settings.get("is_global"):
        return _COMPETING
    if goal in ("parameters", "bytes"):
        return _GOAL
    return _CHANNELS if goal == "channels" and not settings.get("keep") else _OTHER_GOAL


def _limit(settings: Settings, facts: ModelFacts) -> float | None:
    """What may stay of the goal; None where the ratio of channels says it."""
    goal, keep = settings.get("goal", "channels"), float(settings.get("keep", 0.0))
    if goal == "channels" and not keep:
        return None
    return keep or _COSTS[goal](facts) * (1 - float(settings.get("ratio", 0.5)))


def _channels(facts: ModelFacts) -> float:
    # What the model gives out stays.
    return float(sum(layer.weight_shape[0] for layer in facts.layers[:-1] if layer.weight_shape))


_COSTS: dict[str, Callable[[ModelFacts], float]] = {
    "channels": _channels,
    "macs": lambda facts: float(facts.macs),
    "parameters": lambda facts: float(facts.parameters),
    "bytes": lambda facts: 4.0 * facts.parameters,
}


def _cutter(
    settings: Settings, units: set[str], limit: float | None
) -> Callable[[ModelFacts], ModelFacts]:
    def cut(facts: ModelFacts) -> ModelFacts:
        width = _width(settings, units, facts)
        if limit is None:
            return narrowed(facts, width)
        cost = _COSTS[settings.get("goal", "channels")]
        # Each count may be rounded as the goal wants it, so the limit itself is met in small steps.
        return narrowed_to(facts, replace(width, multiple=1), cost, limit)

    return cut


def _width(settings: Settings, units: set[str], facts: ModelFacts) -> Width:
    def asked(name: str, *named: str) -> float | None:
        given = settings.get(name)
        if given is not None:
            return 1 - float(given)
        return None if units.intersection(named) else 1.0

    has_own_units = bool(units & {"channels", "embedding"}) or facts.family == "mlp"
    left = 1 - float(settings.get("ratio", 0.5))
    return Width(
        ratio=left if has_own_units or facts.family == "transformer" else 1.0,
        own=_own_shares(settings, facts.layers),
        multiple=int(settings.get("round_to", 0)) or CHANNEL_MULTIPLE,
        heads=asked("head_ratio", "heads"),
        neurons=asked("ffn_ratio", "ffn", "channels"),
    )


def _own_shares(settings: Settings, layers: Iterable[LayerFact]) -> dict[str, float]:
    """What stays of the layers that a pattern names; patterns were checked with the settings."""
    stated = {pattern: 1 - gone for pattern, gone in settings.get("layer_ratios", {}).items()}
    stated |= dict.fromkeys(settings.get("ignore", ()), 1.0)
    return {
        layer.module_path: share
        for pattern, share in stated.items()
        for layer in layers
        if re.search(pattern, layer.module_path)
    }
