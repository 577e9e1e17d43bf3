"""Two models on the same samples: how much one lost against the other, and how sure that is."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import WorkloadError
from edgekit.core.figure import Figure, Place, Provenance
from edgekit.core.verdict import Limit
from edgekit.evaluate.builtin import Outputs, Scores
from edgekit.evaluate.intervals import (
    Interval,
    jackknife,
    mean_interval,
    no_change,
    ratio_interval,
    tango,
    wilson,
)
from edgekit.evaluate.metrics import Metric, checked_scores
from edgekit.evaluate.quantiles import CONFIDENCE

Array = NDArray[Any]
BLOCKS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedBatch:
    """Outputs of both models on the same samples, by output name, and the targets."""

    reference: Outputs
    candidate: Outputs
    target: Array | None

    @property
    def count(self) -> int:
        """How many samples."""
        return len(next(iter(self.reference.values())))


Batches = Callable[[], Iterable[PairedBatch]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedResult:
    """What compression did to a metric.

    drop: ``metric_drop`` in points, positive is worse. reference, candidate: the metric of each
    model. lost, won: samples that only the reference, or only the candidate, got right; None where
    the metric does not say right or wrong.
    """

    drop: Figure
    reference: Figure
    candidate: Figure
    lost: int | None = None
    won: int | None = None

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All three figures."""
        return (self.drop, self.reference, self.candidate)


def paired_drop(metric: Metric, batches: Batches, *, seed: int = 0) -> PairedResult:
    """The metric of both models and its drop, reference minus candidate, so that positive is worse.

    A metric of 0..1 drops in points of a hundredth; any other in percent of the reference's value,
    which is said in ``how``. The interval of each model's metric ends where the metric's own range
    does (cosine at 1). batches: gives the same batches each time that it is called.
    Raises: WorkloadError for scores that are NaN, no samples, or a reference of 0 to compare with.
    """
    scores = _paired_scores(metric, batches)
    if scores is None:
        return _of_whole_sets(metric, batches)
    reference, candidate = scores
    is_binary = bool(np.isin(reference, (0, 1)).all() and np.isin(candidate, (0, 1)).all())
    if is_binary and metric.is_bounded is not False:
        return _of_proportions(metric, reference, candidate)
    return _of_scores(metric, reference, candidate, seed)


def samples_to_decide(figure: Figure, limit: Limit) -> int | None:
    """About how many samples would put the interval on one side of the bound.

    The interval shrinks with the root of the number of samples. None where the value sits on the
    bound, or the figure was not sampled: no number of samples decides it then.
    """
    if figure.value is None or figure.samples is None or figure.low is None or figure.high is None:
        return None
    distance = abs(figure.value - limit.bound)
    if distance == 0:
        return None
    # The end of the interval that reaches towards the bound is the one that must come home.
    is_below = figure.value < limit.bound
    half = figure.high - figure.value if is_below else figure.value - figure.low
    return max(figure.samples, math.ceil(figure.samples * (half / distance) ** 2))


def _paired_scores(metric: Metric, batches: Batches) -> tuple[Scores, Scores] | None:
    reference, candidate, done = [], [], 0
    for index, batch in enumerate(batches()):
        where = f"batch {index} (samples {done} to {done + batch.count - 1})"
        with _on_outputs_of("float"):
            ours = metric.per_sample(batch.reference, batch.target, batch.reference)
            if ours is None:
                return None
            reference.append(checked_scores(ours, batch.count, metric=metric.name, where=where))
        with _on_outputs_of("compressed"):
            theirs = metric.per_sample(batch.candidate, batch.target, batch.reference)
            if theirs is None:
                return None
            candidate.append(checked_scores(theirs, batch.count, metric=metric.name, where=where))
        done += batch.count
    if not done:
        raise WorkloadError("evaluation data: no samples; at least 1 is needed")
    return np.concatenate(reference), np.concatenate(candidate)


@contextmanager
def _on_outputs_of(which: str) -> Iterator[None]:
    """Say of a metric that fails which model's outputs it failed on."""
    try:
        yield
    except WorkloadError as fault:
        raise WorkloadError(f"{fault} (on outputs of the {which} model)") from fault


def _of_proportions(metric: Metric, reference: Scores, candidate: Scores) -> PairedResult:
    count = len(reference)
    lost = int(np.sum((reference == 1) & (candidate == 0)))
    won = int(np.sum((reference == 0) & (candidate == 1)))
    if not metric.higher_is_better:
        lost, won = won, lost
    flips = f"{lost} samples lost and {won} won of {count}"
    return PairedResult(
        drop=_drop(metric, tango(lost, won, count), count, flips),
        reference=_share("metric_float", metric, wilson(int(reference.sum()), count), count),
        candidate=_share("metric_compressed", metric, wilson(int(candidate.sum()), count), count),
        lost=lost,
        won=won,
    )


