"""Whether two sets of samples look like draws from one distribution."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.figure import Figure, Place, Provenance

PROJECTIONS = 8
# Chance of calling two draws of one distribution different, over all statistics together.
ALARM_RATE = 0.001
# Below it a difference may be sure and still matters to nobody.
LEAST_DISTANCE = 0.15

Rows = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far two sets of samples lie apart.

    distance: the largest Kolmogorov-Smirnov distance over the statistics of a sample, 0..1.
    statistic: the one that it is of. threshold: what two draws of one distribution stay below.
    """

    distance: float
    statistic: str
    threshold: float
    samples: int

    @property
    def is_large(self) -> bool:
        """Whether the two sets are surely, and noticeably, different."""
        return self.distance > max(self.threshold, LEAST_DISTANCE)

    def figure(self) -> Figure:
        """The distance as a figure of a report."""
        return Figure(
            name="calibration_drift",
            value=round(self.distance, 4),
            unit="",
            provenance=Provenance.MEASURED,
            place=Place.HOST,
            how=f"largest Kolmogorov-Smirnov distance of {self.statistic} between calibration and "
            f"evaluation samples; draws of one distribution stay below {self.threshold:.3f}",
            samples=self.samples,
        )


class SampleStatistics:
    """A few numbers a sample, gathered batch by batch: mean, deviation, ends and projections."""

    def __init__(self, *, seed: int = 0) -> None:
        self._seed = seed
        self._projections: dict[str, Rows] = {}
        self._found: dict[str, list[Rows]] = {}

    def add(self, batch: dict[str, Rows]) -> None:
        """Take a batch of inputs by name in. Shapes: (batch, ...)."""
        for name, rows in batch.items():
            flat = rows.reshape(len(rows), -1).astype(np.float64)
            projected = flat @ self._projection(name, flat.shape[1])
            named = {
                "the mean": flat.mean(1),
                "the deviation": flat.std(1),
                "the least value": flat.min(1),
                "the largest value": flat.max(1),
                **{f"projection {i}": projected[:, i] for i in range(PROJECTIONS)},
            }
            for statistic, values in named.items():
                self._found.setdefault(f"{statistic} of '{name}'", []).append(values)

    def values(self) -> dict[str, Rows]:
        """Every statistic with its value a sample."""
        return {name: np.concatenate(parts) for name, parts in self._found.items()}

    def _projection(self, name: str, width: int) -> Rows:
        if name not in self._projections:
            generator = np.random.default_rng([self._seed, len(self._projections)])
            matrix = generator.standard_normal((width, PROJECTIONS)) / math.sqrt(width)
            self._projections[name] = matrix
        return self._projections[name]


def drift(
    ours: Iterable[dict[str, Rows]], theirs: Iterable[dict[str, Rows]], *, seed: int = 0
) -> Drift:
    """How far two sets of inputs lie apart, each read once, in batches by input name.

    Source: the two-sample test of Kolmogorov and Smirnov; its critical distance is
    sqrt(-ln(a / 2) / 2) * sqrt((n + m) / (n m)), here with a shared by all statistics (Bonferroni).
    """
    gathered = []
    for batches in (ours, theirs):
        statistics = SampleStatistics(seed=seed)
        for batch in batches:
            statistics.add(batch)
        gathered.append(statistics.values())
    first, second = gathered
    distances = {name: ks_distance(values, second[name]) for name, values in first.items()}
    worst = max(distances, key=lambda name: distances[name])
    n, m = len(first[worst]), len(second[worst])
    rate = ALARM_RATE / len(distances)
    threshold = math.sqrt(-math.log(rate / 2) / 2) * math.sqrt((n + m) / (n * m))
    return Drift(
        distance=distances[worst], statistic=worst, threshold=min(threshold, 1.0), samples=n
    )


def ks_distance(a: Rows, b: Rows) -> float:
    """The largest difference between two empirical distribution functions.

    Shapes: (n,), (m,).
    """
    points = np.concatenate([a, b])
    ours = np.searchsorted(np.sort(a), points, side="right") / len(a)
    theirs = np.searchsorted(np.sort(b), points, side="right") / len(b)
    return float(np.abs(ours - theirs).max())
