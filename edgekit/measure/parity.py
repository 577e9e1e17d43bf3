"""How far two sets of outputs on the same samples are apart, element by element."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import WorkloadError
from edgekit.core.figure import Figure, Place, Provenance, exact
from edgekit.data.dataset import Dataset
from edgekit.evaluate.builtin import Scores, cosine_rows
from edgekit.evaluate.intervals import mean_interval
from edgekit.evaluate.quantiles import CONFIDENCE

BATCH = 64


@dataclass(slots=True)
class _Extremes:
    """What is kept while the outputs stream by; the only thing here that changes."""

    largest_error: float = 0.0
    largest_value: float = 0.0
    cosines: list[Scores] = field(default_factory=list)


def parity_figures(
    reference: Dataset, candidate: Dataset, *, subject: str, seed: int = 0
) -> tuple[Figure, ...]:
    """Largest absolute and relative error, mean and lowest cosine, over all outputs and samples.

    subject: what is compared ("export", "compression"), the figures' first word: for example
    ``export_max_error``. The relative error is told against the largest reference value.
    Raises: WorkloadError when the two do not hold the same samples, names and shapes.
    """
    _expect_alike(reference, candidate)
    found = _Extremes()
    pairs = zip(reference.batches(BATCH), candidate.batches(BATCH), strict=True)
    for ours, theirs in pairs:
        rows = [_observe_(found, ours[name], theirs[name]) for name in ours]
        found.cosines.append(np.asarray(np.min(rows, axis=0)))
    cosines = np.concatenate(found.cosines)
    samples = f"{len(cosines)} samples"
    relative = found.largest_error / found.largest_value if found.largest_value else 0.0
    if found.largest_error and not found.largest_value:
        raise WorkloadError(f"{subject}: every reference output is 0; errors have no scale")
    return (
        exact(f"{subject}_max_error", found.largest_error, "", f"largest of {samples}"),
        exact(
            f"{subject}_max_relative_error",
            relative,
            "",
            f"largest error over the largest reference value, {samples}",
        ),
        _mean_cosine(f"{subject}_cosine", cosines, seed),
        exact(f"{subject}_lowest_cosine", float(cosines.min()), "", f"lowest of {samples}"),
    )


def _observe_(found: _Extremes, ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Scores:
    expected, got = ours.astype(np.float64), theirs.astype(np.float64)
    found.largest_error = max(found.largest_error, float(np.abs(expected - got).max()))
    found.largest_value = max(found.largest_value, float(np.abs(expected).max()))
    return cosine_rows(got, expected)


def _mean_cosine(name: str, cosines: Scores, seed: int) -> Figure:
    interval = mean_interval(cosines, scale=1.0, seed=seed)
    # Nothing is more alike than alike: the interval ends where a cosine's own range does.
    low, value, high = np.clip((interval.low, interval.value, interval.high), -1.0, 1.0).tolist()
    return Figure(
        name=name,
        value=value,
        unit="",
        provenance=Provenance.MEASURED,
        place=Place.HOST,
        how=f"mean over samples of the lowest cosine of the outputs; {interval.method}",
        low=low,
        high=high,
        confidence=CONFIDENCE,
        samples=len(cosines),
    )


def _expect_alike(reference: Dataset, candidate: Dataset) -> None:
    ours = {name: spec.shape for name, spec in reference.arrays.items()}
    theirs = {name: spec.shape for name, spec in candidate.arrays.items()}
    if ours != theirs or reference.count != candidate.count:
        raise WorkloadError(
            f"outputs do not go together: {reference.count} samples of {ours} against "
            f"{candidate.count} of {theirs}"
        )
