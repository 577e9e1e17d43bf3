"""What calibration sees of one tensor, and the range that each method makes of it."""

from typing import Any

from numpy.typing import NDArray

from edgekit.compile.histogram import Histogram
from edgekit.compile.range_search import entropy_range, least_error_range, percentile_range
from edgekit.core.calibration import Calibration

Array = NDArray[Any]
Range = tuple[float, float]
# What "auto" takes, which measured best (docs/strategies.md); of more than 8 bits, whose steps are
# small enough for all values, the extremes.
_AUTO_PERCENTILE = 99.999
_FEW_STEPS = 255


class Observer:
    """What was seen of one tensor, and the range that a method makes of it."""

    __slots__ = ("_average", "_histogram", "_is_symmetric", "_settings", "_steps")

    def __init__(self, settings: Calibration, bits: int, *, is_symmetric: bool) -> None:
        self._settings = settings
        self._steps = 2**bits - 1
        self._is_symmetric = is_symmetric
        self._histogram = Histogram()
        self._average: Range | None = None

    @property
    def extremes(self) -> Range:
        """The least and the largest value so far."""
        return self._histogram.low, self._histogram.high

    def add(self, values: Array) -> None:
        """Take in the tensor of one run, all of it finite."""
        low, high = float(values.min()), float(values.max())
        if self._settings.method == "min_max":
            self._histogram.widen(low, high)
        elif self._settings.method == "moving_average":
            self._histogram.add(values, low, high)
            self._move(low, high)
        else:
            self._histogram.add(values, low, high)

    def share_outside(self, low: float, high: float) -> float:
        """The share of the values so far past a range by more than half a step."""
        if self._settings.method == "min_max":
            return 0.0
        slack = (high - low) / self._steps / 2
        return self._histogram.share_outside(low - slack, high + slack)

    def range(self) -> Range:
        """The range by what was seen so far, zero included."""
        low, high = self._by_method(self._settings.method)
        low, high = min(low, 0.0), max(high, 0.0)
        if self._is_symmetric:
            top = max(-low, high)
            return -top, top
        return low, high

    def _move(self, low: float, high: float) -> None:
        """A step of the exponential moving average of the extremes, which begins at the first.

        Source: Jacob et al. 2018, arXiv:1712.05877, section 3.1.
        """
        share = self._settings.momentum
        before = self._average or (low, high)
        self._average = (
            share * before[0] + (1 - share) * low,
            share * before[1] + (1 - share) * high,
        )

    def _by_method(self, method: str) -> Range:
        if method == "moving_average" and self._average is not None:
            return self._average
        if method == "min_max" or (method == "auto" and self._steps > _FEW_STEPS):
            return self.extremes
        counted = self._histogram.folded() if self._is_symmetric else self._histogram
        # Of a symmetric range half of the steps lie above zero.
        steps = self._steps // 2 if self._is_symmetric else self._steps
        if method in ("auto", "percentile"):
            share = _AUTO_PERCENTILE if method == "auto" else self._settings.percentile
            # Of magnitudes all that is left outside is at the upper end.
            return percentile_range(counted, 2 * share - 100 if self._is_symmetric else share)
        if method == "entropy":
            return entropy_range(counted, steps + 1)
        return least_error_range(counted, steps)
