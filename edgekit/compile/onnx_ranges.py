"""Runs the float ONNX model on calibration samples and shows its inner tensors."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import (
    CalibrationMethod,
    TensorData,
    TensorsData,
    save_tensors_data,
)

from edgekit.compile.calibration import Calibrated, MaskedSum, Range, Run, Watched
from edgekit.compile.calibration import calibrate as find_ranges
from edgekit.compile.onnx_model import (
    RUNTIME_ERRORS,
    attribute,
    first_line,
    initializers,
    open_session,
)
from edgekit.core.calibration import Calibration
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.strategy import Quantize
from edgekit.data.dataset import Dataset

Array = NDArray[Any]
# Samples in one run, where the model takes any number.
BATCH_SAMPLES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Calibration data under the names that the graph gives its inputs.

    dataset: opens them, only if they are needed. batch: samples in one run. inputs: the graph's
    name of each contract input. adapter: the graph's name of the input that takes one; "" for none.
    is_batch_fixed: the model takes no other number at once.
    """

    dataset: Callable[[], Dataset]
    batch: int
    inputs: Mapping[str, str]
    reporter: Reporter
    adapter: str = ""
    is_batch_fixed: bool = True

    def runs(self, message: str) -> Iterator[dict[str, Array]]:
        """What one run of the model takes, until the samples are used up."""
        dataset, done = self.dataset(), 0
        for batch in dataset.batches(self.batch, self.inputs):
            # A last batch that is too small for a fixed batch axis is filled with its own rows.
            yield {
                self.inputs[name]: np.resize(values, (self.batch, *values.shape[1:]))
                if self.is_batch_fixed
                else values
                for name, values in batch.items()
            }
            done = min(done + self.batch, dataset.count)
            self.reporter.progress(message, done / dataset.count)


def calibrate(
    model: onnx.ModelProto,
    operators: Iterable[str],
    samples: Samples,
    settings: Quantize,
    *,
    excluded: Iterable[str] = (),
    known: Mapping[str, Range] | None = None,
) -> Calibrated:
    """The range of every tensor around the nodes of these operators.

    excluded: names of nodes that take no part. known: ranges by tensor that win over the data's.
    Raises: StepError for a tensor that is NaN or infinite, and for data the model does not take.
    """
    watched = watch(model, operators, excluded=excluded)
    chosen = replace(samples, batch=_batch(samples, settings.calibration))
    return find_ranges(
        observe(model, watched, chosen),
        watched,
        settings.calibration,
        count=chosen.dataset().count,
        bits=settings.activation_bits,
        is_symmetric=settings.has_symmetric_activations,
        known=known,
    )


def _batch(samples: Samples, settings: Calibration) -> int:
    """Samples in one run, so that the ranges are those of single samples, as on other targets."""
    if samples.is_batch_fixed:
        return samples.batch
    # Averaged extremes are of single runs; a limit must not fall into the middle of one.
    is_averaged = settings.method == "moving_average"
    return 1 if is_averaged else math.gcd(settings.samples, samples.batch)


def watch(
    model: onnx.ModelProto, operators: Iterable[str], *, excluded: Iterable[str] = ()
) -> Watched:
    """The float tensors that go in or out of these operators, in the order of the graph."""
    graph, constants, left_out = model.graph, initializers(model), frozenset(excluded)
    wanted = frozenset(operators)
    kinds = {
        item.name: item.type.tensor_type.elem_type
        for item in (*graph.value_info, *graph.input, *graph.output)
    }
    chosen = [node for node in graph.node if node.op_type in wanted and node.name not in left_out]
    names = dict.fromkeys(
        name
        for node in chosen
        for name in (*node.input, *node.output)
        if kinds.get(name) == onnx.TensorProto.FLOAT and name not in constants
    )
    axes = {
        node.input[0]: int(attribute(node, "axis", -1))
        for node in graph.node
        if node.op_type == "Softmax" and node.input[0] in names
    }
    return Watched(
        names=tuple(names),
        softmax_axes=axes,
        masked=tuple(
            MaskedSum(parts=(node.input[0], node.input[1]), result=node.output[0])
            for node in chosen
            if node.op_type == "Add"
            and node.output[0] in axes
            and all(name in names for name in node.input)
        ),
    )


def observe(model: onnx.ModelProto, watched: Watched, samples: Samples) -> Iterator[Run]:
    """Runs of the float model with the watched tensors, until the samples are used up."""
    observer = _Observer(model, watched.names)
    for feed in samples.runs("calibration"):
        rows = len(next(iter(feed.values()))) if feed else 0
        yield Run(samples=rows, tensors=observer.run(feed))


def save_ranges(ranges: Mapping[str, Range], path: Path) -> None:
    """Write ranges as ``quantize_static`` reads them."""
    found = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, found), path)


class _Observer:
    """The float model with its inner tensors as outputs."""

    def __init__(self, model: onnx.ModelProto, names: Sequence[str]) -> None:
        watched = onnx.ModelProto.FromString(model.SerializeToString())
        outputs = {item.name for item in watched.graph.output}
        self.fed = {item.name for item in watched.graph.input} & set(names)
        self.fetched = [name for name in names if name not in self.fed]
        watched.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in self.fetched if name not in outputs
        )
        options = onnxruntime.SessionOptions()
        # ONNX Runtime's fusions for its own kernels (1.31.1) fail on some sets of outputs.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self.session = open_session(watched.SerializeToString(), options=options)

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Every watched tensor of one run, by name."""
        try:
            found = self.session.run(self.fetched, feed) if self.fetched else []
        except RUNTIME_ERRORS as error:
            raise StepError(
                f"quantize: the float model does not take the calibration samples: "
                f"{first_line(error)}"
            ) from error
        given = {name: feed[name] for name in sorted(self.fed)}
        return given | dict(zip(self.fetched, found, strict=True))
