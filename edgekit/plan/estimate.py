"""What a build would probably give, from counts alone. Every figure is labelled estimated."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from edgekit.core.facts import LayerFact, ModelFacts
from edgekit.core.figure import Figure, Place, Provenance
from edgekit.core.profile import DeviceProfile
from edgekit.core.strategy import PlannedStep, Quantize
from edgekit.core.target import RuntimeLibrary, Target

WEIGHT_BITS = {"float32": 32, "fp16": 16, "int8": 8, "int4": 4}
# Measured on ResNet-20, ResNet-56 and MiniLM after stripping: graph structure an operator.
STRUCTURE_BYTES = {"tflite": 130, "onnx": 230}
# Measured peak memory of the digits model (docs/results.md), less its weights.
ENGINE_MEMORY_BYTES = {"tflite": 4e6, "onnx": 11e6}
# Each operator call of the captured graph becomes about 0.6 operators (batch norm folds away).
KEPT_OPERATORS = 0.6
SCALE_BYTES = 12
SPREAD = 0.15


def kept_share(name: str, settings: Mapping[str, Any]) -> float:
    """About what share of the weights a step on the module leaves, by its settings; 1 if unknown.

    A layer that loses a share of its channels loses it on both sides.
    """
    if name == "distil":
        has_other_size = settings.get("student_bytes") or settings.get("student_macs")
        is_made = settings.get("student", "auto") in ("auto", "made") and not has_other_size
        return float(settings.get("student_ratio", 1.0)) if is_made else 1.0
    if name == "factorize":
        is_search = settings.get("ranks") == "search"
        return float(settings.get("parameter_ratio", 1.0)) if is_search else 1.0
    if name != "prune" or settings.get("keep"):
        return 1.0
    left = 1 - float(settings.get("ratio", 0.0))
    return left**2 if settings.get("goal", "channels") == "channels" else left


def _kept_by_all(steps: Iterable[PlannedStep]) -> float:
    share, is_smaller = 1.0, False
    for step in steps:
        # A model that earlier steps made smaller is its own student: distilling keeps its size.
        is_own_student = step.name == "distil" and is_smaller
        if step.is_run and not is_own_student:
            share *= kept_share(step.name, step.settings)
            is_smaller = share < 1
    return share


def shrink(facts: ModelFacts, share: float) -> ModelFacts:
    """The facts of a model that keeps a share of its weights, every layer alike."""

    def scaled(count: int) -> int:
        return math.ceil(count * share)

    layers = tuple(
        replace(layer, parameters=scaled(layer.parameters), macs=scaled(layer.macs))
        for layer in facts.layers
    )
    return replace(
        facts,
        parameters=scaled(facts.parameters),
        weight_bytes=scaled(facts.weight_bytes),
        macs=scaled(facts.macs),
        # Activations go with the channels, which are the root of the weights.
        peak_activation_bytes=math.ceil(facts.peak_activation_bytes * math.sqrt(share)),
        layers=layers,
    )


def estimate_figures(
    facts: ModelFacts,
    profile: DeviceProfile,
    target: Target,
    settings: Quantize | None,
    steps: Iterable[PlannedStep] = (),
) -> tuple[Figure, ...]:
    """Bytes of the artifact, footprint, memory and build time, each with an interval.

    steps: those of the strategy; the ones that run and shrink the model are taken into account.
    """
    share = _kept_by_all(steps)
    facts = shrink(facts, share) if share < 1 else facts
    artifact = estimate_artifact_bytes(facts, target, settings)
    activations = facts.peak_activation_bytes * (0.25 if _has_integers(settings) else 1.0)
    figures = [_estimate("artifact_bytes", artifact, "bytes", "weights by bits, scales, structure")]
    library = target.runtime_library(profile.hardware.abi)
    if library is not None:
        figures.append(_estimate_footprint(artifact, library))
    if profile.family == "embedded":
        figures.append(_estimate("flash_bytes", artifact, "bytes", "the model's constants alone"))
        figures.append(_estimate("ram_bytes", activations, "bytes", "peak live activations"))
    else:
        memory = ENGINE_MEMORY_BYTES.get(target.format, 8e6) + 1.5 * artifact + activations
        how = "what the engine takes for any model, weights, activations"
        figures.append(_estimate("peak_memory_bytes", memory, "bytes", how, spread=0.5))
    figures.append(
        _estimate("build_seconds", _build_seconds(facts), "s", "past builds", spread=0.7)
    )
    return tuple(figures)


def estimate_artifact_bytes(facts: ModelFacts, target: Target, settings: Quantize | None) -> float:
    """Bytes of the stripped artifact: weights at their bits, scales, and graph structure."""
    weights = sum(_layer_bytes(layer, facts, settings) for layer in facts.layers)
    inside = sum(layer.parameters for layer in facts.layers)
    rest = 4 * max(0, facts.parameters - inside)
    structure = STRUCTURE_BYTES.get(target.format, 200) * KEPT_OPERATORS * len(facts.operators)
    return weights + rest + structure


def _estimate_footprint(artifact: float, library: RuntimeLibrary) -> Figure:
    total = artifact + library.bytes
    figure = _estimate("footprint_bytes", total, "bytes", "artifact and engine library")
    most = max(total * (1 + SPREAD), artifact * (1 + SPREAD) + library.upper_bytes)
    return replace(figure, high=round(most, 1))


def _layer_bytes(layer: LayerFact, facts: ModelFacts, settings: Quantize | None) -> float:
    if settings is None:
        return 4.0 * layer.parameters
    bits = WEIGHT_BITS[settings.precision]
    is_edge = layer in (facts.layers[0], facts.layers[-1])
    if settings.precision == "int4" and (
        layer.kind == "depthwise" or (is_edge and settings.keep_first_last_int8)
    ):
        bits = 8
    if settings.precision == "fp16":
        return layer.parameters * bits / 8
    groups = layer.parameters / settings.block_size if settings.block_size else 0.0
    channels = float(layer.weight_shape[0]) if layer.weight_shape else 1.0
    return layer.parameters * bits / 8 + SCALE_BYTES * channels + 2 * groups


def _has_integers(settings: Quantize | None) -> bool:
    return settings is not None and settings.activations == "static"


def _build_seconds(facts: ModelFacts) -> float:
    return 20 + 0.05 * len(facts.operators) + facts.parameters / 1e6


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
