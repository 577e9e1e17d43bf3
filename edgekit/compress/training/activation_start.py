"""The ranges that training with rounded activations begins with: calibration, in torch.

Two runs over samples: for the smallest and largest value of every point, and for a histogram, in
which the share of the range is chosen whose 255 steps lose least by squared error. Memory does not
grow with the number of samples.
Source: Nagel et al. 2021, arXiv:2106.08295, section 3.1 (ranges by mean squared error).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Call
from edgekit.compress.training.activation_watch import Watcher, watch
from edgekit.compress.training.function_calls import Place
from edgekit.compress.training.lsq import TOP
from edgekit.core.errors import StepError

BINS = 2048
_SHARES = torch.linspace(0.4, 1.0, 61, dtype=torch.float64)
# What is larger is a mask for a softmax, as attention adds it, and no activation.
LARGEST = 1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRange:
    """A range; zero is in it. largest: value that was seen."""

    low: float
    high: float
    largest: float = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether 255 steps can span it."""
        return self.high - self.low > 0 and max(-self.low, self.high) < LARGEST


def start_ranges(
    part: nn.Module,
    places: Sequence[Place],
    run: Call,
    model: nn.Module,
    samples: Iterable[Mapping[str, Tensor]],
) -> list[StartRange]:
    """The range of every point on samples that can be gone over twice.

    Raises: StepError for a point that takes a value that is NaN or infinite.
    """
    extremes = _Extremes(part, places)
    watch(extremes, run, model, samples)
    full = extremes.ranges()
    histograms = _Histograms(part, places, full)
    watch(histograms, run, model, samples)
    return [
        best_range(counts, item) if item.is_usable else item
        for counts, item in zip(histograms.counts, full, strict=True)
    ]


def best_range(counts: Tensor, full: StartRange) -> StartRange:
    """The share of a range whose grid loses least of what a histogram over all of it holds."""
    width = (full.high - full.low) / BINS
    centres = full.low + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)
    least, best = math.inf, full
    for share in _SHARES.flip(0).tolist():
        low, high = share * full.low, share * full.high
        step = (high - low) / TOP
        point = round(-low / step)
        whole = ((centres / step).round() + point).clamp(0, TOP) - point
        lost = float((counts * (whole * step - centres).square()).sum())
        if lost < least:
            least, best = lost, StartRange(low=low, high=high, largest=full.largest)
    return best


class _Extremes(Watcher):
    def __init__(self, part: nn.Module, places: Sequence[Place]) -> None:
        super().__init__(part, places)
        self._lows, self._highs = [0.0] * len(places), [0.0] * len(places)

    def look(self, index: int, values: Tensor) -> None:
        low, high = (float(item) for item in torch.aminmax(values))
        if math.isnan(low) or math.isnan(high) or high == math.inf:
            raise StepError(
                f"rounding: on the calibration data '{self.places[index]}' takes values from {low} "
                f"to {high}; look for NaN or infinity in the samples and the weights"
            )
        self._lows[index] = min(self._lows[index], low)
        self._highs[index] = max(self._highs[index], high)

    def ranges(self) -> list[StartRange]:
        """From the smallest to the largest value of each point."""
        pairs = zip(self._lows, self._highs, strict=True)
        return [StartRange(low=low, high=high, largest=high) for low, high in pairs]


class _Histograms(Watcher):
    def __init__(
        self, part: nn.Module, places: Sequence[Place], full: Sequence[StartRange]
    ) -> None:
        super().__init__(part, places)
        self._full = full
        self.counts = [torch.zeros(BINS, dtype=torch.float64) for _ in places]

    def look(self, index: int, values: Tensor) -> None:
        full = self._full[index]
        if not full.is_usable:
            return
        # Zeros are on every grid; in a bin they would seem not to be.
        rest = values[values != 0]
        counts = torch.histc(rest, BINS, min=full.low, max=full.high)
        self.counts[index] += counts.double().cpu()
