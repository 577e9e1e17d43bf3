"""Confidence intervals of one number and of a paired difference.

Which one is used where: scores that are 0 or 1 get Wilson (one model) and Tango (two models);
real-valued scores get a bias-corrected and accelerated bootstrap; a number that only a whole set
has gets a delete-block jackknife. None ever has zero width: where a set of samples shows no
variation at all, the interval says what that many samples can exclude.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgekit.evaluate.quantiles import (
    CONFIDENCE,
    NORMAL,
    normal_quantile,
    student_quantile,
)

Scores = NDArray[np.float64]

RESAMPLES = 2000
SMALL_SAMPLE = 30
_CHUNK = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with the interval around it, and the method in words."""

    value: float
    low: float
    high: float
    method: str

    def scaled(self, factor: float) -> "Interval":
        """The same in another unit; ``factor`` is positive."""
        return Interval(
            value=self.value * factor,
            low=self.low * factor,
            high=self.high * factor,
            method=self.method,
        )

    def within(self, lowest: float, highest: float) -> "Interval":
        """The same, cut where no value can lie; the value itself stays inside."""
        return replace(
            self,
            low=min(max(self.low, lowest), self.value),
            high=max(min(self.high, highest), self.value),
        )


def wilson(successes: int, count: int, confidence: float = CONFIDENCE) -> Interval:
    """The score interval of one proportion.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    z = normal_quantile((1 + confidence) / 2)
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    half = spread / (1 + z * z / count)
    return Interval(
        value=share,
        low=0.0 if successes == 0 else centre - half,
        high=1.0 if successes == count else centre + half,
        method="Wilson's score interval",
    )


def tango(lost: int, won: int, count: int, confidence: float = CONFIDENCE) -> Interval:
    """The score interval of a difference of two proportions on the same samples.

    lost: samples right in the first model and wrong in the second; won: the other way round. The
    value is ``(lost - won) / count``. Without any change it is still as wide as ``count`` samples
    leave it: about 3.8 / count.
    Source: Tango 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B.
    """
    z = normal_quantile((1 + confidence) / 2)
    value = (lost - won) / count

    def bound(sign: float) -> float:
        inside, outside = value, sign
        for _ in range(100):
            middle = (inside + outside) / 2
            if abs(_tango_statistic(middle, lost, won, count)) < z:
                inside = middle
            else:
                outside = middle
        return outside

    return Interval(
        value=value, low=bound(-1.0), high=bound(1.0), method="Tango's paired score interval"
    )


def _tango_statistic(drop: float, lost: int, won: int, count: int) -> float:
    """The score statistic of ``drop``, with the nuisance parameter at its restricted optimum."""
    linear = (2 * count - lost + won) * drop - lost - won
    constant = -won * drop * (1 - drop)
    root = math.sqrt(max(linear * linear - 8 * count * constant, 0.0))
    won_share = (root - linear) / (4 * count)
    variance = count * (2 * won_share + drop * (1 - drop))
    distance = lost - won - count * drop
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def mean_interval(values: Scores, *, scale: float, seed: int) -> Interval:
    """The interval of a mean; ``scale`` is the size that one value can have (see ``no_change``)."""
    return ratio_interval(values, np.ones_like(values), scale=scale, seed=seed)


def ratio_interval(values: Scores, weights: Scores, *, scale: float, seed: int) -> Interval:
    """The interval of ``sum(values) / sum(weights)`` over samples that carry both.

    A bias-corrected and accelerated bootstrap; below 30 samples, where that is too narrow, the
    wider of it and Student's t around the linearized ratio.
    """
    value = float(values.sum() / weights.sum())
    influence = (values - value * weights) / weights.mean()
    # Values that differ only by rounding vary as little as ones that are equal.
    if len(values) < 2 or np.ptp(influence) <= 1e-12 * max(scale, abs(value)):
        return no_change(value, len(values), scale)
    low, high = bca(values, weights, seed=seed)
    method = f"BCa bootstrap, {RESAMPLES} resamples"
    if len(values) < SMALL_SAMPLE:
        quantile = student_quantile((1 + CONFIDENCE) / 2, len(values) - 1)
        half = quantile * float(influence.std(ddof=1)) / math.sqrt(len(values))
        low, high = min(low, value - half), max(high, value + half)
        method = f"the wider of Student's t and {method}"
    return Interval(value=value, low=min(low, value), high=max(high, value), method=method)


def no_change(value: float, count: int, scale: float) -> Interval:
    """The interval where all samples agree: what ``count`` of them cannot exclude.

    With probability 95% a share of ``-ln(0.025) / count`` of all samples (the rule of three, two
    sided) or less behaves otherwise, each by at most ``scale``.
    Source: Hanley & Lippman-Hand 1983, doi:10.1001/jama.1983.03330370053031.
    """
    half = min(-math.log((1 - CONFIDENCE) / 2) / count, 1.0) * scale
    return Interval(
        value=value,
        low=value - half,
        high=value + half,
        method=f"no variation in {count} samples: rule of three",
    )


def bca(
    values: Scores, weights: Scores, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Bounds of ``sum(values) / sum(weights)`` by the BCa bootstrap over samples.

    Source: Efron 1987, doi:10.1080/01621459.1987.10478410.
    """
    value = values.sum() / weights.sum()
    drawn = np.sort(_resampled_ratios(values, weights, seed, resamples))
    below = (np.sum(drawn < value) + np.sum(drawn <= value)) / (2 * resamples)
    bias = normal_quantile(min(max(float(below), 1 / resamples), 1 - 1 / resamples))
    left_out = (values.sum() - values) / (weights.sum() - weights)
    distance = left_out.mean() - left_out
    spread = float(np.sum(distance**2)) ** 1.5
    acceleration = float(np.sum(distance**3)) / (6 * spread) if spread else 0.0
    tail = (1 - CONFIDENCE) / 2

    def at(probability: float) -> float:
        z = bias + normal_quantile(probability)
        shifted = NORMAL.cdf(bias + z / (1 - acceleration * z))
        return float(np.quantile(drawn, shifted))

    return at(tail), at(1 - tail)


def _resampled_ratios(values: Scores, weights: Scores, seed: int, resamples: int) -> Scores:
    generator = np.random.default_rng(seed)
    count = len(values)
    # In chunks, so that memory stays flat whatever the number of samples.
    rows = max(1, _CHUNK // count)
    ratios = []
    for start in range(0, resamples, rows):
        chosen = generator.integers(0, count, (min(rows, resamples - start), count))
        ratios.append(values[chosen].sum(axis=1) / weights[chosen].sum(axis=1))
    return np.concatenate(ratios)


def jackknife(full: float, left_out: Scores, *, count: int, scale: float) -> Interval:
    """The interval of a number from its values with one block of samples left out at a time.

    Raises: ValueError for less than two blocks.
    Source: Efron & Stein 1981, doi:10.1214/aos/1176345462.
    """
    blocks = len(left_out)
    if blocks < 2:
        raise ValueError("a jackknife needs two blocks")
    variance = (blocks - 1) / blocks * float(np.sum((left_out - left_out.mean()) ** 2))
    if variance <= (1e-12 * max(scale, abs(full))) ** 2:
        return no_change(full, count, scale)
    half = student_quantile((1 + CONFIDENCE) / 2, blocks - 1) * math.sqrt(variance)
    return Interval(
        value=full, low=full - half, high=full + half, method=f"jackknife, {blocks} blocks"
    )
