"""From the steps that a profile asks for to the steps that will run, each with a reason."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from edgekit.core.codec import from_plain, nearest, to_plain
from edgekit.core.errors import MissingDependencyError, StepError
from edgekit.core.facts import ModelFacts
from edgekit.core.profile import DeviceProfile
from edgekit.core.strategy import (
    ActsOn,
    Override,
    PlannedStep,
    Quantize,
    Step,
    StepSpec,
    Strategy,
)
from edgekit.core.target import Target
from edgekit.plan.recipe import choose_quantize

CONDITIONS = ("training data", "unlabelled data", "student", "selection data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asks of a strategy beyond the profile.

    conditions: those of CONDITIONS that the workload meets. settings: by step name, values that
    replace the planned ones. is_strict: a skipped step is an error.
    """

    conditions: frozenset[str] = frozenset()
    effort: str = "quick"
    overrides: tuple[Override, ...] = ()
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    is_strict: bool = False


def make_strategy(
    facts: ModelFacts,
    profile: DeviceProfile,
    target: Target,
    installed: Mapping[str, StepSpec],
    wishes: Wishes,
) -> Strategy:
    """The profile's steps in order, each run with settings or skipped with a reason.

    Raises: StepError for an illegal order, settings that no step reads, or a required step that
    cannot run; MissingDependencyError for a required step that is not installed.
    """
    _check_names(profile, wishes)
    _check_patterns(facts, wishes)
    planned = tuple(
        _plan_step(step, facts, profile, target, installed, wishes) for step in profile.steps
    )
    _check_order(planned, installed, profile)
    skipped = [step for step in planned if not step.is_run]
    if wishes.is_strict and skipped:
        lines = "; ".join(f"{step.name}: {step.reason}" for step in skipped)
        raise StepError(f"{profile.name}: --strict, and steps would be skipped: {lines}")
    return Strategy(steps=planned)


def _check_names(profile: DeviceProfile, wishes: Wishes) -> None:
    names = [step.name for step in profile.steps]
    for name in wishes.settings:
        if name not in names:
            raise StepError(f"{profile.name}: no step '{name}' to set{nearest(name, names)}")
    if wishes.overrides and "quantize" not in names:
        raise StepError(f"{profile.name}: layer overrides need a quantize step, and it has none")


def _check_patterns(facts: ModelFacts, wishes: Wishes) -> None:
    paths = [layer.module_path for layer in facts.layers]
    for override in wishes.overrides:
        where = f"layer pattern '{override.pattern}'"
        try:
            pattern = re.compile(override.pattern)
        except re.error as fault:
            raise StepError(f"{where}: not a regular expression: {fault}") from fault
        if not any(pattern.search(path) for path in paths):
            raise StepError(
                f"{where}: it matches no layer with weights{nearest(override.pattern, paths)}"
            )


def _plan_step(
    step: Step,
    facts: ModelFacts,
    profile: DeviceProfile,
    target: Target,
    installed: Mapping[str, StepSpec],
    wishes: Wishes,
) -> PlannedStep:
    obstacle = _find_obstacle(step, installed, wishes)
    if obstacle is not None:
        if step.is_required:
            error = StepError if step.name in installed else MissingDependencyError
            raise error(f"{profile.name}: step '{step.name}' is required, but {obstacle}")
        would = f" ({step.reason})" if step.reason else ""
        return PlannedStep(name=step.name, is_run=False, reason=f"{obstacle}{would}")
    settings = {**step.settings, **wishes.settings.get(step.name, {})}
    if step.name == "quantize":
        return _plan_quantize(step, settings, facts, profile, target, wishes.overrides)
    checked = _checked(installed[step.name], settings, f"{profile.name}: step '{step.name}'")
    return PlannedStep(name=step.name, is_run=True, reason=step.reason, settings=checked)


def _checked(spec: StepSpec, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings as the step's own dataclass has them, defaults filled in."""
    module, _, name = spec.settings.partition(":")
    settings_type = getattr(import_module(module), name)
    plain: dict[str, Any] = to_plain(
        from_plain(settings_type, dict(settings), where=where, error=StepError)
    )
    return plain


def _find_obstacle(step: Step, installed: Mapping[str, StepSpec], wishes: Wishes) -> str | None:
    if step.when and step.when not in CONDITIONS:
        raise StepError(
            f"step '{step.name}': unknown condition '{step.when}'{nearest(step.when, CONDITIONS)}"
        )
    if step.name not in installed:
        return f"no step '{step.name}' is installed"
    for need in (step.when, *installed[step.name].needs):
        if need and need not in wishes.conditions:
            return f"the workload has no {need}"
    if installed[step.name].is_training and wishes.effort == "quick":
        return "effort quick trains nothing; use --effort standard"
    return None


def _plan_quantize(
    step: Step,
    settings: Mapping[str, Any],
    facts: ModelFacts,
    profile: DeviceProfile,
    target: Target,
    overrides: tuple[Override, ...],
) -> PlannedStep:
    where = f"{profile.name}: step 'quantize'"
    if "precision" not in settings:
        raise StepError(f"{where}: 'precision' is missing; allowed: int8, int4, fp16")
    # The recipe reads the precision, so it must be a legal one before anything follows from it.
    asked = from_plain(Quantize, {"activations": "none", **settings}, where=where, error=StepError)
    chosen, reason = choose_quantize(
        asked.precision, facts, profile, target, overrides=(*asked.overrides, *overrides)
    )
    stated = {key: getattr(asked, key) for key in settings if key != "overrides"}
    final = replace(chosen, **stated)
    _check_target(final, target, where)
    changed = [key for key in stated if key != "precision"]
    if changed:
        reason += f"; set by hand: {', '.join(changed)}"
    full_reason = f"{step.reason}: {reason}" if step.reason else reason
    return PlannedStep(name=step.name, is_run=True, reason=full_reason, settings=to_plain(final))


def _check_target(settings: Quantize, target: Target, where: str) -> None:
    stored = [item.precision for item in target.precisions]
    if settings.precision not in stored:
        allowed = ", ".join(stored)
        raise StepError(
            f"{where}: target {target.name} cannot store {settings.precision}; it can: {allowed}"
        )
    if settings.block_size not in (0, 16, 32, 64, 128, 256):
        raise StepError(
            f"{where}: block_size {settings.block_size} is not allowed; "
            "use 0 (per channel), 16, 32, 64, 128 or 256"
        )


def _check_order(
    planned: tuple[PlannedStep, ...], installed: Mapping[str, StepSpec], profile: DeviceProfile
) -> None:
    graph_step: str | None = None
    for step in planned:
        if not step.is_run:
            continue
        if installed[step.name].acts_on is ActsOn.GRAPH:
            graph_step = step.name
        elif graph_step is not None:
            raise StepError(
                f"{profile.name}: step '{step.name}' changes the torch model, so it must come "
                f"before '{graph_step}', which changes the exported graph"
            )
