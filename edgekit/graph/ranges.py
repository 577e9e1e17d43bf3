"""Ranges of activations that a training has found, and how an exported graph knows them again.

An exporter renames tensors, moves axes and folds layers, so names say little. What a tensor holds
for the same sample says all: how many values, the least, the largest, their mean and mean square.
None of these depends on the order of the axes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.core.codec import canonical_json, from_plain, to_plain
from edgekit.graph.model import Array

FILE = "ranges.json"
# The first calibration samples, one after another.
PRINTED_SAMPLES = 2
# Of the largest value: two float32 implementations of a deep net differ by about 1e-6 to 1e-5.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What one tensor holds for one sample. count: its values. square: their mean square."""

    count: int
    low: float
    high: float
    mean: float
    square: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRange:
    """What 255 steps span at one point of a model, and what the point held as plain floats.

    point: where in the torch model, for people. prints: of the first calibration samples, with
    rounded weights and activations as they are.
    """

    point: str
    low: float
    high: float
    prints: tuple[Fingerprint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRanges:
    """Ranges by the graph's names of tensors, and the points that no tensor stands for."""

    known: Mapping[str, tuple[float, float]]
    missing: tuple[str, ...] = ()

    def note(self) -> str:
        """What must be said of them; "" where nothing was trained."""
        points = len(self.missing)
        if not self.known and not points:
            return ""
        text = f"{len(self.known)} tensors have the ranges that they were trained with"
        if points:
            text += (
                f"; {points} trained points are not in the graph (fused away, left float, or "
                f"changed by a later step), their tensors are calibrated: {', '.join(self.missing)}"
            )
        return text


def fingerprint(values: Array, rows: int = 1) -> Fingerprint:
    """Of a tensor that holds the same sample ``rows`` times."""
    flat = np.asarray(values, np.float64).reshape(-1)
    return Fingerprint(
        count=flat.size // rows,
        low=float(flat.min(initial=math.inf)),
        high=float(flat.max(initial=-math.inf)),
        mean=float(flat.mean()) if flat.size else 0.0,
        square=float(np.square(flat).mean()) if flat.size else 0.0,
    )


def find_ranges(
    ranges: Sequence[TrainedRange], tensors: Mapping[str, Sequence[Fingerprint]]
) -> FoundRanges:
    """The range of each tensor that holds what a point held; of several points the last one's.

    tensors: of the same samples, by the graph's names.
    """
    known: dict[str, tuple[float, float]] = {}
    missing: list[str] = []
    for item in ranges:
        names = [name for name, prints in tensors.items() if _are_alike(item.prints, prints)]
        known |= dict.fromkeys(names, (item.low, item.high))
        if not names:
            missing.append(item.point)
    return FoundRanges(known=known, missing=tuple(missing))


def write_ranges(folder: Path, ranges: Sequence[TrainedRange]) -> None:
    """Keep ranges beside a model; none leave no file."""
    if ranges:
        (folder / FILE).write_bytes(canonical_json([to_plain(item) for item in ranges]))


def read_ranges(folder: Path) -> tuple[TrainedRange, ...]:
    """What ``write_ranges`` kept; none where there is no file."""
    path = folder / FILE
    if not path.is_file():
        return ()
    return tuple(
        from_plain(TrainedRange, plain, where=FILE) for plain in json.loads(path.read_bytes())
    )


def _are_alike(ours: Sequence[Fingerprint], theirs: Sequence[Fingerprint]) -> bool:
    return len(ours) == len(theirs) > 0 and all(map(_is_alike, ours, theirs))


def _is_alike(ours: Fingerprint, theirs: Fingerprint) -> bool:
    largest = max(abs(ours.low), abs(ours.high))
    if ours.count != theirs.count or not math.isfinite(largest):
        return False
    pairs = ((ours.low, theirs.low), (ours.high, theirs.high), (ours.mean, theirs.mean))
    squares = abs(ours.square - theirs.square) <= 2 * TOLERANCE * ours.square
    return squares and all(abs(one - other) <= TOLERANCE * largest for one, other in pairs)
