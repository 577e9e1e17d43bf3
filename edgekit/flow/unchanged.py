"""Steps on the module that changed nothing: an error or a reported line, never silence."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgekit.core.errors import StepError
from edgekit.core.facts import ModelFacts
from edgekit.core.strategy import ActsOn, Strategy
from edgekit.flow.planning import Plan


def require_change(
    name: str, before: ModelFacts, after: ModelFacts, points: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse a step that left graph and weights as they were.

    points: every point on the way of the step, as plain values.
    Raises: StepError saying what was tried.
    """
    if before.digest != after.digest:
        return
    why, fix = "graph and weights are the same", "look at its settings"
    if len(points) > 1 and points[0].get("is_kept"):
        why = (
            f"none of its {len(points) - 1} epochs, rounds or trials was better on the selection "
            f"data than the weights that it began with (score {points[0]['score']:.4g}), so these "
            "were kept"
        )
        fix = (
            "lower its learning_rate, train longer, give more selection data, leave out all that "
            "trains (--effort quick)"
        )
    raise StepError(f"step '{name}' changed nothing: {why}; {fix}, or take it out of the strategy")


def without_unneeded(plan: Plan, reasons: Mapping[int, str]) -> Plan:
    """The plan, where some of the steps on the module had no need to run.

    reasons: by the step's place among those on the module.
    """
    running = plan.steps_on(ActsOn.MODULE)
    why = {id(running[place]): reason for place, reason in reasons.items()}
    steps = tuple(
        replace(step, is_run=False, is_unneeded=True, reason=why[id(step)], settings={})
        if id(step) in why
        else step
        for step in plan.strategy.steps
    )
    return replace(plan, strategy=Strategy(steps=steps))
