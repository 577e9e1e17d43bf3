"""Ranges of activations from calibration data, the same for every format.

A format runs its float model and shows the tensors of each run by name; here they are counted, in
memory that does not grow with the number of samples, and ranges are made of the counts.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.compile.range_notes import UNIT, has_steps, tensor_notes
from edgekit.compile.range_observer import Observer, Range
from edgekit.core.calibration import Calibration
from edgekit.core.errors import StepError

__all__ = [
    "SOFTMAX_DEPTH",
    "Calibrated",
    "Convergence",
    "MaskedSum",
    "Range",
    "Run",
    "Watched",
    "calibrate",
    "centred",
    "relevant",
]

Array = NDArray[Any]
_BITS = 8
# Past so much below the largest of its row a softmax gives less than exp(-10): a hundredth of the
# least step of 8 bits, 1 / 256.
SOFTMAX_DEPTH = 10.0
# Shares of the samples after which the ranges are looked at on the way.
_CHECKPOINTS = (8, 4, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run of the float model gave. samples: how many it took. tensors: by name."""

    samples: int
    tensors: Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedSum:
    """A sum that goes into a softmax: what it adds up, and what it gives, by tensor name."""

    parts: tuple[str, str]
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The tensors whose ranges are wanted.

    softmax_axes: of those that go into a softmax, with its axis: what lies SOFTMAX_DEPTH below the
    largest of its row does not count. masked: the sums among them, whose parts are cut likewise (a
    mask's huge negative numbers).
    """

    names: tuple[str, ...]
    softmax_axes: Mapping[str, int] = field(default_factory=dict)
    masked: tuple[MaskedSum, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """How far ranges after the first samples are from those after all.

    The difference of a tensor is the larger one of its two ends, as a share of its range: median
    and worst over all tensors, and which one that is.
    """

    samples: int
    median: float
    worst: float
    tensor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What calibration found.

    ranges: (low, high) by tensor, low <= 0 <= high, never both 0. outside: the share of its values
    that lies past a range by more than half a step, by tensor. convergence: on the way, by number
    of samples.
    """

    ranges: Mapping[str, Range]
    samples: int
    outside: Mapping[str, float]
    convergence: tuple[Convergence, ...]
    notes: tuple[str, ...]


def calibrate(
    runs: Iterable[Run],
    watched: Watched,
    settings: Calibration,
    *,
    count: int,
    bits: int = _BITS,
    is_symmetric: bool = False,
    known: Mapping[str, Range] | None = None,
) -> Calibrated:
    """Ranges of the watched tensors.

    count: how many samples the runs have together. bits: of the integers. is_symmetric: as far
    below zero as above. known: ranges that are taken as they are, such as trained ones; they need
    no samples.
    Raises: StepError for a tensor that is NaN or infinite, a known range that is none, and for no
    samples or fewer than the settings ask for.
    """
    given = _checked_known(known or {}, watched.names)
    if settings.samples > count:
        raise StepError(
            f"quantize: calibration.samples is {settings.samples} and there are {count} "
            "calibration samples; give more, or set 0 for all"
        )
    wanted, steps = settings.samples or count, 2**bits - 1
    observers = {
        name: Observer(settings, bits, is_symmetric=is_symmetric)
        for name in watched.names
        if name not in given
    }
    done, kept = _count(runs if observers else (), watched, settings, observers, wanted)
    if observers and not done:
        raise StepError("quantize: there are no calibration samples; give 100 or more")
    found = {name: item.range() for name, item in observers.items()}
    convergence = tuple(_convergence(at, ranges, found) for at, ranges in kept.items())
    return Calibrated(
        ranges={
            name: given[name] if name in given else _usable(found[name], steps, is_symmetric)
            for name in watched.names
        },
        samples=done,
        outside={name: item.share_outside(*found[name]) for name, item in observers.items()},
        convergence=convergence,
        notes=(*tensor_notes(observers, found, steps), *_told(convergence, done)),
    )


def _count(
    runs: Iterable[Run],
    watched: Watched,
    settings: Calibration,
    observers: Mapping[str, Observer],
    wanted: int,
) -> tuple[int, dict[int, dict[str, Range]]]:
    """Show all runs to the observers. How many samples that were, and ranges by number so far."""
    stops, done = {math.ceil(wanted / part) for part in _CHECKPOINTS}, 0
    kept: dict[int, dict[str, Range]] = {}
    for run in runs:
        for name, values in _finite(relevant(run, watched, observers)):
            observers[name].add(values)
        done += run.samples
        if any(item <= done < wanted for item in stops):
            stops = {item for item in stops if item > done}
            kept[done] = {name: item.range() for name, item in observers.items()}
        if settings.samples and done >= wanted:
            break
    return done, kept


def centred(ranges: Mapping[str, Range], bits: int) -> dict[str, Range]:
    """Symmetric ranges with zero exactly on the grid's middle integer, 0 or 128.

    A grid has one integer more below it than above, so it reaches one step further down.
    """
    top = 2 ** (bits - 1) - 1
    return {name: (-high * (top + 1) / top, high) for name, (_, high) in ranges.items()}


def relevant(run: Run, watched: Watched, wanted: Iterable[str]) -> Iterator[tuple[str, Array]]:
    """The tensors of a run; of what a softmax reads only what it can tell apart."""
    floors = _mask_floors(run, watched)
    for name in wanted:
        values = run.tensors[name]
        if not values.size:
            continue
        if name in watched.softmax_axes:
            values = _above_depth(values, watched.softmax_axes[name])
        if name in floors:
            values = np.maximum(values, np.float32(floors[name]))
        yield name, values


def _above_depth(values: Array, axis: int) -> Array:
    largest = values.max(axis=axis, keepdims=True)
    cut: Array = np.maximum(values, largest - np.float32(SOFTMAX_DEPTH))
    return cut


def _mask_floors(run: Run, watched: Watched) -> dict[str, float]:
    """What the parts of a masked sum need not go below: there the sum is cut off in any case."""
    floors: dict[str, float] = {}
    for item in watched.masked:
        result = run.tensors[item.result]
        lowest = float(_above_depth(result, watched.softmax_axes[item.result]).min())
        for name, other in (item.parts, item.parts[::-1]):
            floor = lowest - float(run.tensors[other].max())
            floors[name] = min(floors.get(name, floor), floor)
    return floors


def _finite(
    tensors: Iterable[tuple[str, Array]],
) -> Iterator[tuple[str, Array]]:
    for name, values in tensors:
        for extreme in (values.min(), values.max()):
            if not np.isfinite(extreme):
                raise StepError(
                    f"quantize: in calibration tensor '{name}' takes the value {extreme}; look for "
                    "NaN or infinity in the calibration samples and the weights; where the layer "
                    "itself goes past float32, bound its values in the model, or set "
                    'activations = "dynamic", which needs no range'
                )
        yield name, values


def _checked_known(known: Mapping[str, Range], names: Sequence[str]) -> dict[str, Range]:
    """The known ranges of watched tensors, zero included."""
    for name, (low, high) in known.items():
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise StepError(
                f"quantize: the known range of tensor '{name}' is {low} to {high}; it must be two "
                "finite numbers, the first below the second"
            )
    return {
        name: (min(known[name][0], 0.0), max(known[name][1], 0.0))
        for name in names
        if name in known
    }


def _usable(found: Range, steps: int, is_symmetric: bool) -> Range:
    if has_steps(found, steps):
        return found
    return (-UNIT if is_symmetric else 0.0), UNIT


def _convergence(
    samples: int, early: Mapping[str, Range], final: Mapping[str, Range]
) -> Convergence:
    moved = {
        name: max(abs(early[name][0] - low), abs(early[name][1] - high)) / (high - low)
        for name, (low, high) in final.items()
        if low < high
    }
    worst = max(moved, key=lambda name: moved[name], default="")
    return Convergence(
        samples=samples,
        median=statistics.median(moved.values()) if moved else 0.0,
        worst=moved.get(worst, 0.0),
        tensor=worst,
    )


def _told(convergence: Sequence[Convergence], samples: int) -> Iterator[str]:
    """How far the ranges have settled, by the last look at them."""
    for last in convergence[-1:]:
        yield (
            f"calibration: ranges after {last.samples} of the {samples} samples differ from those "
            f"after all by {last.median:.1%} (median) and {last.worst:.1%} (worst, tensor "
            f"'{last.tensor}')"
        )
