"""Dependency groups: which channels of which layers can only go together.

Fang et al. 2023, arXiv:2301.12900, call them groups of coupled parameters. A unit is one of them:
a channel of a residual stream in all its layers, a neuron, a head with its keys and values. Units
that touch the same layers make up a group, and compete with each other.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekit.compress.example import Run
from edgekit.compress.pruning.channel_graph import ChannelGraph, Site, Slot
from edgekit.compress.pruning.channel_trace import ChannelTrace, trace_once
from edgekit.compress.pruning.coupling import FIXED, LEAST_KEYS

Kind = Literal["channels", "heads", "ffn", "embedding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Units that touch the same layers.

    key: the dimensions of parameters and buffers that they touch, the same as long as the model's
    structure is. root: the one that counts as theirs. units: their roots in the graph. positions:
    the indices of each unit in each dimension. consumed: those of the dimensions that end in a
    sum. least: how many units stay at least.
    Shapes: positions (units, indices of one unit).
    """

    key: tuple[Slot, ...]
    root: Slot
    kind: Kind
    units: tuple[int, ...]
    positions: Mapping[Slot, NDArray[np.int64]]
    consumed: frozenset[Slot] = field(default_factory=frozenset)
    least: int = 1

    @property
    def path(self) -> str:
        """The module that the root belongs to."""
        return self.root[0].rpartition(".")[0]

    @property
    def width(self) -> int:
        """Channels of one unit in the root."""
        return int(self.positions[self.root].shape[1])

    @property
    def channels(self) -> int:
        """Channels in the root."""
        return len(self.units) * self.width

    @property
    def layers(self) -> tuple[str, ...]:
        """All modules that it touches."""
        return tuple(dict.fromkeys(name.rpartition(".")[0] for name, _ in self.key))


def trace_channels(model: nn.Module, run: Run, whole: Collection[str] = ()) -> ChannelTrace:
    """A trace of a model after one run, with the way of keeping channels that keeps most.

    Where the code leaves more than one way (heads or their widths, channels in each group or whole
    groups) and the usual one leads nowhere, the others are tried.
    whole: modules whose own parameters keep their shapes.
    Raises: StepError when the model cannot be run.
    """
    best = _traced(model, run, whole, {})
    for site in list(best.graph.sites):
        if not _is_lost(best.graph, site):
            continue
        for choice in range(2 if site[1] == "convolution" else len(site[2])):
            other = _traced(model, run, whole, {**best.choices, site: choice})
            if _worth(other.graph) > _worth(best.graph):
                best = other
    return best


def _traced(
    model: nn.Module, run: Run, whole: Collection[str], choices: Mapping[Site, int]
) -> ChannelTrace:
    trace = ChannelTrace(model, choices)
    for (name, _), labels in trace.graph.slots.items():
        if name.rpartition(".")[0] in whole:
            trace.coupling.fix(labels)
    trace_once(trace, model, run)
    return trace


def _is_lost(graph: ChannelGraph, site: Site) -> bool:
    """Whether the way that was gone there led to nothing, or perhaps to less than heads."""
    live = graph.roots_of([graph.site_labels.get(site, np.zeros(0, dtype=np.int64))])
    if not live & _units(graph):
        return True
    return site[1] != "convolution" and len(site[2]) > 2 and not live & graph.roots_of(graph.heads)


def _worth(graph: ChannelGraph) -> tuple[int, int]:
    """How many heads, and how many units in all, might go."""
    units = _units(graph)
    return len(units & graph.roots_of(graph.heads)), len(units)


def _units(graph: ChannelGraph) -> set[int]:
    return {root for group in find_groups(graph) for root in group.units}


def find_groups(graph: ChannelGraph) -> tuple[Group, ...]:
    """All groups of a traced model, in the order of its parameters.

    Channels that nothing adds up (the outputs of layers that the outputs do not depend on) are
    left alone.
    """
    units: dict[int, dict[Slot, list[int]]] = {}
    for slot, labels in graph.slots.items():
        for index, root in enumerate(graph.coupling.roots(labels).tolist()):
            if root != FIXED:
                units.setdefault(root, {}).setdefault(slot, []).append(index)
    sets: dict[tuple[tuple[Slot, int], ...], list[int]] = {}
    for root, touched in units.items():
        if any(slot in graph.consumed for slot in touched):
            key = tuple((slot, len(indices)) for slot, indices in touched.items())
            sets.setdefault(key, []).append(root)
    kinds = _Kinds(graph)
    return tuple(
        _group(graph, [slot for slot, _ in key], roots, units, kinds)
        for key, roots in sets.items()
        if len(roots) > 1
    )


def _group(
    graph: ChannelGraph,
    slots: Sequence[Slot],
    roots: Sequence[int],
    units: Mapping[int, Mapping[Slot, Sequence[int]]],
    kinds: "_Kinds",
) -> Group:
    positions = {slot: np.array([units[root][slot] for root in roots]) for slot in slots}
    consumed = frozenset(slot for slot in slots if slot in graph.consumed)
    produced = [slot for slot in slots if slot not in consumed and is_matrix(graph, slot)]
    return Group(
        key=tuple(slots),
        root=min(produced or slots, key=lambda slot: "." not in slot[0]),
        kind=kinds.of(roots, slots),
        units=tuple(roots),
        positions=positions,
        consumed=consumed,
        least=LEAST_KEYS if kinds.are_shared(roots) else 1,
    )


def is_matrix(graph: ChannelGraph, slot: Slot) -> bool:
    """Whether a dimension belongs to a tensor of two or more: weights, and no bias or norm."""
    return (slot[0], 1) in graph.slots


class _Kinds:
    """Tells what units are."""

    def __init__(self, graph: ChannelGraph) -> None:
        self._graph = graph
        self._heads = graph.roots_of(graph.heads)
        self._averaged = graph.roots_of(graph.normalized)
        self._shared = {
            root
            for labels in graph.heads
            for root, after in pairwise(graph.coupling.roots(labels).tolist())
            if root == after
        }
        self._embedded = graph.roots_of(graph.embedded)

    def are_shared(self, roots: Sequence[int]) -> bool:
        """Whether these are keys, each of several queries that stand side by side."""
        return bool(set(roots) & self._shared)

    def of(self, roots: Sequence[int], slots: Sequence[Slot]) -> Kind:
        there = set(roots)
        if there & self._heads:
            return "heads"
        if there & self._embedded or (self._heads and there & self._averaged):
            return "embedding"
        # A convolution's weight has a third dimension.
        is_linear = all((name, 2) not in self._graph.slots for name, _ in slots)
        return "ffn" if is_linear else "channels"


def removed_from(
    graph: ChannelGraph, roots: Sequence[int], consumed: Collection[Slot]
) -> dict[str, tuple[int, ...]]:
    """What goes from which layer: the numbers of its output channels, by module path.

    Parameters that are no layer's weight are named in full.
    """
    table = graph.removal(roots)
    found: dict[str, tuple[int, ...]] = {}
    for slot, labels in graph.slots.items():
        gone = np.flatnonzero(table[graph.coupling.roots(labels)])
        if len(gone) and slot not in consumed and is_matrix(graph, slot):
            found[slot[0].removesuffix(".weight")] = tuple(gone.tolist())
    return found
