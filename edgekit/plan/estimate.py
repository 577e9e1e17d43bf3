"""What a build would probably give, from counts alone. Every figure is labelled estimated."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgekit.core.facts import LayerFact, ModelFacts
from edgekit.core.figure import Figure, Place, Provenance
from edgekit.core.precision import FLOAT8, NF4_BLOCK, STORAGE_BITS
from edgekit.core.profile import DeviceProfile
from edgekit.core.strategy import PlannedStep, Quantize
from edgekit.core.target import RuntimeLibrary, Target
from edgekit.plan.container import container_bytes
from edgekit.plan.forecast import forecasts
from edgekit.plan.foreseen import Forecast
from edgekit.plan.mixed_wish import range_of

WEIGHT_BITS = {"float32": 32, **STORAGE_BITS}
# Of the scale of a block or a channel that ONNX stores.
SCALE_BYTES = 4.0
# A layer's, beyond those of a Cast. Two ResNets of 10 and 22 layers, stripped (2026-11).
WIDENING_BYTES = {"fp8_e4m3": 45.0, "fp8_e5m2": 45.0, "nf4": 170.0}
# Measured peak memory of the digits model (docs/results.md), less its weights.
ENGINE_MEMORY_BYTES = {"tflite": 4e6, "onnx": 11e6}
# Beyond what the steps leave open: exporters, kept operators, layers that stay at more bits.
SPREAD = 0.15


def kept_share(name: str, settings: Mapping[str, Any]) -> float:
    """About what share of the weights a step leaves by a ratio in its settings alone.

    1 where it states none, or states its size otherwise: ``forecasts`` follows that on a model.
    """
    if name == "distil":
        has_other_size = settings.get("student_bytes") or settings.get("student_macs")
        is_made = settings.get("student", "auto") in ("auto", "made") and not has_other_size
        return float(settings.get("student_ratio", 1.0)) if is_made else 1.0
    if name == "factorize":
        is_stated = settings.get("ranks") == "search" and not settings.get("keep_bytes")
        return float(settings.get("parameter_ratio", 1.0)) if is_stated else 1.0
    has_channels = {"channels", "embedding"}.intersection(settings.get("units", ("channels",)))
    if name != "prune" or settings.get("keep") or not has_channels:
        return 1.0
    left = 1 - float(settings.get("ratio", 0.0))
    return left**2 if settings.get("goal", "channels") == "channels" else left


def estimate_figures(  # a model, where it goes and what is done to it
    facts: ModelFacts,
    profile: DeviceProfile,
    target: Target,
    settings: Quantize | None,
    steps: Iterable[PlannedStep] = (),
    *,
    has_student: bool = False,
) -> tuple[Figure, ...]:
    """Bytes of the artifact, footprint, memory and build time, each with an interval.

    steps: those of the strategy; what the ones that run leave of the model is taken into account.
    has_student: the workload makes students of its own.
    """
    after = forecasts(facts, steps, has_student=has_student)[-1]
    artifact = _artifact(after, target, settings)
    why = "".join(f"; {reason}" for reason in after.unknown)
    activations = after.likely.peak_activation_bytes * _activation_share(settings)
    figures = [_figure("artifact_bytes", artifact, f"weights by bits, scales, container{why}")]
    library = target.runtime_library(profile.hardware.abi)
    if library is not None:
        figures.append(_estimate_footprint(artifact, library))
    if profile.family == "embedded":
        figures.append(_figure("flash_bytes", artifact, f"the model's constants alone{why}"))
        figures.append(_estimate("ram_bytes", activations, "bytes", "peak live activations"))
    else:
        engine = ENGINE_MEMORY_BYTES.get(target.format, 8e6)
        how = "what the engine takes for any model, weights, activations"
        memory = engine + 1.5 * artifact.value + activations
        figures.append(_estimate("peak_memory_bytes", memory, "bytes", how, spread=0.5))
    figures.append(
        _estimate("build_seconds", _build_seconds(facts), "s", "past builds", spread=0.7)
    )
    return tuple(figures)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Range:
    value: float
    low: float
    high: float


def _artifact(after: Forecast, target: Target, settings: Quantize | None) -> _Range:
    least, value, most = (
        estimate_artifact_bytes(facts, target, settings)
        for facts in (after.least, after.likely, after.most)
    )
    if settings is not None and settings.mixed is not None:
        least, value, most = _mixed_artifact(after, target, settings)
    return _Range(value=value, low=least * (1 - SPREAD), high=most * (1 + SPREAD))


def _mixed_artifact(
    after: Forecast, target: Target, settings: Quantize
) -> tuple[float, float, float]:
    """From all layers at the fewest bits to all at the most; the budget, where it lies between."""
    narrow, wide = range_of(settings)
    least = estimate_artifact_bytes(after.least, target, narrow)
    most = estimate_artifact_bytes(after.most, target, wide)
    budget = settings.mixed.max_bytes if settings.mixed else 0
    most = max(least, min(most, budget or most))
    likely = estimate_artifact_bytes(after.likely, target, wide)
    return least, min(max(likely, least), most), most


def estimate_artifact_bytes(facts: ModelFacts, target: Target, settings: Quantize | None) -> float:
    """Bytes of the stripped artifact: weights at their bits, scales, and the container."""
    weights = sum(_layer_bytes(layer, facts, settings) for layer in facts.layers)
    inside = sum(_elements(layer) for layer in facts.layers)
    rest = _rest_bytes(facts, max(0, facts.parameters - inside), settings)
    return weights + rest + container_bytes(facts, target.format, settings)


def _elements(layer: LayerFact) -> int:
    """Weights of the matrix or the kernel, without biases."""
    whole = math.prod(layer.weight_shape) if layer.weight_shape else layer.parameters
    return min(whole, layer.parameters)


def _rest_bytes(facts: ModelFacts, parameters: int, settings: Quantize | None) -> float:
    """Bytes of biases and norms, which stay floats, or integers as wide."""
    has_batch_norm = any("batch_norm" in item.operator for item in facts.operators)
    # A batch norm's scale and shift leave one bias in the layer before it.
    folded = parameters / 2 if has_batch_norm else parameters
    return folded * (2 if settings is not None and settings.precision == "fp16" else 4)


def _estimate_footprint(artifact: _Range, library: RuntimeLibrary) -> Figure:
    total = artifact.value + library.bytes
    figure = _estimate("footprint_bytes", total, "bytes", "artifact and engine library")
    low = min(total * (1 - SPREAD), artifact.low + library.bytes)
    high = max(total * (1 + SPREAD), artifact.high + library.upper_bytes)
    return replace(figure, low=round(low, 1), high=round(high, 1))


def _layer_bytes(layer: LayerFact, facts: ModelFacts, settings: Quantize | None) -> float:
    weights = _elements(layer)
    if settings is None:
        return 4.0 * weights
    bits = WEIGHT_BITS[settings.precision]
    is_edge = layer in (facts.layers[0], facts.layers[-1])
    if settings.precision == "int4" and (
        layer.kind == "depthwise" or (is_edge and settings.keep_first_last_int8)
    ):
        bits = 8
    return weights * bits / 8 + _side_bytes(layer, weights, bits, settings)


def _side_bytes(layer: LayerFact, weights: int, bits: int, settings: Quantize) -> float:
    """Scales of a layer, and the nodes that widen its weights."""
    nodes = WIDENING_BYTES.get(settings.precision, 0.0)
    if settings.precision == "nf4":
        return nodes + SCALE_BYTES * math.ceil(weights / (settings.block_size or NF4_BLOCK))
    if settings.precision in FLOAT8:
        return nodes + SCALE_BYTES * (layer.weight_shape[0] if layer.weight_shape else 1)
    has_blocks = settings.block_size and bits == WEIGHT_BITS["int4"]
    return 2 * weights / settings.block_size if has_blocks else 0.0


def _activation_share(settings: Quantize | None) -> float:
    """Bytes of an activation over those of a float."""
    if settings is None or settings.activations != "static":
        return 1.0
    return settings.activation_bits / WEIGHT_BITS["float32"]


def _build_seconds(facts: ModelFacts) -> float:
    return 20 + 0.05 * len(facts.operators) + facts.parameters / 1e6


def _figure(name: str, found: _Range, how: str) -> Figure:
    """Bytes with the interval of what the steps may leave."""
    figure = _estimate(name, found.value, "bytes", how)
    return replace(figure, low=round(found.low, 1), high=round(found.high, 1))


def _estimate(name: str, value: float, unit: str, how: str, *, spread: float = SPREAD) -> Figure:
    return Figure(
        name=name,
        value=round(value, 1),
        unit=unit,
        provenance=Provenance.ESTIMATED,
        place=Place.NOWHERE,
        how=how,
        low=round(value * (1 - spread), 1),
        high=round(value * (1 + spread), 1),
    )
