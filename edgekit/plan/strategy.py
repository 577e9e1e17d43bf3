"""From the steps that a profile asks for to the steps that will run, each with a reason."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, get_args

from edgekit.core.codec import from_plain, nearest, to_plain
from edgekit.core.errors import MissingDependencyError, StepError
from edgekit.core.facts import ModelFacts
from edgekit.core.profile import DeviceProfile
from edgekit.core.strategy import (
    BUILD_CONDITIONS,
    CONDITIONS,
    WORKLOAD_CONDITIONS,
    ActsOn,
    Override,
    PlannedStep,
    Precision,
    Quantize,
    Step,
    StepSpec,
    Strategy,
)
from edgekit.core.target import Target
from edgekit.plan.conditions import with_conditions
from edgekit.plan.effort import prolonged, trained_epochs
from edgekit.plan.missed import told_of_missed
from edgekit.plan.mixed_wish import check_mixed, four_bit_blocks, told_of, with_base
from edgekit.plan.order import check_kinds, check_results_are_used
from edgekit.plan.recipe import choose_quantize
from edgekit.plan.rounding import with_rounding
from edgekit.plan.storage import check_stored

# Of 1: two names that are alike to this share are one name with a slip in it.
MISSPELT = 0.75
# The loss of a distillation with unlabelled data, unless weights are stated.
TAUGHT = {"hard_weight": 0.3, "soft_weight": 0.7}
LACKS = "the workload has no "


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asks of a strategy beyond the profile.

    conditions: those of WORKLOAD_CONDITIONS that hold. has_module: the model is a
    torch.nn.Module, which steps can take apart; an exported graph is none. settings: by step name,
    values that replace the planned ones. is_strict: a skipped step is an error. has_adapters: the
    workload brings adapters to choose from, which were trained on the model as it is.
    """

    conditions: frozenset[str] = frozenset()
    has_module: bool = True
    effort: str = "quick"
    overrides: tuple[Override, ...] = ()
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    is_strict: bool = False
    has_adapters: bool = False


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
    check_kinds(profile.steps, installed, profile.name)
    planned = tuple(
        _plan_step(step, facts, profile, target, installed, wishes) for step in profile.steps
    )
    planned = with_conditions(profile.steps, planned, facts, target)
    has_student = "student" in wishes.conditions
    check_results_are_used(planned, installed, profile.name, has_student=has_student)
    planned = with_rounding(planned, target, profile.name)
    planned = told_of_missed(profile.steps, planned, facts, target, has_student=has_student)
    strategy = Strategy(steps=planned)
    if wishes.is_strict and strategy.skipped:
        lines = "; ".join(f"{step.name}: {step.reason}" for step in strategy.skipped)
        raise StepError(f"{profile.name}: --strict, and steps would be skipped: {lines}")
    return strategy


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
    where = f"{profile.name}: step '{step.name}'"
    if step.when and step.when not in CONDITIONS:
        raise StepError(f"{where}: unknown condition '{step.when}'{nearest(step.when, CONDITIONS)}")
    if step.name not in installed:
        _refuse_misspelt(step.name, installed, where)
    settings = _merged(step.settings, wishes.settings.get(step.name, {}))
    if _leans_on_teacher(step, settings, wishes):
        settings |= TAUGHT
        why = "the teacher weighs more, as there are unlabelled data"
        step = replace(step, reason="; ".join(filter(None, (step.reason, why))))
    checked: dict[str, Any] = {}
    if step.name in installed and step.name != "quantize":
        checked = _checked(installed[step.name], settings, where)
    obstacle = _find_obstacle(step, checked, installed, wishes)
    if obstacle is not None:
        if step.is_required:
            error = StepError if step.name in installed else MissingDependencyError
            raise error(f"{where} is required, but {obstacle}{_remedy(obstacle)}")
        return PlannedStep(name=step.name, is_run=False, reason=obstacle, settings=checked)
    if step.name == "quantize":
        return _plan_quantize(step, settings, facts, profile, target, wishes)
    if wishes.effort == "max":
        checked = prolonged(checked, wishes.settings.get(step.name, {}))
    return PlannedStep(name=step.name, is_run=True, reason=step.reason, settings=checked)


def _leans_on_teacher(step: Step, settings: Mapping[str, Any], wishes: Wishes) -> bool:
    """Whether a distillation has samples that only the teacher labels, and no weights are stated.

    The labels' part of the loss is a mean over the few samples that have some.
    """
    is_mixed = step.name == "distil" and "unlabelled data" in wishes.conditions
    return is_mixed and not TAUGHT.keys() & settings.keys()


