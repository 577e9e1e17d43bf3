"""Which channels must go together: a union-find over the positions of every dimension.

A tensor's dimension has one label a position. Labels that were coupled stand for the same channel:
one that is taken out is taken out everywhere. ``FIXED`` is the channel that never goes: samples,
pixels, tokens, inputs and outputs.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FIXED = 0
# Keys that stay where several queries share each.
LEAST_KEYS = 2

# One label a position of one dimension.
Labels = NDArray[np.int64]
# Which of the factors of a dimension that is split keeps its channels: sizes, default -> index.
Choose = Callable[[tuple[int, ...], int], int]


class Coupling:
    """Labels and which of them stand for the same channel."""

    def __init__(self) -> None:
        self._parent = np.arange(1024, dtype=np.int64)
        self._count = 1
        self.is_frozen = False

    @property
    def count(self) -> int:
        """How many labels there are; they are 0..count - 1."""
        return self._count

    def fresh(self, count: int) -> Labels:
        """Labels that are coupled with nothing yet."""
        end = self._count + count
        if end > len(self._parent):
            grown = np.arange(max(end, 2 * len(self._parent)), dtype=np.int64)
            grown[: len(self._parent)] = self._parent
            self._parent = grown
        labels = np.arange(self._count, end, dtype=np.int64)
        self._count = end
        return labels

    def roots(self, labels: Labels) -> Labels:
        """One label for each class: equal roots are the same channel, ``FIXED`` never goes."""
        found = self._parent[labels]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                break
            found = above
        self._parent[labels] = found
        return found

    def couple(self, one: Labels, other: Labels) -> None:
        """Make one channel of every pair. Shapes: both the same."""
        if self.is_frozen:  # everything was said by the first run of the same model
            return
        left, right = self.roots(one).ravel(), self.roots(other).ravel()
        is_apart = left != right
        if not is_apart.any():
            return
        for a, b in zip(left[is_apart].tolist(), right[is_apart].tolist(), strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            self._parent[high] = low  # FIXED is the lowest, so it stays its own root

    def fix(self, labels: Labels) -> None:
        """These channels never go."""
        self.couple(labels, np.zeros_like(labels))

    def is_live(self, labels: Labels) -> bool:
        """Whether any of these channels might go."""
        return bool((self.roots(labels) != FIXED).any())

    def _root(self, label: int) -> int:
        parent = self._parent
        while parent[label] != label:
            label = int(parent[label])
        return label


def fixed(count: int) -> Labels:
    """Labels of a dimension that never changes."""
    return np.zeros(count, dtype=np.int64)


def reshape_labels(
    coupling: Coupling, labels: Sequence[Labels], shape: Sequence[int], choose: Choose
) -> list[Labels]:
    """The labels of a tensor that is viewed in another shape.

    A dimension that is split keeps its channels along one factor (``choose`` says which); all
    that is in one slice of this factor becomes one channel. Of dimensions that are merged, one
    keeps its channels; further ones are fixed. What cannot be told apart is fixed.
    """
    factors = common_factors([len(item) for item in labels], shape)
    if factors is None:
        for item in labels:
            coupling.fix(item)
        return [fixed(size) for size in shape]
    pieces: list[Labels] = []
    last = max((index for index, item in enumerate(labels) if len(item) > 1), default=-1)
    rest = list(factors)
    for index, item in enumerate(labels):
        run = _take(rest, len(item))
        pieces += _split(coupling, item, run, choose, is_last=index == last)
    rest, found = list(factors), []
    for size in shape:
        run = _take(rest, size)
        found.append(_merge(coupling, pieces[: len(run)], run, choose))
        pieces = pieces[len(run) :]
    return found


def common_factors(old: Sequence[int], new: Sequence[int]) -> tuple[int, ...] | None:
    """The finest sizes of which both shapes are made by merging neighbours; None if there are none.

    ``(2, 32)`` and ``(8, 8)`` give ``(2, 4, 8)``.
    """
    cuts = sorted({1, *np.cumprod(old).tolist(), *np.cumprod(new).tolist()})
    pairs = list(pairwise(cuts))
    if 0 in cuts or any(high % low for low, high in pairs):
        return None
    return tuple(high // low for low, high in pairs)


def _take(factors: list[int], size: int) -> tuple[int, ...]:
    run, product = [], 1
    while product < size:
        run.append(factors.pop(0))
        product *= run[-1]
    return tuple(run)


def _split(
    coupling: Coupling, labels: Labels, run: tuple[int, ...], choose: Choose, *, is_last: bool
) -> list[Labels]:
    if len(run) <= 1:
        return [labels] if run else []
    grid = coupling.roots(labels).reshape(run)
    for axis in range(len(run)):
        lines = np.moveaxis(grid, axis, 0).reshape(run[axis], -1)
        if (lines == lines[:, :1]).all():
            return _along(run, axis, lines[:, 0].copy())
    # Heads come before their own dimensions in the last axis; groups come before their channels
    # in the others.
    axis = choose(run, len(run) - 2 if is_last else len(run) - 1)
    lines = np.moveaxis(labels.reshape(run), axis, 0).reshape(run[axis], -1)
    for column in range(1, lines.shape[1]):
        coupling.couple(lines[:, 0], lines[:, column])
    return _along(run, axis, lines[:, 0].copy())


def _along(run: tuple[int, ...], axis: int, labels: Labels) -> list[Labels]:
    return [labels if index == axis else fixed(size) for index, size in enumerate(run)]


def _merge(
    coupling: Coupling, pieces: Sequence[Labels], run: tuple[int, ...], choose: Choose
) -> Labels:
    if not run:
        return fixed(1)
    live = [index for index, item in enumerate(pieces) if coupling.is_live(item)]
    if not live:
        return fixed(int(np.prod(run)))
    kept = live[0]
    if len(live) > 1:
        sizes = tuple(run[index] for index in live)
        kept = live[choose(sizes, shared_axis(sizes))]
    for index in live:
        if index != kept:
            coupling.fix(pieces[index])
    shape = [size if index == kept else 1 for index, size in enumerate(run)]
    return np.broadcast_to(pieces[kept].reshape(shape), run).ravel().copy()


def shared_axis(sizes: Sequence[int]) -> int:
    """Of keys times the queries that share each: whether keys go (0) or one query of each key (1).

    A key takes all its queries with it. Two keys stay, so keys go where there are four:
    litert-torch 0.10 converts attention with one key for several queries to a graph that computes
    something else (2026-11: off by a tenth).
    """
    return 0 if sizes[0] >= 2 * LEAST_KEYS else 1
