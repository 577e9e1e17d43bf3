"""Runs the float .tflite on calibration samples and shows its inner tensors."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.compile.calibration import Calibrated, MaskedSum, Range, Run, Watched, calibrate
from edgekit.compile.litert_recipe import Recipe, scope_of
from edgekit.core.artifact import Artifact
from edgekit.core.errors import SessionError, StepError
from edgekit.core.progress import Reporter
from edgekit.core.strategy import Quantize
from edgekit.data.dataset import Dataset
from edgekit.graph.model import Graph, Operator, Subgraph
from edgekit.runtime.litert import LiteRtEngine

Array = NDArray[Any]
_PROGRESS_EVERY = 16


def calibrate_model(  # noqa: PLR0913  # a model, its data, and what is wanted of them
    content: bytes,
    graph: Graph,
    artifact: Artifact,
    watched: Watched,
    settings: Quantize,
    dataset: Dataset,
    reporter: Reporter,
    *,
    known: Mapping[str, Range] | None = None,
) -> Calibrated:
    """The range of every watched tensor. known: ranges that win over the data's.

    Raises: StepError for a tensor that is NaN or infinite, and for data the model does not take.
    """
    return calibrate(
        observe(content, graph, artifact, watched, dataset, reporter),
        watched,
        settings.calibration,
        count=dataset.count,
        bits=settings.activation_bits,
        is_symmetric=settings.has_symmetric_activations,
        known=known,
    )


def watch(graph: Graph, recipe: Recipe) -> Watched:
    """The float tensors that go in or out of operators that the recipe does not leave in float."""
    subgraph = graph.subgraphs[0]
    floats = {(item.operator, item.scope) for item in recipe.floats}
    chosen = [
        item for item in subgraph.operators if (item.name, scope_of(item, subgraph)) not in floats
    ]
    names = {
        index: subgraph.tensors[index].name
        for item in chosen
        for index in (*item.inputs, *item.outputs)
        if _is_activation(subgraph, index)
    }
    axes = {
        names[item.inputs[0]]: -1
        for item in subgraph.operators
        if item.name == "SOFTMAX" and item.inputs[0] in names
    }
    return Watched(
        names=tuple(dict.fromkeys(names.values())),
        softmax_axes=axes,
        masked=tuple(_masked_sums(chosen, names, axes)),
    )


def _is_activation(subgraph: Subgraph, index: int) -> bool:
    return (
        index >= 0
        and not subgraph.tensors[index].is_constant
        and subgraph.tensors[index].dtype == "float32"
    )


def _masked_sums(
    operators: Iterable[Operator], names: Mapping[int, str], axes: Mapping[str, int]
) -> Iterator[MaskedSum]:
    for item in operators:
        is_known = all(index in names for index in (*item.inputs, *item.outputs))
        if item.name == "ADD" and is_known and names[item.outputs[0]] in axes:
            left, right = (names[index] for index in item.inputs)
            yield MaskedSum(parts=(left, right), result=names[item.outputs[0]])


def observe(
    content: bytes,
    graph: Graph,
    artifact: Artifact,
    watched: Watched,
    dataset: Dataset,
    reporter: Reporter,
) -> Iterator[Run]:
    """Runs of the float model with the watched tensors, until the samples are used up.

    Memory does not grow with the number of samples: a run has as many as a fixed batch, else one.
    """
    positions = {item.name: item.position for item in artifact.inputs}
    size, done = artifact.batch or 1, 0
    with closing(LiteRtEngine(content, keeps_inner=True)) as engine:
        places = {item.name: item.index for item in graph.subgraphs[0].tensors}
        tensors = _Tensors(engine, {name: places[name] for name in watched.names})
        for number, batch in enumerate(dataset.batches(size, positions)):
            rows = len(next(iter(batch.values())))
            given = {positions[name]: values for name, values in batch.items()}
            _run(engine, given, size)
            done += rows
            yield Run(samples=rows, tensors=tensors)
            if number % _PROGRESS_EVERY == 0:
                reporter.progress(f"calibrating, sample {done}", 0.9 * done / dataset.count)


def _run(engine: LiteRtEngine, given: Mapping[int, Array], size: int) -> None:
    # A last batch that is too small for a fixed batch axis is filled with its own rows.
    arrays = [
        np.resize(given[place], (size, *given[place].shape[1:])).astype(item.dtype)
        for place, item in enumerate(engine.inputs)
    ]
    try:
        engine.run(arrays)
    except SessionError as error:
        raise StepError(
            f"quantize: the float model does not take the calibration samples: {error}"
        ) from error


class _Tensors(Mapping[str, Array]):
    """The inner tensors of the last run by name, each read when it is asked for."""

    def __init__(self, engine: LiteRtEngine, places: Mapping[str, int]) -> None:
        self._engine = engine
        self._places = places

    def __getitem__(self, name: str) -> Array:
        return self._engine.inner(self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