def _of_scores(metric: Metric, reference: Scores, candidate: Scores, seed: int) -> PairedResult:
    count, sign = len(reference), _sign(metric)
    loss = (reference - candidate) * sign
    if metric.is_bounded:
        drop, unit = mean_interval(loss, scale=1.0, seed=seed), "mean of paired differences"
    else:
        total = _not_zero(metric, float(reference.mean()))
        weights = reference * math.copysign(1.0, total)
        drop, unit = ratio_interval(loss, weights, scale=1.0, seed=seed), _relative(total)
    size = 1.0 if metric.is_bounded else float(np.abs(reference).max()) or 1.0
    return PairedResult(
        drop=_drop(metric, drop, count, unit),
        reference=_level(
            "metric_float", metric, mean_interval(reference, scale=size, seed=seed), count
        ),
        candidate=_level(
            "metric_compressed", metric, mean_interval(candidate, scale=size, seed=seed), count
        ),
    )


def _of_whole_sets(metric: Metric, batches: Batches) -> PairedResult:
    count = sum(batch.count for batch in batches())
    blocks = min(BLOCKS, count)
    full = _pair_of_values(metric, batches, None, blocks)
    # One sample has no other to be left out beside it.
    left_out = [
        _pair_of_values(metric, batches, block, blocks) for block in range(blocks) if blocks > 1
    ]
    rows = np.array(left_out).reshape(len(left_out), 2)
    drops = np.array([_drop_of(metric, *pair) for pair in left_out])
    size = 1.0 if metric.is_bounded else abs(full[0]) or 1.0
    note = "mean of the whole set" if metric.is_bounded else _relative(full[0])
    return PairedResult(
        drop=_drop(
            metric, _block_interval(_drop_of(metric, *full), drops, count, 1.0), count, note
        ),
        reference=_level(
            "metric_float", metric, _block_interval(full[0], rows[:, 0], count, size), count
        ),
        candidate=_level(
            "metric_compressed", metric, _block_interval(full[1], rows[:, 1], count, size), count
        ),
    )


def _block_interval(full: float, left_out: Scores, count: int, scale: float) -> Interval:
    if len(left_out) < 2:
        return no_change(full, count, scale)
    return jackknife(full, left_out, count=count, scale=scale)


def _pair_of_values(
    metric: Metric, batches: Batches, block: int | None, blocks: int
) -> tuple[float, float]:
    """The metric of both models on all samples but those of one block."""
    if metric.whole is None:
        raise WorkloadError(f"metric {metric.name}: no score a sample and no value of a whole set")
    with _on_outputs_of("float"):
        reference = metric.whole(
            (batch.reference, batch.target) for batch in _without(batches, block, blocks)
        )
    with _on_outputs_of("compressed"):
        candidate = metric.whole(
            (batch.candidate, batch.target) for batch in _without(batches, block, blocks)
        )
    return reference, candidate


def _without(batches: Batches, block: int | None, blocks: int) -> Iterator[PairedBatch]:
    start = 0
    for batch in batches():
        index = np.arange(start, start + batch.count)
        start += batch.count
        is_kept = np.ones(batch.count, bool) if block is None else index % blocks != block
        if is_kept.any():
            yield PairedBatch(
                reference=_rows(batch.reference, is_kept),
                candidate=_rows(batch.candidate, is_kept),
                target=None if batch.target is None else batch.target[is_kept],
            )


def _rows(outputs: Outputs, is_kept: NDArray[np.bool_]) -> Mapping[str, Array]:
    return {name: values[is_kept] for name, values in outputs.items()}


def _drop_of(metric: Metric, reference: float, candidate: float) -> float:
    loss = (reference - candidate) * _sign(metric)
    return loss if metric.is_bounded else loss / abs(_not_zero(metric, reference))


def _sign(metric: Metric) -> float:
    return 1.0 if metric.higher_is_better else -1.0


def _not_zero(metric: Metric, value: float) -> float:
    if value == 0:
        raise WorkloadError(
            f"metric {metric.name}: the float model has 0, and a change cannot be told in percent "
            "of it; choose a metric of 0..1, or set its attribute is_bounded"
        )
    return value


def _relative(reference: float) -> str:
    return f"percent of the float model's {reference:.4g}"


def _drop(metric: Metric, interval: Interval, count: int, note: str) -> Figure:
    how = f"{metric.name}, paired on the same samples; {note}; {interval.method}"
    return _figure("metric_drop", interval.scaled(100), "points", count, how)


def _share(name: str, metric: Metric, interval: Interval, count: int) -> Figure:
    return _figure(name, interval.scaled(100), "%", count, f"{metric.name}; {interval.method}")


def _level(name: str, metric: Metric, interval: Interval, count: int) -> Figure:
    interval = interval.within(metric.lowest, metric.highest)
    return _figure(name, interval, "", count, f"{metric.name}; {interval.method}")


def _figure(name: str, interval: Interval, unit: str, count: int, how: str) -> Figure:
    return Figure(
        name=name,
        value=interval.value,
        unit=unit,
        provenance=Provenance.MEASURED,
        place=Place.HOST,
        how=how,
        low=interval.low,
        high=interval.high,
        confidence=CONFIDENCE,
        samples=count,
    )
