"""Conditions of steps that hang on the build as it is planned: held only where a step pays.

``smooth`` and ``spread`` make room in ranges that one scale must hold. Where no such scale is, they
cost time and bytes and buy nothing, which is no lack of the model's.
Source: docs/results.md, quantization beside other tools; docs/strategies.md, smooth and spread.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgekit.core.codec import from_plain
from edgekit.core.errors import StepError
from edgekit.core.facts import ModelFacts
from edgekit.core.planned import PlannedStep
from edgekit.core.strategy import (
    BUILD_CONDITIONS,
    ONE_INPUT_SCALE,
    ONE_OUTPUT_SCALE,
    Quantize,
    Step,
)
from edgekit.core.target import Target
from edgekit.plan.rounding import has_rounding, trains_ranges

_BITS = 8


def with_conditions(
    steps: Sequence[Step], planned: Sequence[PlannedStep], facts: ModelFacts, target: Target
) -> tuple[PlannedStep, ...]:
    """The planned steps, less those whose condition of the build does not hold, with the reason.

    steps: as the profile asks for them, in the same order.
    """
    found: list[PlannedStep] = []
    for asked, step in zip(steps, planned, strict=True):
        why = ""
        if asked.when in BUILD_CONDITIONS:
            quantize = next((item for item in planned if item.name == "quantize"), None)
            why = next(_reasons_against(asked.when, facts, target, quantize, found), "")
        unneeded = replace(step, is_run=False, is_unneeded=True, reason=why, settings={})
        found.append(unneeded if why else step)
    return tuple(found)


def _reasons_against(
    condition: str,
    facts: ModelFacts,
    target: Target,
    planned: PlannedStep | None,
    earlier: Sequence[PlannedStep],
) -> Iterator[str]:
    """Why a condition does not hold; planned: the quantize step."""
    if facts.family != "transformer":
        yield f"pays for transformers, and the model is of another kind ({facts.family})"
    if planned is None or not planned.is_run:
        yield "pays before activations are quantized, and no step does that"
        return
    quantize = from_plain(Quantize, planned.settings, where=planned.name, error=StepError)
    if quantize.mixed is not None:
        yield "pays with INT8 throughout, and precisions are chosen layer by layer"
    if quantize.precision != "int8":
        yield f"pays with INT8, and the weights are stored as {quantize.precision}"
    if quantize.activations == "none" or quantize.activation_bits != _BITS:
        bits = "are float" if quantize.activations == "none" else "have 16 bits"
        yield f"pays with activations of {_BITS} bits, and these {bits}"
    against = {ONE_INPUT_SCALE: _inputs, ONE_OUTPUT_SCALE: _outputs}[condition]
    yield from against(target, quantize, [step for step in earlier if step.is_run])


def _inputs(target: Target, quantize: Quantize, earlier: Sequence[PlannedStep]) -> Iterator[str]:
    """Of a layer that reads integers with one scale for the whole tensor."""
    if target.format != "onnx":
        is_static = quantize.activations == "static"
        there = "what they give loses more" if is_static else "each row has its own"
        yield f"pays in ONNX, where all inputs of a layer have one scale; in {target.title} {there}"
    if quantize.is_per_tensor:
        yield "pays with a scale for each output channel of the weights, and a layer has only one"
    trained = next((step.name for step in earlier if has_rounding(step)), "")
    if trained:
        yield f"would move the weights of '{trained}' off the grid that they were put on"


def _outputs(target: Target, quantize: Quantize, earlier: Sequence[PlannedStep]) -> Iterator[str]:
    """Of a layer that gives integers with one scale, to what computes in float."""
    if target.format != "tflite" or quantize.activations != "static":
        yield "pays where layers give static integers (LiteRT), and here they give floats"
    if quantize.is_integer_only:
        yield "pays where floats read what layers give, and all is integers here"
    trained = next((step.name for step in earlier if trains_ranges(step)), "")
    if trained:
        yield f"would change the ranges of activations that '{trained}' trained"
