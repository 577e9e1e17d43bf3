"""Ranks under a parameter budget: where to save first.

Each layer offers combinations of parameters and harm. Harm is the share of energy that the layer
loses, times the layer's sensitivity; harms are added up over layers, which holds while they are
small. Of each layer the lower convex hull is kept, and steps along the hulls are taken in the order
of harm for each parameter saved: the best there is for every budget that the steps meet exactly
(the linear relaxation of the multiple-choice knapsack, Sinha & Zoltners 1979,
doi:10.1287/opre.27.3.503).
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from edgekit.compress.low_rank.decomposition import Decomposition
from edgekit.compress.low_rank.ranks import Ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way to take a layer: ``ranks`` None leaves it whole. harm: in any unit, 0 for whole."""

    ranks: Ranks | None
    parameters: int
    harm: float


def candidate_ranks(item: Decomposition, multiple: int) -> list[Ranks]:
    """Ranks worth looking at that make a layer smaller and cheaper: multiples, and full sides.

    A layer for which no multiple is small enough is offered powers of two below it.
    """
    for steps in (_multiples(item.full, multiple), _powers(item.full, multiple)):
        found = [ranks for ranks in product(*steps) if item.is_gain(ranks)]
        if found:
            return found
    return []


def options(item: Decomposition, multiple: int, sensitivity: float = 1.0) -> tuple[Option, ...]:
    """The options of a layer that are worth taking, from the whole layer down; see ``lower_hull``.

    sensitivity: harm of losing all energy.
    """
    found = [
        Option(
            ranks=ranks,
            parameters=item.cost(ranks).parameters,
            harm=sensitivity * item.lost(ranks),
        )
        for ranks in candidate_ranks(item, multiple)
    ]
    whole = Option(ranks=None, parameters=item.whole.parameters, harm=0.0)
    return lower_hull([whole, *found])


def lower_hull(given: list[Option]) -> tuple[Option, ...]:
    """The options on the lower convex hull of harm over parameters, by falling parameters.

    From one to the next, harm rises and the harm for each parameter saved does not fall.
    """
    hull: list[Option] = []
    for option in sorted(given, key=lambda item: (-item.parameters, item.harm)):
        if hull and option.parameters == hull[-1].parameters:
            continue
        # Smaller and no worse: what came before is never needed.
        while hull and option.harm <= hull[-1].harm and hull[-1].ranks is not None:
            hull.pop()
        while len(hull) >= 2 and _price(hull[-2], hull[-1]) >= _price(hull[-2], option):
            hull.pop()
        hull.append(option)
    return tuple(hull)


def spend(
    offers: Mapping[str, tuple[Option, ...]], budget_parameters: int
) -> dict[str, Option] | None:
    """An option of each layer, so that all together take at most the budget and harm least.

    offers: the hull of each layer, the whole layer first. None if even the smallest take more.
    """
    level = dict.fromkeys(offers, 0)
    total = sum(hull[0].parameters for hull in offers.values())
    queue = [(_price(hull[0], hull[1]), name) for name, hull in offers.items() if len(hull) > 1]
    heapq.heapify(queue)
    taken: list[str] = []
    while total > budget_parameters:
        if not queue:
            return None
        _, name = heapq.heappop(queue)
        hull = offers[name]
        total -= _saved(hull, level[name] + 1)
        level[name] += 1
        taken.append(name)
        if level[name] + 1 < len(hull):
            heapq.heappush(queue, (_price(hull[level[name]], hull[level[name] + 1]), name))
    _give_back(offers, level, taken, budget_parameters - total)
    return {name: offers[name][level[name]] for name in offers}


def _give_back(
    offers: Mapping[str, tuple[Option, ...]], level: dict[str, int], taken: list[str], slack: int
) -> None:
    """Undo the dearest steps that the last one made needless."""
    for name in reversed(taken):
        saved = _saved(offers[name], level[name])
        if saved <= slack:
            level[name] -= 1
            slack -= saved


def _saved(hull: tuple[Option, ...], level: int) -> int:
    return hull[level - 1].parameters - hull[level].parameters


def _price(larger: Option, smaller: Option) -> float:
    """Harm for each parameter saved."""
    return (smaller.harm - larger.harm) / (larger.parameters - smaller.parameters)


def _multiples(full: Ranks, multiple: int) -> list[list[int]]:
    return [[*range(multiple, size, multiple), size] for size in full]


def _powers(full: Ranks, below: int) -> list[list[int]]:
    powers = [1 << i for i in range(below.bit_length())]
    return [[*(item for item in powers if item < min(size, below)), size] for size in full]
