"""What a step that is skipped would have bought: estimates from its settings and the model."""

from collections.abc import Sequence
from dataclasses import replace

from edgekit.core.codec import from_plain
from edgekit.core.facts import ModelFacts
from edgekit.core.planned import PlannedStep
from edgekit.core.steps import Sparsify
from edgekit.core.strategy import Quantize, Step
from edgekit.core.target import Target
from edgekit.core.units import format_bytes
from edgekit.plan.estimate import estimate_artifact_bytes
from edgekit.plan.forecast import forecasts

# Steps that train the weights that are there: other values, as many bytes.
_ONLY_TRAINING = ("train", "lora")
_ONLY_WEIGHTS = "would change 0 bytes (estimated), and the metric by what only a build tells"


def told_of_missed(
    steps: Sequence[Step],
    planned: Sequence[PlannedStep],
    facts: ModelFacts,
    target: Target,
    *,
    has_student: bool = False,
) -> tuple[PlannedStep, ...]:
    """The planned steps, where those that are skipped say what they are for and would have bought.

    steps: as the profile asks for them, in the same order. planned: the reason of a skipped one is
    what it lacks, its settings are the full ones, which a step that does not run does not keep.
    has_student: the workload makes students of its own.
    """

    def told(asked: Step, step: PlannedStep) -> PlannedStep:
        if step.is_run or not step.is_needed:
            return step
        bought = _bought(step, planned, facts, target, has_student=has_student)
        would = "; ".join(part for part in (asked.reason, bought) if part)
        reason = f"{step.reason} ({would})" if would else step.reason
        return replace(step, reason=reason, settings={})

    return tuple(told(asked, step) for asked, step in zip(steps, planned, strict=True))


def _bought(
    step: PlannedStep,
    planned: Sequence[PlannedStep],
    facts: ModelFacts,
    target: Target,
    *,
    has_student: bool,
) -> str:
    """The model as the steps up to this one would leave it, with this one and without."""
    if not step.settings:
        return ""
    if step.name in _ONLY_TRAINING:
        return _ONLY_WEIGHTS
    if step.name == "sparsify":
        zeros = from_plain(Sparsify, step.settings, where=step.name).ratio
        return f"would make {zeros:.0%} of the weights zero (asked for), the file no smaller"
    # What lets this step run lets those before it run as well, and it starts from what they leave.
    place = next(number for number, other in enumerate(planned) if other is step)
    without, joined = (
        [
            replace(other, is_run=other.is_run or (number < end and bool(other.settings)))
            for number, other in enumerate(planned)
        ]
        for end in (place, place + 1)
    )
    before, after = (
        forecasts(facts, steps, has_student=has_student)[-1].likely for steps in (without, joined)
    )
    share = after.parameters / max(1, before.parameters)
    if share == 1:
        return _ONLY_WEIGHTS
    quantize = _quantize_of([other for other in planned if other.is_run])
    files = [
        format_bytes(estimate_artifact_bytes(item, target, quantize)) for item in (after, before)
    ]
    return (
        f"would leave about {share:.0%} of the weights, an artifact of about {files[0]} instead "
        f"of {files[1]} (estimated)"
    )


def _quantize_of(run: Sequence[PlannedStep]) -> Quantize | None:
    found = next((step for step in run if step.name == "quantize"), None)
    return None if found is None else from_plain(Quantize, found.settings, where="quantize")
