"""What is kept of a calibration, and how much of other data its ranges leave outside."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.compile.calibration import Calibrated, Run, Watched, relevant
from edgekit.core.codec import canonical_json, from_plain, to_plain
from edgekit.core.strategy import Quantize

FILE = "calibration.json"
# The first of the other data that are looked at.
DRIFT_SAMPLES = 64
_NAMED_TENSORS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRange:
    """One tensor's range, and the share of the calibration's own values past it."""

    low: float
    high: float
    outside: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A calibration as it lies in a stage's folder. ranges: by tensor of the float graph."""

    quantize: Quantize
    ranges: Mapping[str, KeptRange]


def keep(calibrated: Calibrated | None, settings: Quantize, out: Path) -> dict[str, Any]:
    """Write ranges into a stage's folder; what it returns of them, nothing for no calibration."""
    if calibrated is None:
        return {}
    ranges = {
        name: KeptRange(low=low, high=high, outside=calibrated.outside.get(name, 0.0))
        for name, (low, high) in calibrated.ranges.items()
    }
    (out / FILE).write_bytes(canonical_json(Kept(quantize=settings, ranges=ranges)))
    return {
        "calibration": {
            "samples": calibrated.samples,
            "convergence": to_plain(calibrated.convergence),
        }
    }


def read_kept(folder: Path) -> Kept:
    """The calibration that ``keep`` wrote."""
    return from_plain(Kept, json.loads((folder / FILE).read_bytes()), where=FILE)


def compare(runs: Iterable[Run], watched: Watched, kept: Kept) -> dict[str, Any]:
    """The share of values past each range, in these runs and in calibration, largest rise first.

    A value is outside where being cut off costs more than rounding: past half a step.
    """
    ranges = {name: kept.ranges[name] for name in watched.names if name in kept.ranges}
    steps = 2**kept.quantize.activation_bits - 1
    outside, total = dict.fromkeys(ranges, 0), dict.fromkeys(ranges, 0)
    done = 0
    for run in runs:
        for name, values in relevant(run, watched, ranges):
            low, high = ranges[name].low, ranges[name].high
            slack = (high - low) / steps / 2
            past = (values < low - slack) | (values > high + slack)
            outside[name] += int(np.count_nonzero(past))
            total[name] += values.size
        done += run.samples
        if done >= DRIFT_SAMPLES:
            break
    shares = {name: outside[name] / total[name] for name in ranges if total[name]}
    worst = sorted(shares, key=lambda name: (ranges[name].outside - shares[name], name))
    return {
        "samples": done,
        "share": sum(outside.values()) / max(sum(total.values()), 1),
        "worst": [
            {"tensor": name, "share": shares[name], "before": ranges[name].outside}
            for name in worst[:_NAMED_TENSORS]
        ],
    }
