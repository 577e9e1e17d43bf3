"""Sums over samples from which signal to noise, cosine and saturation follow, in flat memory."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.core.debugging import decibels
from edgekit.graph.model import Array, TensorQuantization


@dataclass(slots=True)
class ChannelSums:
    """What one scale for all channels costs each. Shapes: all (channels,); channels come last.

    signal: sum of squares of the float values. lost: of what the scale makes of them, less them.
    largest: of their sizes.
    """

    signal: Array
    lost: Array
    largest: Array

    @classmethod
    def of_none(cls, channels: int) -> "ChannelSums":
        """Before the first sample."""
        return cls(*(np.zeros(channels) for _ in range(3)))

    def add_(self, wanted: Array, dtype: np.dtype[Any], quantization: TensorQuantization) -> None:
        """One sample of float values. Shapes: (..., channels)."""
        rows = wanted.reshape(-1, wanted.shape[-1]).astype(np.float64)
        rows = np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
        step, low, high = real_range(dtype, quantization)
        held = np.rint(rows.clip(low, high) / step) * step
        self.signal += np.square(rows).sum(axis=0)
        self.lost += np.square(held - rows).sum(axis=0)
        self.largest = np.maximum(self.largest, np.abs(rows).max(axis=0, initial=0.0))

    @property
    def unevenness(self) -> float:
        """The largest channel over the median one of those that are not always zero; 1 of none."""
        used = self.largest[self.largest > 0]
        return float(used.max() / np.median(used)) if used.size else 1.0

    @property
    def noise_ratio(self) -> float:
        """What the scale costs a channel as a share of its own power, mean of the channels."""
        is_used = self.signal > 0
        return float(np.mean(self.lost[is_used] / self.signal[is_used])) if is_used.any() else 0.0


@dataclass(slots=True)
class LayerSums:
    """What one point adds up. All sums are of squares or counts, over every sample so far.

    clipping, rounding: of the error that the float values get from the artifact's scale alone.
    small: float values that are not 0 and less than half a step. largest: of the float values'
    sizes. dtype: of the integers, None where the artifact has floats. has_channels: the last axis
    holds channels, of which ``channels`` tells.
    """

    has_channels: bool = False
    channels: ChannelSums | None = None

    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    found_signal: float = 0.0
    count: int = 0
    integers: int = 0
    saturated: int = 0
    outside: int = 0
    small: int = 0
    small_signal: float = 0.0
    clipping: float = 0.0
    rounding: float = 0.0
    largest: float = 0.0
    dtype: np.dtype[Any] | None = None

    def add_(self, wanted: Array, stored: Array, quantization: TensorQuantization | None) -> None:
        """One sample: the float model's values, and the artifact's as they are stored.

        Shapes: of as many elements, in one order. Where the float values are not finite nothing
        is compared; where only the artifact's are not, the noise is infinite.
        """
        floats = wanted.reshape(-1).astype(np.float64)
        held = stored.reshape(-1)
        found = held.astype(np.float64)
        if quantization is not None:
            found = real_values(held, quantization)
        is_known = np.isfinite(floats)
        floats, found, held = floats[is_known], found[is_known], held[is_known]
        if not np.isfinite(found).all():
            self.noise = float("inf")
            found = np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)
        self.signal += float(floats @ floats)
        self.found_signal += float(found @ found)
        self.product += float(floats @ found)
        self.noise += float(np.square(found - floats).sum())
        self.count += floats.size
        self.largest = max(self.largest, float(np.abs(floats).max(initial=0.0)))
        if quantization is not None:
            self._add_range_(floats, held, quantization)
            self._add_channels_(wanted, stored.dtype, quantization)

    def _add_channels_(
        self, wanted: Array, dtype: np.dtype[Any], quantization: TensorQuantization
    ) -> None:
        if not (self.has_channels and wanted.ndim):
            return
        if self.channels is None:
            self.channels = ChannelSums.of_none(wanted.shape[-1])
        self.channels.add_(wanted, dtype, quantization)

    def _add_range_(self, floats: Array, held: Array, quantization: TensorQuantization) -> None:
        step, low, high = real_range(held.dtype, quantization)
        info = np.iinfo(held.dtype)
        # The end that stands for 0 is where a ReLU's zeros belong.
        if low != 0:
            self.saturated += int((held == info.min).sum())
        if high != 0:
            self.saturated += int((held == info.max).sum())
        self.dtype = held.dtype
        self.integers += held.size
        self.outside += int(((floats < low - step / 2) | (floats > high + step / 2)).sum())
        small = floats[(floats != 0) & (np.abs(floats) < step / 2)]
        self.small += small.size
        self.small_signal += float(small @ small)
        inside = floats.clip(low, high)
        self.clipping += float(np.square(floats - inside).sum())
        self.rounding += float(np.square(np.rint(inside / step) * step - inside).sum())

    @property
    def snr_db(self) -> float:
        """Sum of squares of the float values over that of the difference."""
        return decibels(self.noise, self.signal)

    @property
    def noise_ratio(self) -> float:
        """The difference's power over the signal's; infinite where there is no signal."""
        if self.noise == 0:
            return 0.0
        return self.noise / self.signal if self.signal else float("inf")

    @property
    def grid_snr_db(self) -> float | None:
        """What the scale alone costs; None where the artifact's values are floats."""
        return decibels(self.clipping + self.rounding, self.signal) if self.integers else None

    @property
    def cosine(self) -> float:
        """Of all values as one vector each; two zero vectors are alike."""
        sizes = np.sqrt(self.signal) * np.sqrt(self.found_signal)
        if sizes == 0:
            return float(self.signal == self.found_signal)
        return float(np.clip(self.product / sizes, -1.0, 1.0))

    def share(self, count: int) -> float | None:
        """A count of integers as a share; None where the artifact's values are floats."""
        return count / self.integers if self.integers else None


def real_values(stored: Array, quantization: TensorQuantization) -> Array:
    """Integers of an activation as the values that they stand for: one scale a tensor."""
    scale, point = float(quantization.scales[0]), int(quantization.zero_points[0])
    values: Array = (stored.astype(np.float64) - point) * scale
    return values


def real_range(
    dtype: np.dtype[Any], quantization: TensorQuantization
) -> tuple[float, float, float]:
    """(step, lowest value, highest value) that integers of a dtype can stand for."""
    scale, point = float(quantization.scales[0]), int(quantization.zero_points[0])
    info = np.iinfo(dtype)
    return scale, (info.min - point) * scale, (info.max - point) * scale
