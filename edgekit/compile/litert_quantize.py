"""Runs ai-edge-quantizer by a recipe: calibration that streams, then the rewritten .tflite."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgekit.compile.calibration import Calibrated, Range, centred
from edgekit.compile.capture import first_line
from edgekit.compile.litert_bfloat16 import store_as_bfloat16
from edgekit.compile.litert_ranges import calibrate_model, watch
from edgekit.compile.litert_recipe import LayerRecipe, Recipe, plan_recipe
from edgekit.compile.litert_trained import trained_ranges
from edgekit.compile.silence import silence
from edgekit.core.artifact import Artifact
from edgekit.core.errors import MissingDependencyError, StepError
from edgekit.core.progress import Reporter
from edgekit.core.strategy import Quantize
from edgekit.data.dataset import Dataset
from edgekit.graph.model import Graph
from edgekit.graph.ranges import TrainedRange
from edgekit.graph.reader import read_graph

with silence():
    try:
        from ai_edge_quantizer import qtyping, quantizer

        from edgekit.compile.litert_zeros import zeros_scaled
    except ImportError as missing:
        raise MissingDependencyError(
            f"quantizing a .tflite needs ai-edge-quantizer, which cannot be imported ({missing}): "
            "pip install 'edgekit[litert]'"
        ) from missing

_MIN_MAX = quantizer.AlgorithmName.MIN_MAX_UNIFORM_QUANT
_OCTAV = quantizer.AlgorithmName.OCTAV
_FLOAT_CASTING = quantizer.AlgorithmName.FLOAT_CASTING
_NO_QUANTIZE = quantizer.AlgorithmName.NO_QUANTIZE
_INT8_BITS = 8
_KNOWN = frozenset(item.value for item in qtyping.TFLOperationName)
# What ai-edge-quantizer raises for graphs and configurations that it cannot take.
_REFUSALS = (ValueError, RuntimeError, KeyError, IndexError, TypeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A .tflite after the step, and what the user should know.

    calibrated: the ranges of static activations; None for others.
    """

    content: bytes
    notes: tuple[str, ...]
    calibrated: Calibrated | None


