"""Which layer of a bundle's artifact goes wrong: finds the two models, and has them compared."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.bundle.verify import VerifiedBundle, verify_bundle
from edgekit.core.debugging import DebugResult
from edgekit.core.errors import InputError
from edgekit.core.progress import Listener, Reporter, ignore
from edgekit.flow.debug_files import DebugFiles, find_files
from edgekit.flow.debug_samples import given_samples, golden_samples
from edgekit.graph import Graph
from edgekit.graph.weights import weight_layers
from edgekit.measure.debug import Comparison, Pair, Sample, compare_layers
from edgekit.measure.layer_names import with_names
from edgekit.measure.layer_points import Point, Points, find_points
from edgekit.measure.mending import find_wrong


def debug(
    bundle: Path,
    *,
    float_file: Path | None = None,
    samples: int | None = None,
    inputs: Iterable[Mapping[str, Any] | Any] | None = None,
    listener: Listener = ignore,
) -> DebugResult:
    """Run the float model and a bundle's artifact side by side, and compare layer by layer.

    float_file: the float model as .tflite or .onnx; by default the one that the bundle was built
    from, out of the cache. samples: how many of the golden ones; all by default. inputs: raw
    samples as a session's ``predict`` takes them, in place of the golden ones.
    Raises: BundleError for a bundle that is not whole; InputError where there is nothing to
    compare, or the float model is not to be found; SessionError where an engine refuses.
    """
    if inputs is not None and samples is not None:
        raise InputError("samples counts golden ones: leave it out where you give inputs")
    found = verify_bundle(bundle)
    reporter = Reporter(stage="debug", listener=listener)
    with find_files(found, float_file) as files:
        rows = max(1, files.side.artifact.batch, files.original.side.artifact.batch)
        if inputs is None:
            given = golden_samples(found, samples, rows)
        else:
            given = given_samples(found, inputs, rows)
        graph, points, matched_by = _points(files)
        reporter.note(f"comparing {len(points.found)} operators, matched by {matched_by}")
        pair = Pair(
            original=files.original.side,
            artifact=files.side,
            tensor_map=files.original.tensor_map,
        )
        contract = found.manifest.components[0].contract
        comparison = compare_layers(pair, points, contract, given)
    return replace(
        _result(found, comparison, points, graph),
        float_source=files.original.source,
        matched_by=matched_by,
        samples=_count(found, given, samples, is_golden=inputs is None),
        notes=files.notes,
    )


def _points(files: DebugFiles) -> tuple[Graph, Points, str]:
    """The artifact's graph with the best names it has, what is compared, and how it was matched."""
    original, shipped = files.original.side.graph, files.side.graph
    if files.named is None:
        return shipped, find_points(original, shipped, is_named=False), "structure"
    named = with_names(shipped, files.named)
    by_name = find_points(original, named, is_named=True)
    if not by_name.unmatched:
        return named, by_name, "name"
    # A float file of the user's may have other names than the export that the bundle came from.
    by_structure = find_points(original, shipped, is_named=False)
    is_better = _weighted(by_structure.found) > _weighted(by_name.found)
    return (named, by_structure, "structure") if is_better else (named, by_name, "name")


def _weighted(points: Iterable[Point]) -> int:
    return sum(1 for point in points if point.layers)


def _count(
    bundle: VerifiedBundle, given: list[Sample], samples: int | None, *, is_golden: bool
) -> int:
    golden = bundle.manifest.golden.samples
    return min(samples or golden, golden) if is_golden else len(given)


def _result(
    bundle: VerifiedBundle, comparison: Comparison, points: Points, graph: Graph
) -> DebugResult:
    manifest = bundle.manifest
    steps = (item.settings for item in manifest.strategy.steps if item.name == "quantize")
    finding = find_wrong(comparison, next(steps, {}))
    tolerance = manifest.golden.tolerance
    shares = [
        difference / tolerance[name] if tolerance[name] else float(difference > 0)
        for name, difference in comparison.golden_difference.items()
    ]
    weighted = {(item.subgraph, item.operator.index) for item in weight_layers(graph)}
    return DebugResult(
        bundle_id=bundle.bundle_id,
        float_source="",
        matched_by="",
        samples=0,
        layers=tuple(item.error for item in comparison.layers),
        outputs=comparison.outputs,
        compared_layers=_weighted(item.point for item in comparison.layers),
        all_layers=len(weighted),
        unmatched=_unmatched(points, comparison, graph),
        first_wrong=finding.first_wrong,
        largest=finding.largest,
        mends=finding.mends,
        engine_difference=max(shares, default=None),
    )


def _unmatched(points: Points, comparison: Comparison, graph: Graph) -> tuple[str, ...]:
    """Every operator that was not compared, by name and place."""
    tensors = graph.subgraphs[0].tensors

    def named(point: Point) -> str:
        output = tensors[point.operator.outputs[0]].name
        return f"{point.operator.name} {point.operator.index}" + (f" '{output}'" if output else "")

    inner = sorted(
        {
            f"{layer.operator.name} {layer.operator.index} of nested graph {layer.subgraph}"
            for layer in weight_layers(graph)
            if layer.subgraph
        }
    )
    return (
        *(f"{named(item)}: the float model has no counterpart" for item in points.unmatched),
        *(f"{named(item)}: the two have other sizes" for item in comparison.faults),
        *(f"{name}: nested graphs are not compared" for name in inner),
    )