def _refuse_misspelt(name: str, installed: Mapping[str, StepSpec], where: str) -> None:
    """A step that a plug-in would bring may be absent; a slip of the pen must not look like one."""
    # Imported here: only a name that is not known needs it.
    import difflib  # noqa: PLC0415

    close = difflib.get_close_matches(name, installed, n=1, cutoff=MISSPELT)
    if close:
        raise StepError(
            f"{where} is not installed, and '{close[0]}' is; correct the name, or install the "
            f"package that brings '{name}'"
        )


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others on top, tables within tables too."""
    merged = dict(ours)
    for key, value in theirs.items():
        old = merged.get(key)
        is_table = isinstance(value, Mapping) and isinstance(old, Mapping)
        merged[key] = _merged(old, value) if is_table else value  # type: ignore[arg-type]
    return merged


def _remedy(obstacle: str) -> str:
    if not obstacle.startswith(LACKS):
        return ""
    name = obstacle.removeprefix(LACKS)
    field = WORKLOAD_CONDITIONS.get(name, name)
    return (
        f"; give the workload '{field}', or make the step conditional: when = \"{name}\" in "
        "place of required = true"
    )


def _checked(spec: StepSpec, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings as the step's own dataclass has them, defaults filled in."""
    try:
        checked = from_plain(settings_type(spec), dict(settings), where=where, error=StepError)
    except StepError as error:
        # Values are checked by the dataclass itself, which does not know whose settings it has.
        text = str(error)
        if text.startswith(where):
            raise
        raise StepError(f"{where}: {text.removeprefix(f'{spec.name}: ')}") from error
    if getattr(checked, "epochs", None) == 0:
        raise StepError(
            f"{where}: epochs is 0, which trains nothing; set 1 or more, or take the step out"
        )
    plain: dict[str, Any] = to_plain(checked)
    return plain


def settings_type(spec: StepSpec) -> type[Any]:
    """The dataclass of a step's settings."""
    module, _, name = spec.settings.partition(":")
    found: type[Any] = getattr(import_module(module), name)
    return found


def _find_obstacle(
    step: Step, settings: Mapping[str, Any], installed: Mapping[str, StepSpec], wishes: Wishes
) -> str | None:
    if step.name not in installed:
        near = nearest(step.name, list(installed)) if installed else ""
        return f"no step '{step.name}' is installed{near}"
    spec = installed[step.name]
    if spec.acts_on is ActsOn.MODULE and not wishes.has_module:
        return "the model is an exported graph, and this step needs the torch.nn.Module"
    if spec.acts_on is ActsOn.MODULE and wishes.has_adapters:
        return (
            "the workload's adapters were trained on the model as it is, and do not fit one that "
            "this step has changed"
        )
    epochs = trained_epochs(settings)
    is_training = spec.is_training if epochs is None else epochs > 0
    for need in (step.when, *spec.needs, "training data" if is_training else ""):
        if need and need not in (*wishes.conditions, *BUILD_CONDITIONS):
            return f"{LACKS}{need}"
    if is_training and wishes.effort == "quick":
        return "effort quick trains nothing; use --effort standard"
    return None


def _plan_quantize(
    step: Step,
    settings: Mapping[str, Any],
    facts: ModelFacts,
    profile: DeviceProfile,
    target: Target,
    wishes: Wishes,
) -> PlannedStep:
    where = f"{profile.name}: step 'quantize'"
    if "precision" not in settings:
        allowed = ", ".join((*get_args(Precision), "mixed"))
        raise StepError(f"{where}: 'precision' is missing; allowed: {allowed}")
    settings = with_base(settings, where)
    # The recipe reads the precision, so it must be a legal one before anything follows from it.
    asked = from_plain(Quantize, {"activations": "none", **settings}, where=where, error=StepError)
    chosen, reason = choose_quantize(
        asked.precision,
        facts,
        profile,
        target,
        overrides=(*asked.overrides, *wishes.overrides),
        activation_bits=asked.activation_bits,
        asked=asked.activations if "activations" in settings else None,
    )
    if asked.mixed is not None:
        kinds = {"has_module": wishes.has_module, "has_adapters": wishes.has_adapters}
        check_mixed(asked.mixed, profile, target, where, **kinds)
        size, why = four_bit_blocks(asked.mixed, facts, profile, target)
        chosen = replace(chosen, block_size=size)
        reason = "; ".join(filter(None, (told_of(asked.mixed), reason, why)))
    stated = {key: getattr(asked, key) for key in settings if key != "overrides"}
    final = replace(chosen, **stated)
    check_stored(final, target, where, family=profile.family)
    changed = [key for key in stated if key not in ("precision", "mixed")]
    if changed:
        reason += f"; set by hand: {', '.join(changed)}"
    full_reason = f"{step.reason}: {reason}" if step.reason else reason
    return PlannedStep(name=step.name, is_run=True, reason=full_reason, settings=to_plain(final))