def quantize_model(  # noqa: PLR0913  # what goes into it, and what is said on the way
    content: bytes,
    artifact: Artifact,
    paths: Mapping[str, str],
    settings: Quantize,
    dataset: Dataset | None,
    reporter: Reporter,
    *,
    adapter: int | None = None,
    trained: Sequence[TrainedRange] = (),
) -> Quantized:
    """The quantized .tflite, and what must be said of layers that did not get what was asked.

    adapter: the position of the input that takes one, whose factors stay float where they can.
    trained: ranges of activations, which win over the calibration's.
    Raises: StepError for settings that LiteRT has no kernel for, and data it cannot calibrate on.
    """
    graph = read_graph(content, name=artifact.entry)
    recipe = plan_recipe(graph, paths, settings, adapter=adapter)
    bfloats = [layer.bfloat16 for layer in recipe.layers if layer.bfloat16]
    if not any(layer.bits for layer in recipe.layers):
        if bfloats:
            made = store_as_bfloat16(content, bfloats)
            return Quantized(content=made, notes=recipe.notes, calibrated=None)
        raise StepError(
            f"quantize: no layer of {artifact.entry} would change; it has {len(recipe.layers)} "
            "layers with float weights"
        )
    calibrated = None
    if recipe.is_static:
        calibrated = _calibrate(
            content, graph, artifact, recipe, settings, dataset, reporter, trained=trained
        )
    try:
        with silence():
            work = quantizer.Quantizer(content)
            _apply(work, recipe)
        statistics = _statistics(calibrated.ranges, graph, settings) if calibrated else None
        reporter.progress("writing the quantized model", 0.95)
        with silence(), zeros_scaled():
            result = work.quantize(statistics, enable_progress_report=False)
    except _REFUSALS as error:
        raise StepError(
            f"quantize: ai-edge-quantizer cannot make {settings.precision} of {artifact.entry}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    if result.quantized_model is None:
        raise StepError(f"quantize: ai-edge-quantizer gave no model for {artifact.entry}")
    notes = (*recipe.notes, *(calibrated.notes if calibrated else ()))
    made = bytes(result.quantized_model)
    made = store_as_bfloat16(made, bfloats) if bfloats else made
    return Quantized(content=made, notes=notes, calibrated=calibrated)


def _statistics(ranges: Mapping[str, Range], graph: Graph, settings: Quantize) -> dict[str, Any]:
    """Ranges as ai-edge-quantizer reads them: arrays of one element, with a tensor's own rank."""
    # Of 16 bits it makes symmetric ranges itself.
    if settings.has_symmetric_activations and settings.activation_bits == _INT8_BITS:
        ranges = centred(ranges, _INT8_BITS)
    rank = {item.name: len(item.shape) for item in graph.subgraphs[0].tensors}
    return {
        name: {
            key: np.full((1,) * rank[name], end, np.float32)
            for key, end in zip(("min", "max"), ends, strict=True)
        }
        for name, ends in ranges.items()
    }


def _apply(work: Any, recipe: Recipe) -> None:
    every = qtyping.TFLOperationName.ALL_SUPPORTED
    if recipe.is_static:
        work.add_static_config(".*", every, recipe.activation_bits, 8)
    if recipe.has_float_edges:
        for edge in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            work.update_quantization_recipe(".*", edge, algorithm_key=_NO_QUANTIZE)
    for item in recipe.floats:
        if item.operator in _KNOWN:  # all others stay float in any case
            scope, name = f"^{re.escape(item.scope)}$", qtyping.TFLOperationName(item.operator)
            work.update_quantization_recipe(scope, name, algorithm_key=_NO_QUANTIZE)
    for layer in recipe.layers:
        _add(work, layer, recipe.activation_bits)


def _add(work: Any, layer: LayerRecipe, activation_bits: int) -> None:
    scope = f"^{re.escape(layer.scope)}$"
    operator = qtyping.TFLOperationName(_operation(layer.operator))
    if layer.bits == 0:
        work.update_quantization_recipe(scope, operator, algorithm_key=_NO_QUANTIZE)
    elif layer.bits == 16:
        work.add_weight_only_config(scope, operator, 16, algorithm_key=_FLOAT_CASTING)
    elif layer.activations == "static":
        work.add_static_config(
            scope, operator, activation_bits, layer.bits, _granularity(layer), _algorithm(layer)
        )
    elif layer.activations == "dynamic":
        work.add_dynamic_config(scope, operator, layer.bits, _granularity(layer), _algorithm(layer))
    else:
        work.add_weight_only_config(
            scope, operator, layer.bits, _granularity(layer), _algorithm(layer)
        )


def _algorithm(layer: LayerRecipe) -> Any:
    """Full range for 8 bits; for 4 bits a channel the clipping that costs the least energy.

    Blocks are short enough for their full range, and weights that were trained on the grid of the
    full range keep it. ResNet-20 in 4 bits, 2,000 JPEG images, points
    lost: full range 3.2, OCTAV 1.8, MSE 11.4 (2026-11, ai-edge-quantizer 0.10).
    Source: OCTAV, Sakr et al. 2022, arXiv:2206.06501.
    """
    is_clipped = layer.bits == 4 and not layer.block_size and not layer.is_on_grid
    return _OCTAV if is_clipped else _MIN_MAX


def _operation(operator: str) -> str:
    return "CONV_2D_TRANSPOSE" if operator == "TRANSPOSE_CONV" else operator


def _granularity(layer: LayerRecipe) -> Any:
    name = f"BLOCKWISE_{layer.block_size}" if layer.block_size else "CHANNELWISE"
    if layer.is_per_tensor:
        name = "TENSORWISE"
    return qtyping.QuantGranularity(name)


def _calibrate(  # noqa: PLR0913  # a model, its data, and what is wanted of them
    content: bytes,
    graph: Graph,
    artifact: Artifact,
    recipe: Recipe,
    settings: Quantize,
    dataset: Dataset | None,
    reporter: Reporter,
    *,
    trained: Sequence[TrainedRange],
) -> Calibrated:
    """Ranges of all activations; trained ones win, and a note tells of them."""
    if dataset is None:
        raise StepError("quantize: static activations need calibration data")
    if not graph.signatures:
        raise StepError(
            f"quantize: {artifact.entry} has no signature, which calibration needs; convert the "
            "model again with one, or use dynamic activations"
        )
    found = trained_ranges(content, artifact, graph, trained, dataset)
    calibrated = calibrate_model(
        content,
        graph,
        artifact,
        watch(graph, recipe),
        settings,
        dataset,
        reporter,
        known=found.known,
    )
    if not trained:
        return calibrated
    return replace(calibrated, notes=(*calibrated.notes, found.note()))
