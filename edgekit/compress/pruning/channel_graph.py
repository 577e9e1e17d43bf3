"""What one run of a model told about its channels."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgekit.compress.pruning.coupling import FIXED, Coupling, Labels

Flags = NDArray[np.bool_]
# A dimension of a named parameter or buffer.
Slot = tuple[str, int]
# A place in the code of one kind of module where channels could be kept in more than one way.
Site = tuple[str, str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Multiply-accumulates of one operator: ``constant`` times how many labels of each stay."""

    constant: int
    labels: tuple[Labels, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedCall:
    """An operator that was given sizes by the code of one module. labels: before and after."""

    path: str
    operator: str
    before: tuple[Labels, ...]
    after: tuple[Labels, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """An operator without a rule, on channels that might have gone."""

    operator: str
    path: str


@dataclass(slots=True, kw_only=True)
class ChannelGraph:
    """What one run of a model told about its channels.

    slots: labels of each dimension of each parameter and buffer. heads: labels that number
    attention heads. normalized: labels over which something was averaged. embedded: labels of
    an embedding's width. consumed: slots that end in a sum (a layer's inputs). whole_groups:
    weights of grouped convolutions of which whole groups go, not channels inside each group.
    sized: calls of operators that the model's own code gave sizes. blocked: operators without a
    rule. sites: places with more than one way, and the way that goes unless another is chosen.
    norm_widths: what each layer norm runs over, and channels and groups of each group norm, by
    module path.
    """

    coupling: Coupling = field(default_factory=Coupling)
    slots: dict[Slot, Labels] = field(default_factory=dict)
    heads: list[Labels] = field(default_factory=list)
    normalized: list[Labels] = field(default_factory=list)
    embedded: list[Labels] = field(default_factory=list)
    consumed: set[Slot] = field(default_factory=set)
    whole_groups: set[str] = field(default_factory=set)
    work: list[Work] = field(default_factory=list)
    sized: list[SizedCall] = field(default_factory=list)
    blocked: list[Blocked] = field(default_factory=list)
    sites: dict[Site, int] = field(default_factory=dict)
    site_labels: dict[Site, Labels] = field(default_factory=dict)
    norm_widths: dict[str, tuple[Labels, ...]] = field(default_factory=dict)

    def roots_of(self, marked: Sequence[Labels]) -> frozenset[int]:
        """The channels among marked labels, without the fixed one."""
        if not marked:
            return frozenset()
        found = np.unique(self.coupling.roots(np.concatenate(marked)))
        return frozenset(found[found != FIXED].tolist())

    def removal(self, roots: Sequence[int]) -> Flags:
        """A table over all labels: whether its channel goes."""
        table = np.zeros(self.coupling.count, dtype=bool)
        table[np.asarray(roots, dtype=np.int64)] = True
        return table
