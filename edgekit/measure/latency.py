"""How long an artifact takes, against the float artifact, in one process.

On a busy machine absolute times wander, but two runs back to back suffer alike. So the two
artifacts take turns, each pair in the other order, and what is judged is the ratio within pairs.
The interval of its median is exact and assumes nothing of the times' distribution.
"""

import gc
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.codec import to_plain
from edgekit.core.errors import WorkloadError
from edgekit.core.figure import Figure, Place, Provenance
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.data.dataset import open_dataset
from edgekit.evaluate.quantiles import CONFIDENCE, median_ranks
from edgekit.measure.runner import Runner, open_runner

MINIMUM_PAIRS = 100
MAXIMUM_PAIRS = 2000
WARM_UP_PAIRS = 5
WARM_UP_S = 0.5
TIME_CAP_S = 120.0
# A reading shorter than this would be mostly the clock and the loop around it.
SHORTEST_READING_NS = 200_000
_MS = 1e6

Times = NDArray[np.float64]
Call = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Times of one call in nanoseconds, pair by pair, and how they were taken."""

    reference: Times
    candidate: Times
    looks: int
    calls_per_reading: int


def measure(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:  # noqa: ARG001
    """Stage: time the float artifact and the compressed one, taking turns.

    Inputs: float, artifact, data (its first sample is what runs). Settings: float_artifact,
    artifact, contract (plain), threads; optional: bound (of the ratio: sampling goes on until the
    interval is on one side of it), minimum_pairs, maximum_pairs, time_cap_s.
    Returns: figures (plain), pairs, threads, batch.
    """
    settings = request.settings
    threads = settings.get("threads", 1)
    contract = settings["contract"]
    with (
        open_runner(
            request.folder("float"), settings["float_artifact"], contract, threads=threads
        ) as reference,
        open_runner(
            request.folder("artifact"), settings["artifact"], contract, threads=threads
        ) as candidate,
    ):
        for note in candidate.notes:
            reporter.note(note)
        arrays = _first_batch(request.folder("data"), reference, candidate)
        pairs = interleave(
            lambda: reference.run(arrays),
            lambda: candidate.run(arrays),
            bound=settings.get("bound"),
            minimum=settings.get("minimum_pairs", MINIMUM_PAIRS),
            maximum=settings.get("maximum_pairs", MAXIMUM_PAIRS),
            time_cap_s=settings.get("time_cap_s", TIME_CAP_S),
            reporter=reporter,
        )
        batch = reference.batch
    figures = latency_figures(pairs, threads=threads, batch=batch)
    return {
        "figures": [to_plain(figure) for figure in figures],
        "pairs": len(pairs.reference),
        "threads": threads,
        "batch": batch,
    }


def interleave(
    reference: Call,
    candidate: Call,
    *,
    bound: float | None = None,
    minimum: int = MINIMUM_PAIRS,
    maximum: int = MAXIMUM_PAIRS,
    time_cap_s: float = TIME_CAP_S,
    reporter: Reporter | None = None,
) -> Pairs:
    """Time two calls in turn until the ratio is decided, or enough pairs were taken.

    The interval is looked at after ``minimum`` pairs and each time that their number has doubled.
    Every look is one more chance to be wrong, so each uses its share of the confidence. The time
    cap ends it early, never below ``minimum``.
    """
    schedule = look_schedule(minimum, maximum)
    times: list[tuple[float, float]] = []
    calls = _warm_up(reference, candidate)
    deadline = time.monotonic() + time_cap_s
    with _no_collection():
        for look in schedule:
            while len(times) < look:
                if len(times) >= minimum and time.monotonic() > deadline:
                    return _pairs(times, len(schedule), calls)
                times.append(_one_pair(reference, candidate, calls, len(times)))
            if reporter is not None:
                reporter.progress("timing", len(times) / maximum)
            if bound is None or is_decided(_pairs(times, len(schedule), calls), bound):
                break
    return _pairs(times, len(schedule), calls)


def look_schedule(minimum: int, maximum: int) -> tuple[int, ...]:
    """After how many pairs the interval is looked at: doubling from minimum to maximum.

    Raises: WorkloadError when they do not make sense.
    """
    if not 1 <= minimum <= maximum:
        raise WorkloadError(f"latency: {minimum} to {maximum} pairs is no range")
    doubling = itertools.takewhile(
        lambda count: count < maximum, (minimum * 2**step for step in itertools.count())
    )
    return (*doubling, maximum)


def ratio_of(pairs: Pairs) -> tuple[float, float, float]:
    """The median of candidate / reference within pairs, and its exact interval.

    Source: Thompson 1936, doi:10.1214/aoms/1177732502, at a confidence of 1 - 0.05 / looks.
    """
    ratios = np.sort(pairs.candidate / pairs.reference)
    low, high = median_ranks(len(ratios), 1 - (1 - CONFIDENCE) / pairs.looks)
    return float(np.median(ratios)), float(ratios[low]), float(ratios[high])


def is_decided(pairs: Pairs, bound: float) -> bool:
    """Whether the interval of the ratio is on one side of the bound."""
    _, low, high = ratio_of(pairs)
    return high <= bound or low > bound


def latency_figures(pairs: Pairs, *, threads: int, batch: int) -> tuple[Figure, ...]:
    """``latency_ratio`` (compressed / float) and both times in milliseconds a call."""
    value, low, high = ratio_of(pairs)
    count = len(pairs.reference)
    setting = f"{threads} thread(s), batch {batch}, boundary scaling included"
    how = (
        f"median ratio of {count} interleaved pairs, order alternating; {setting}; exact interval "
        f"of the median, good for all {pairs.looks} look(s)"
    )
    return (
        _figure("latency_ratio", (value, low, high), "ratio", how, count),
        _time_figure("latency_float_ms", pairs.reference, setting),
        _time_figure("latency_ms", pairs.candidate, setting),
    )


def _time_figure(name: str, times: Times, setting: str) -> Figure:
    ordered = np.sort(times) / _MS
    low, high = median_ranks(len(ordered))
    how = f"median of {len(ordered)} (minimum {ordered[0]:.4g} ms); {setting}"
    values = (float(np.median(ordered)), float(ordered[low]), float(ordered[high]))
    return _figure(name, values, "ms", how, len(ordered))


def _figure(
    name: str, values: tuple[float, float, float], unit: str, how: str, count: int
) -> Figure:
    return Figure(
        name=name,
        value=values[0],
        unit=unit,
        provenance=Provenance.MEASURED,
        place=Place.HOST,
        how=how,
        low=values[1],
        high=values[2],
        confidence=CONFIDENCE,
        samples=count,
    )


def _first_batch(data: Path, reference: Runner, candidate: Runner) -> dict[str, NDArray[Any]]:
    if reference.batch != candidate.batch:
        raise WorkloadError(
            f"latency: the float artifact takes {reference.batch} samples at once and the "
            f"compressed one {candidate.batch}; they cannot be compared"
        )
    names = [item.name for item in reference.contract.inputs]
    return next(open_dataset(data).batches(reference.batch, names))


def _warm_up(reference: Call, candidate: Call) -> int:
    """Run both until caches and clocks have settled; how many calls make one reading."""
    start, shortest = time.monotonic(), float("inf")
    for pair in itertools.count():
        if pair >= WARM_UP_PAIRS and time.monotonic() - start > WARM_UP_S:
            break
        shortest = min(shortest, *_one_pair(reference, candidate, 1, pair))
    return max(1, round(SHORTEST_READING_NS / max(shortest, 1.0)))


def _one_pair(reference: Call, candidate: Call, calls: int, index: int) -> tuple[float, float]:
    """Nanoseconds of one call of each; every second pair starts with the other one."""
    if index % 2:
        second = _timed(candidate, calls)
        return _timed(reference, calls), second
    return _timed(reference, calls), _timed(candidate, calls)


def _timed(call: Call, calls: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - start) / calls


def _pairs(times: list[tuple[float, float]], looks: int, calls: int) -> Pairs:
    reference, candidate = np.array(times, dtype=np.float64).T
    return Pairs(reference=reference, candidate=candidate, looks=looks, calls_per_reading=calls)


@contextmanager
def _no_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
