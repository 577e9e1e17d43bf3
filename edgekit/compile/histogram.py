"""How often values of each size occur, in memory that does not grow with their number."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# On either side of zero. The largest value lies in the outer half of them, so that a range of
# 255 steps has 8 bins or more in each step.
SIDE_BINS = 4096
# Widths are powers of two: bins that become twice as wide merge in pairs, and nothing is lost.
_LEAST_EXPONENT = -120


class Histogram:
    """Counts of values in equal bins on both sides of zero.

    Bins become wider when a larger value comes. width: of a bin; 0 before a value that is not 0.
    zeros: how many values were exactly 0; they are in no bin. low, high: the extremes.
    """

    __slots__ = ("counts", "high", "low", "width", "zeros")

    def __init__(self) -> None:
        self.counts: Array = np.zeros(2 * SIDE_BINS, np.int64)
        self.width = 0.0
        self.zeros = 0
        self.low, self.high = math.inf, -math.inf

    @property
    def total(self) -> int:
        """How many values there were."""
        return int(self.counts.sum()) + self.zeros

    @property
    def edges(self) -> Array:
        """Where the bins begin and end. Shapes: (2 * SIDE_BINS + 1,)."""
        return np.arange(-SIDE_BINS, SIDE_BINS + 1) * self.width

    @property
    def centres(self) -> Array:
        """The middle of each bin. Shapes: (2 * SIDE_BINS,)."""
        return (np.arange(-SIDE_BINS, SIDE_BINS) + 0.5) * self.width

    def add(self, values: Array, low: float, high: float) -> None:
        """Count these finite values, whose extremes are low and high."""
        self.widen(low, high)
        self._widen_bins(max(-low, high))
        zeros = values.size - int(np.count_nonzero(values))
        self.zeros += zeros
        if self.width:
            places = np.floor(values * np.float32(1 / self.width)).astype(np.int32)
            places += SIDE_BINS
            # The largest value may lie on the outer edge of the last bin.
            np.minimum(places, 2 * SIDE_BINS - 1, out=places)
            self.counts += np.bincount(places.ravel(), minlength=2 * SIDE_BINS)
            self.counts[SIDE_BINS] -= zeros

    def widen(self, low: float, high: float) -> None:
        """Note extremes without counting values."""
        self.low, self.high = min(self.low, low), max(self.high, high)

    def share_outside(self, low: float, high: float) -> float:
        """The share of all values past these ends; a bin counts by its middle."""
        if not self.total:
            return 0.0
        centres = self.centres
        past = self.counts[(centres < low) | (centres > high)]
        return float(past.sum() / self.total)

    def folded(self) -> "Histogram":
        """The histogram of the magnitudes."""
        found = Histogram()
        found.counts[SIDE_BINS:] = self.counts[SIDE_BINS:] + self.counts[SIDE_BINS - 1 :: -1]
        found.width, found.zeros = self.width, self.zeros
        found.low, found.high = 0.0, max(-self.low, self.high)
        return found

    def _widen_bins(self, largest: float) -> None:
        if largest <= self.width * SIDE_BINS:
            return
        exponent = max(math.ceil(math.log2(largest / SIDE_BINS)), _LEAST_EXPONENT)
        wanted = math.ldexp(1.0, exponent)
        while self.width and self.width < wanted:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.zeros_like(self.counts)
            self.counts[SIDE_BINS // 2 : SIDE_BINS // 2 + SIDE_BINS] = merged
            self.width *= 2
        self.width = wanted
