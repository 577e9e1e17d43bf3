"""Which tensors of a float .tflite stand for the points that a training rounded."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.artifact import Artifact
from edgekit.core.errors import SessionError, StepError
from edgekit.data.dataset import Dataset
from edgekit.graph.model import Graph
from edgekit.graph.ranges import (
    PRINTED_SAMPLES,
    Fingerprint,
    FoundRanges,
    TrainedRange,
    find_ranges,
    fingerprint,
)
from edgekit.runtime.litert import LiteRtEngine


def trained_ranges(
    content: bytes,
    artifact: Artifact,
    graph: Graph,
    trained: Sequence[TrainedRange],
    dataset: Dataset,
) -> FoundRanges:
    """The trained ranges by tensor name.

    The model is run on the first calibration samples, one at a time; a batch that is fixed is
    filled with the same sample.
    Raises: StepError for samples that the model does not take.
    """
    if not trained:
        return FoundRanges(known={})
    subgraph = graph.subgraphs[0]
    names = {
        index: subgraph.tensors[index].name
        for operator in subgraph.operators
        for index in (*operator.inputs, *operator.outputs)
        if index >= 0
        and index not in subgraph.constants
        and subgraph.tensors[index].dtype == "float32"
    }
    prints: dict[str, list[Fingerprint]] = {name: [] for name in names.values()}
    rows = artifact.batch or 1
    positions = {item.name: item.position for item in artifact.inputs}
    with closing(LiteRtEngine(content, keeps_inner=True)) as engine:
        for number, sample in enumerate(dataset.batches(1, positions)):
            if number == PRINTED_SAMPLES:
                break
            _run(engine, {positions[name]: value for name, value in sample.items()}, rows)
            for index, name in names.items():
                prints[name].append(fingerprint(engine.inner(index), rows))
    return find_ranges(trained, prints)


def _run(engine: LiteRtEngine, sample: dict[int, NDArray[Any]], rows: int) -> None:
    given = [
        np.repeat(sample[place], rows, axis=0).astype(engine.inputs[place].dtype)
        for place in range(len(engine.inputs))
    ]
    try:
        engine.run(given)
    except SessionError as error:
        raise StepError(
            f"quantize: the float model does not take the calibration samples: {error}"
        ) from error
