"""Quantiles that the intervals need; scipy is too heavy to ship for four functions."""

import math
from functools import cache
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()
CONFIDENCE = 0.95


def normal_quantile(probability: float) -> float:
    """The standard normal quantile."""
    return NORMAL.inv_cdf(probability)


@cache
def student_quantile(probability: float, freedom: int) -> float:
    """Student's t quantile for a probability of 0.5 or more and ``freedom`` degrees of freedom.

    With t = sqrt(freedom) * tan(angle) the density becomes cos(angle) ** (freedom - 1), which is
    integrated numerically; the angle is found by bisection.
    Raises: ValueError outside 0.5 <= probability < 1 or for less than 1 degree of freedom.
    """
    if freedom < 1 or not 0.5 <= probability < 1:
        raise ValueError(f"no t quantile for probability {probability}, {freedom} degrees")
    nodes, weights = np.polynomial.legendre.leggauss(200)

    def area(angle: float) -> float:
        points = (nodes + 1) * angle / 2
        return float(weights @ np.cos(points) ** (freedom - 1)) * angle / 2

    wanted = (2 * probability - 1) * area(math.pi / 2)
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        if area(middle) < wanted:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(high)


@cache
def median_ranks(count: int, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """Ranks (from 0) of the sorted values that enclose the median with at least ``confidence``.

    The number of values below the median is binomial(count, 1/2) whatever their distribution, so
    the interval is exact.
    Source: Thompson 1936, doi:10.1214/aoms/1177732502.
    Raises: ValueError when even the extremes do not reach the confidence.
    """
    tail = (1 - confidence) / 2
    if 2.0**-count > tail:
        raise ValueError(f"{count} values cannot enclose a median with confidence {confidence}")
    # Logarithms: binomials of 2,000 overflow a float.
    log_half = count * math.log(0.5)
    reached, rank = 0.0, 0
    while True:
        log_choose = math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1)
        reached += math.exp(log_choose + log_half)
        if reached > tail:
            return rank - 1, count - rank
        rank += 1
