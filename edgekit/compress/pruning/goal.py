"""How many units of each group go, so that a goal is met."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit.compress.pruning.channel_graph import ChannelGraph, Slot
from edgekit.compress.pruning.groups import Group
from edgekit.core.steps.prune import Goal

Key = tuple[Slot, ...]

_STEPS = 40
# With competition across layers the share that stays of any one layer, at least: an empty layer
# cuts the network in two, whatever its importance.
_LEAST_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Which share of each group goes.

    ratio: of every group without a share of its own, own: those that have one, by key. is_global:
    groups without a share of their own compete. multiple: what channel counts are multiples of.
    initial: how many units each group had at first, where pruning began earlier.
    """

    ratio: float
    own: Mapping[Key, float] = field(default_factory=dict)
    is_global: bool = False
    multiple: int = 1
    initial: Mapping[Key, int] = field(default_factory=dict)


def granule(group: Group, multiple: int) -> int:
    """Units of a group go so many at a time, so that its channel counts stay multiples.

    Heads go one by one. A group too small for two granules gets a smaller multiple: halves of it.
    """
    if group.kind == "heads":
        return 1
    while multiple > 1:
        units = multiple // math.gcd(multiple, group.width)
        if len(group.units) >= 2 * units:
            return units
        multiple //= 2
    return 1


def kept_units(group: Group, wanted: float, multiple: int) -> int:
    """The nearest count that may stay: a multiple of the granule, never none, or all."""
    size, step = len(group.units), granule(group, multiple)
    if wanted >= size:
        return size
    nearest = math.floor(wanted / step + 0.5) * step
    return min(max(nearest, step, group.least), size)


def units_to_remove(
    groups: Sequence[Group], scores: Mapping[Key, Tensor], kept: Mapping[Key, int]
) -> list[int]:
    """The roots of the units that go: the least important ones of each group."""
    found: list[int] = []
    for group in groups:
        order = torch.argsort(scores[group.key], stable=True)
        gone = order[: len(group.units) - kept[group.key]]
        found += [group.units[index] for index in gone.tolist()]
    return found


def kept_counts(
    groups: Sequence[Group], scores: Mapping[Key, Tensor], shares: Shares, *, is_in_loss: bool
) -> dict[Key, int]:
    """How many units of each group stay.

    is_in_loss: scores of all groups are in one unit, that of the loss; else those of a group are
    divided by their mean before groups compete.
    """
    free = [group for group in groups if group.key not in shares.own]
    wanted: dict[Key, float] = {}
    for group in groups:
        share = shares.own.get(group.key, shares.ratio)
        wanted[group.key] = _initial(group, shares) * (1 - share)
    if shares.is_global and free:
        wanted |= _competing(free, scores, shares, is_in_loss=is_in_loss)
    return {group.key: kept_units(group, wanted[group.key], shares.multiple) for group in groups}


def fill_up(
    groups: Sequence[Group],
    kept: Mapping[Key, int],
    multiple: int,
    is_met: Callable[[Mapping[Key, int]], bool],
) -> dict[Key, int]:
    """Counts that meet a goal more closely: at one ratio, many groups lose units at once.

    One granule comes back to each group, where the smallest share stays first, as long as the goal
    is met.
    groups: those that may get one back.
    """
    counts = dict(kept)
    for group in sorted(groups, key=lambda item: kept[item.key] / len(item.units)):
        more = min(counts[group.key] + granule(group, multiple), len(group.units))
        trial = {**counts, group.key: more}
        if is_met(trial):
            counts = trial
    return counts


def _initial(group: Group, shares: Shares) -> int:
    return shares.initial.get(group.key, len(group.units))


def _competing(
    groups: Sequence[Group], scores: Mapping[Key, Tensor], shares: Shares, *, is_in_loss: bool
) -> dict[Key, float]:
    """How many units of each group stay when all of them are ranked together."""
    initial = sum(_initial(group, shares) for group in groups)
    keep = round(initial * (1 - shares.ratio))
    ranked = []
    for index, group in enumerate(groups):
        values = scores[group.key]
        scale = 1.0 if is_in_loss else max(float(values.mean()), 1e-30)
        ranked += [(float(value) / scale, index) for value in values]
    ranked.sort(key=lambda item: -item[0])
    counts = [0] * len(groups)
    for _, index in ranked[:keep]:
        counts[index] += 1
    return {
        group.key: max(counts[index], _LEAST_SHARE * _initial(group, shares))
        for index, group in enumerate(groups)
    }


class Costs:
    """What a traced model costs when units go, without cutting it."""

    def __init__(self, graph: ChannelGraph, model: nn.Module, *, samples: int = 1) -> None:
        """samples: in the run that was traced."""
        self._graph, self._samples = graph, samples
        self._weights = [
            (value.element_size(), [graph.slots[name, axis] for axis in range(value.ndim)])
            for name, value in model.named_parameters()
        ]

    def of(self, goal: Goal, roots: Sequence[int]) -> int:
        """MACs a sample, parameters or bytes of parameters, once these units are gone."""
        table = self._graph.removal(roots)

        def stays(labels: NDArray[np.int64]) -> int:
            return int((~table[self._graph.coupling.roots(labels)]).sum())

        if goal == "macs":
            work = self._graph.work
            total = sum(item.constant * math.prod(map(stays, item.labels)) for item in work)
            return total // self._samples
        sizes = [(math.prod(map(stays, axes)), size) for size, axes in self._weights]
        return sum(count * (size if goal == "bytes" else 1) for count, size in sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A goal, what was asked for and what came out, in the goal's own unit."""

    goal: Goal
    wanted: float
    reached: float


def least_ratio(excess: Callable[[float], float]) -> float | None:
    """The smallest ratio at which nothing is in excess, by bisection; None if there is none.

    excess: how much more than its limit there is, as a factor; it falls, in steps, as the ratio
    rises from 0 to 1, and up to 1 nothing is in excess.
    """
    if excess(1.0) > 1:
        return None
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if excess(middle) <= 1:
            high = middle
        else:
            low = middle
    return high
