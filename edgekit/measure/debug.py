"""The float model and the artifact side by side: what each operator gives, sample after sample.

The error that an operator adds is what its output has and its inputs had not: the power of the
noise as a share of the signal's, less the same share of all inputs together. That is what
independent errors do in a layer that keeps its signal.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import numpy as np

from edgekit.core.artifact import Artifact
from edgekit.core.contract import Contract
from edgekit.core.debugging import LayerError, OutputError, decibels
from edgekit.core.errors import InputError
from edgekit.graph.model import Array, Graph
from edgekit.measure.audit_match import module_path
from edgekit.measure.layer_links import Links
from edgekit.measure.layer_points import Point, Points
from edgekit.measure.layer_sums import LayerSums
from edgekit.measure.layer_weights import WeightMeasurer, WeightNoise
from edgekit.measure.watch import Watch, open_watch
from edgekit.runtime.ports import InputPort, OutputPort

_PRODUCTS = ("MUL", "DIV", "BATCH_MATMUL", "Mul", "Div", "MatMul", "MatMulInteger")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """One of the two models: its bytes, its graph as the engine names it, how inputs are bound."""

    model: bytes = field(repr=False)
    graph: Graph
    artifact: Artifact


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """The two models. tensor_map: tensor name of the float graph to module path."""

    original: Side
    artifact: Side
    tensor_map: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """Inputs by contract name, the batch axis first. golden: outputs that are known, if any."""

    inputs: Mapping[str, Array]
    golden: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compared:
    """One operator with all that is known of it. place: among the points."""

    place: int
    point: Point
    sums: LayerSums
    error: LayerError
    weights: WeightNoise | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Every operator that was compared, in order; faults: operators whose tensors have other sizes.

    golden_difference: the largest difference to a golden output, an output each.
    """

    layers: tuple[Compared, ...]
    outputs: tuple[OutputError, ...]
    faults: tuple[Point, ...]
    golden_difference: Mapping[str, float]


def compare_layers(
    pair: Pair, points: Points, contract: Contract, samples: Iterable[Sample]
) -> Comparison:
    """Run both on every sample and compare every point.

    Raises: SessionError where an engine refuses a model or a sample; InputError where nothing can
    be compared.
    """
    sums = [LayerSums(has_channels=item.has_one_scale_for_channels) for item in points.found]
    outputs = {item.name: LayerSums() for item in contract.outputs}
    differences: dict[str, float] = {}
    faults: set[int] = set()
    with ExitStack() as stack:
        theirs = [item.float_tensor for item in points.found]
        wanted = _Loaded(pair.original, contract, theirs, stack)
        found = _Loaded(pair.artifact, contract, [item.tensor for item in points.found], stack)
        for sample in samples:
            expected, got = wanted.run(sample.inputs), found.run(sample.inputs)
            for name, known in sample.golden.items():
                differences[name] = max(differences.get(name, 0.0), _difference(got[name], known))
            for name, held in outputs.items():
                held.add_(expected[name], got[name], None)
            faults |= _add(points, sums, wanted.watch.inside(), found.watch.inside())
    layers = _Labelled(pair, points, sums).layers(faults)
    if not layers:
        raise InputError("nothing of the two models can be compared: are they the same model?")
    return Comparison(
        layers=layers,
        outputs=tuple(
            OutputError(name=name, snr_db=held.snr_db, cosine=held.cosine)
            for name, held in outputs.items()
        ),
        faults=tuple(points.found[place] for place in sorted(faults)),
        golden_difference=differences,
    )


class _Loaded:
    """One side in its engine."""

    def __init__(
        self, side: Side, contract: Contract, tensors: Sequence[int], stack: ExitStack
    ) -> None:
        self.watch: Watch = stack.enter_context(
            closing(open_watch(side.model, side.graph, set(tensors)))
        )
        given = {item.name: item for item in contract.inputs}
        made = {item.name: item for item in contract.outputs}
        self._inputs = [
            InputPort(given[item.name], self.watch.inputs[item.position], item.position)
            for item in sorted(side.artifact.inputs, key=lambda item: item.position)
        ]
        self._outputs = [
            OutputPort(made[item.name], self.watch.outputs[item.position], item.position)
            for item in side.artifact.outputs
        ]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        stored = [port.to_stored(port.take(inputs[port.name])) for port in self._inputs]
        results = self.watch.run(stored)
        rows = len(stored[0])
        return {port.name: port.give(results[port.position], rows) for port in self._outputs}


