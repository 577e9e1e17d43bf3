"""Ranges of activations from calibration data: what 255 steps should span.

The samples are run twice: for the smallest and largest value of every tensor, and for a histogram
of those that are never negative. Memory does not grow with their number.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import (
    CalibrationMethod,
    TensorData,
    TensorsData,
    save_tensors_data,
)

from edgekit.compile.onnx_model import RUNTIME_ERRORS, first_line, initializers, open_session
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.data.dataset import Dataset

Array = NDArray[Any]
# Samples in one run, where the model takes any number.
BATCH_SAMPLES = 8
BINS, STEPS = 2048, 255
# The shares of the largest value that are tried as a range's top. The long tail of a ReLU costs
# steps for the many values near zero: the best top takes the mean squared error of ResNet-56's
# logits from 0.101 to 0.076 and of ResNet-20's from 0.070 to 0.062 (2026-11, dev set).
_SHARES = np.linspace(0.4, 1.0, 61)


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Calibration data under the names that the graph gives its inputs.

    dataset: opens them, only if they are needed. batch: samples in one run. inputs: the graph's
    name of each contract input. adapter: the graph's name of the input that takes one; "" for none.
    """

    dataset: Callable[[], Dataset]
    batch: int
    inputs: Mapping[str, str]
    reporter: Reporter
    adapter: str = ""

    def runs(self, message: str) -> Iterator[dict[str, Array]]:
        """What one run of the model takes, until the samples are used up."""
        dataset, done = self.dataset(), 0
        for batch in dataset.batches(self.batch, self.inputs):
            # A last batch that is too small for a fixed batch axis is filled with its own rows:
            # repeated samples do not change a range.
            yield {
                self.inputs[name]: np.resize(values, (self.batch, *values.shape[1:]))
                for name, values in batch.items()
            }
            done = min(done + self.batch, dataset.count)
            self.reporter.progress(message, done / dataset.count)


def calibrate(
    model: onnx.ModelProto, operators: Iterable[str], samples: Samples, path: Path
) -> None:
    """Write the range of every tensor around these operators, for ``quantize_static`` to read.

    Raises: StepError for a tensor that is NaN or infinite, and for data the model does not take.
    """
    names = _tensors_around(model, frozenset(operators))
    observer = _Observer(model, names)
    extremes: dict[str, tuple[float, float]] = dict.fromkeys(names, (0.0, 0.0))
    for feed in samples.runs("calibration: extremes"):
        for name, values in observer.run(feed):
            low, high = extremes[name]
            smallest, largest = _extreme(name, values.min()), _extreme(name, values.max())
            extremes[name] = (min(low, smallest), max(high, largest))
    # Tensors on both sides of zero keep their full range: clipping them gained nothing there.
    tails = [name for name, (low, high) in extremes.items() if low == 0 < high]
    counts = {name: np.zeros(BINS, np.int64) for name in tails}
    for feed in samples.runs("calibration: histograms") if tails else ():
        for name, values in observer.run(feed):
            if name in counts:
                counts[name] += count_values(values, extremes[name][1])
    for name in tails:
        extremes[name] = (0.0, best_top(counts[name], extremes[name][1]))
    save_tensors_data(
        TensorsData(
            CalibrationMethod.MinMax,
            {
                name: TensorData(lowest=np.float32(low), highest=np.float32(high))
                for name, (low, high) in extremes.items()
            },
        ),
        path,
    )


class _Observer:
    """The float model with its inner tensors as outputs."""

    def __init__(self, model: onnx.ModelProto, names: list[str]) -> None:
        watched = onnx.ModelProto.FromString(model.SerializeToString())
        outputs = {item.name for item in watched.graph.output}
        self.fed = {item.name for item in watched.graph.input} & set(names)
        self.fetched = [name for name in names if name not in self.fed]
        watched.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in self.fetched if name not in outputs
        )
        self.session = open_session(watched.SerializeToString())

    def run(self, feed: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        """Every watched tensor of one run, by name."""
        try:
            found = self.session.run(self.fetched, feed) if self.fetched else []
        except RUNTIME_ERRORS as error:
            raise StepError(
                f"quantize: the float model does not take the calibration samples: "
                f"{first_line(error)}"
            ) from error
        yield from ((name, feed[name]) for name in sorted(self.fed))
        yield from zip(self.fetched, found, strict=True)


def _tensors_around(model: onnx.ModelProto, operators: frozenset[str]) -> list[str]:
    """Float tensors that go in or out of these operators, in the order of the graph."""
    graph, constants = model.graph, initializers(model)
    kinds = {
        item.name: item.type.tensor_type.elem_type
        for item in (*graph.value_info, *graph.input, *graph.output)
    }
    found: dict[str, None] = {}
    for node in graph.node:
        if node.op_type in operators:
            for name in (*node.input, *node.output):
                if kinds.get(name) == onnx.TensorProto.FLOAT and name not in constants:
                    found[name] = None
    return list(found)


def _extreme(name: str, value: Any) -> float:
    if not np.isfinite(value):
        raise StepError(
            f"quantize: in calibration tensor '{name}' takes the value {value}; look for NaN or "
            "infinity in the calibration samples and the weights"
        )
    return float(value)


def count_values(values: Array, high: float) -> Array:
    """A histogram of ``BINS`` equal bins up to ``high``, without zeros: grids hold zero exactly."""
    rest = values[values > 0]
    if not rest.size:
        return np.zeros(BINS, np.int64)
    places = (rest * np.float32(BINS / high)).astype(np.int64)
    return np.bincount(np.minimum(places, BINS - 1), minlength=BINS)


def best_top(counts: Array, high: float) -> float:
    """The top of the range from 0 whose 255 steps lose least, at most ``high``.

    What is lost is the squared error: of values inside to rounding, of values above to clipping.
    """
    centres = (np.arange(BINS) + 0.5) * (high / BINS)
    tops = high * _SHARES
    start = np.searchsorted(centres, tops)
    # Sums of 1, x and x * x over all values past each candidate.
    count, total, squares = (
        np.append(np.cumsum((counts * centres**power)[::-1])[::-1], 0.0)[start]
        for power in (0, 1, 2)
    )
    clipped = squares - 2 * tops * total + tops**2 * count
    rounded = (counts.sum() - count) * (tops / STEPS) ** 2 / 12
    return float(tops[int(np.argmin(clipped + rounded))])