def _difference(found: Array, golden: Array) -> float:
    difference = np.abs(found.astype(np.float64) - golden.astype(np.float64))
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0))


def _add(
    points: Points,
    sums: Sequence[LayerSums],
    wanted: Mapping[int, Array],
    found: Mapping[int, Array],
) -> set[int]:
    """Add one sample everywhere; the places where the two have not as many elements."""
    faults = set()
    for place, (point, held) in enumerate(zip(points.found, sums, strict=True)):
        theirs, ours = wanted[point.float_tensor], found[point.tensor]
        if theirs.size != ours.size:
            faults.add(place)
        else:
            held.add_(theirs, ours, point.quantization)
    return faults


class _Labelled:
    """Sums of points as results that carry names."""

    def __init__(self, pair: Pair, points: Points, sums: Sequence[LayerSums]) -> None:
        self._pair, self._points, self._sums = pair, points.found, sums
        originals = Links(pair.original.graph)
        self._weights = WeightMeasurer(originals, Links(pair.artifact.graph))

    def layers(self, faults: Collection[int]) -> tuple[Compared, ...]:
        """Every point but those at ``faults``."""
        return tuple(
            self._compared(place, point, held)
            for place, (point, held) in enumerate(zip(self._points, self._sums, strict=True))
            if place not in faults
        )

    def _compared(self, place: int, point: Point, held: LayerSums) -> Compared:
        weights = self._weights.measure(point) if point.layers else None
        came_in = self._came_in(point)
        error = LayerError(
            operator=point.operator.name,
            layer=self._label(point),
            tensor=self._pair.original.graph.subgraphs[0].tensors[point.float_tensor].name,
            weights=point.layers[0].precision if point.layers else "",
            snr_db=held.snr_db,
            cosine=held.cosine,
            input_snr_db=decibels(came_in, 1.0),
            added_snr_db=decibels(max(held.noise_ratio - came_in, 0.0), 1.0),
            saturated_share=held.share(held.saturated),
            outside_share=held.share(held.outside),
            grid_snr_db=held.grid_snr_db,
            weight_snr_db=None if weights is None else decibels(weights.noise_ratio, 1.0),
        )
        return Compared(place=place, point=point, sums=held, error=error, weights=weights)

    def _came_in(self, point: Point) -> float:
        """The noise of all inputs over their signal; errors of factors add up as shares."""
        sources = [self._sums[place] for place in point.sources]
        if point.operator.name in _PRODUCTS:
            return sum(item.noise_ratio for item in sources)
        noise, signal = sum(item.noise for item in sources), sum(item.signal for item in sources)
        if noise == 0:
            return 0.0
        return noise / signal if signal else float("inf")

    def _label(self, point: Point) -> str:
        """The module path of the weights; else what the float graph calls the value."""
        for layer in self._weights.original(point.float_tensor) if point.layers else ():
            return module_path(layer.tensor.name, self._pair.tensor_map)
        return value_label(self._pair.original.graph.subgraphs[0].tensors[point.float_tensor].name)


def value_label(name: str) -> str:
    """A tensor's name as it is shown: the module path of one that litert-torch made, with a number.

    ``net.Net/torch.nn.modules.container.Sequential_blocks/net.Block_0;11`` is ``blocks.0;11``.
    """
    scopes, _, number = name.rpartition(";")
    scope = scopes.rpartition(";")[2]
    levels = [level.rpartition(".")[2].partition("_") for level in scope.split("/")]
    if not scope or not all(kind[:1].isupper() for kind, _, _ in levels):
        return name
    path = ".".join(attribute for _, _, attribute in levels if attribute) or levels[-1][0]
    return ";".join(part for part in (path, number) if part)
