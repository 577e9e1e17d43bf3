"""Dry runs: what a build on one device would do, and how a model stands with every device."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from edgekit.catalog import find_profiles, find_targets, load_profile, load_target
from edgekit.compile import CompilerSpec
from edgekit.core.codec import from_plain, nearest
from edgekit.core.errors import CompileError, EdgekitError, MissingDependencyError, StepError
from edgekit.core.facts import ModelFacts
from edgekit.core.figure import Figure
from edgekit.core.precision import INTEGERS
from edgekit.core.profile import DeviceProfile
from edgekit.core.progress import Listener
from edgekit.core.strategy import ActsOn, PlannedStep, Quantize, StepSpec, Strategy
from edgekit.core.target import Target
from edgekit.core.units import format_quantity
from edgekit.core.verdict import Limit, Sense
from edgekit.core.workload import Workload
from edgekit.flow.early_checks import check_names, check_some_are_stored
from edgekit.flow.limits import resolve_limits
from edgekit.flow.prepare import Model, capture_model
from edgekit.flow.results import BuildOptions, FitLine, FitOutcome, PlanResult, SupportLine
from edgekit.flow.sources import NOTHING, SourceOptions, resolve_source
from edgekit.flow.workspace import workspace
from edgekit.plan.budget import container_notes
from edgekit.plan.effort import trained_epochs
from edgekit.plan.estimate import estimate_figures
from edgekit.plan.strategy import Wishes, make_strategy
from edgekit.plan.support import operator_uses, require_support


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything decided before any long work: where to, how, and within which limits.

    specs: the installed steps by name.
    """

    profile: DeviceProfile
    target: Target
    compiler: CompilerSpec
    strategy: Strategy
    limits: tuple[Limit, ...]
    specs: Mapping[str, StepSpec]

    @property
    def quantize(self) -> Quantize | None:
        """The settings of the quantize step, where one runs."""
        return quantize_of(self.strategy)

    def steps_on(self, kind: ActsOn) -> tuple[PlannedStep, ...]:
        """The steps that run on one kind of thing, in order."""
        return tuple(
            step
            for step in self.strategy.steps
            if step.is_run and self.specs[step.name].acts_on is kind
        )


def installed(group: str) -> dict[str, Any]:
    """The plug-ins of an entry point group by name.

    Raises: StepError when two distributions register the same name.
    """
    found: dict[str, Any] = {}
    for point in entry_points(group=group):
        if point.name in found and found[point.name].value != point.value:
            raise StepError(
                f"two plug-ins register '{point.name}' in {group}: {found[point.name].value} "
                f"and {point.value}; uninstall one"
            )
        found[point.name] = point
    return {name: point.load() for name, point in found.items()}


def find_place(options: BuildOptions) -> tuple[DeviceProfile, Target]:
    """The device and the target of a build, before its model is looked at.

    Raises: ProfileError for one that there is not, or that is not written as it must be.
    """
    profile = load_profile(options.device)
    return profile, load_target(options.target or profile.default_target)


def make_plan(model: Model, options: BuildOptions) -> Plan:
    """Decide device, target, strategy and limits; no long work yet.

    Raises: ProfileError, StepError, CompileError, MissingDependencyError or InputError.
    """
    profile, target = find_place(options)
    compiler = compiler_of(target)
    _check_format(model, compiler, target)
    wishes = Wishes(
        conditions=_conditions(model.workload),
        has_module=has_module(model),
        effort=options.effort,
        overrides=options.overrides,
        settings=options.settings,
        is_strict=options.is_strict,
        has_adapters=bool(model.contract.adapters),
    )
    specs = _steps()
    strategy = make_strategy(model.facts, profile, target, specs, wishes)
    quantize = quantize_of(strategy)
    limits = resolve_limits(
        profile,
        model.workload.limits,
        options.limits,
        options.allow,
        is_half_precision=quantize is not None and quantize.precision not in INTEGERS,
    )
    plan = Plan(
        profile=profile,
        target=target,
        compiler=compiler,
        strategy=strategy,
        limits=limits,
        specs=specs,
    )
    _check_steps(plan.steps_on(ActsOn.GRAPH), compiler)
    if wishes.has_module:
        running = (*plan.steps_on(ActsOn.MODULE), *plan.steps_on(ActsOn.GRAPH))
        check_names(model.workload.model, running)
    if quantize is not None:
        check_some_are_stored(model.facts.layers, quantize)
    return plan


def has_module(model: Model) -> bool:
    """Whether a model is a torch module, whose layers can be taken apart."""
    # A graph cannot be pruned or trained as a module can, and an exported program is one.
    return model.source.format == "torch" and hasattr(model.workload.model, "named_modules")


def _check_steps(steps: tuple[PlannedStep, ...], compiler: CompilerSpec) -> None:
    for step in steps:
        if step.name not in compiler.steps:
            able = ", ".join(compiler.steps) or "none"
            raise StepError(
                f"step '{step.name}': compiler {compiler.name} cannot do it; it can: {able}; make "
                "the step conditional, or take it out of the profile"
            )


def compiler_of(target: Target) -> CompilerSpec:
    """The compiler that a target names.

    Raises: MissingDependencyError when no plug-in of that name is installed.
    """
    compilers: Mapping[str, CompilerSpec] = installed("edgekit.compilers")
    if target.compiler not in compilers:
        raise MissingDependencyError(
            f"target {target.name}: no compiler '{target.compiler}' is installed"
            f"{nearest(target.compiler, list(compilers))}"
        )
    return compilers[target.compiler]


def quantize_of(strategy: Strategy) -> Quantize | None:
    """The settings of the strategy's quantize step, where one runs."""
    for step in strategy.steps:
        if step.name == "quantize" and step.is_run:
            return from_plain(Quantize, step.settings, where="quantize", error=StepError)
    return None


def plan_build(
    source: str | Path | Workload,
    options: BuildOptions,
    *,
    listener: Listener,
    source_options: SourceOptions = NOTHING,
) -> PlanResult:
    """The strategy, the support of every operator and estimates; nothing is built."""
    find_place(options)
    with workspace() as work:
        model = capture_model(resolve_source(source, work, source_options), work, listener)
        plan = make_plan(model, options)
        has_student = model.workload.student is not None
        estimates = estimate_figures(
            model.facts,
            plan.profile,
            plan.target,
            plan.quantize,
            plan.strategy.steps,
            has_student=has_student,
        )
        return PlanResult(
            profile=plan.profile,
            target=plan.target,
            facts=model.facts,
            strategy=plan.strategy,
            support=_support_lines(model.facts, _targets(plan.target)),
            estimates=(*estimates, *_training_time(model, plan)),
            notes=(
                *_skipped_notes(plan.strategy),
                *container_notes(
                    model.facts,
                    plan.target,
                    plan.quantize,
                    plan.strategy.steps,
                    plan.limits,
                    has_student=has_student,
                ),
            ),
        )


def _training_time(model: Model, plan: Plan) -> tuple[Figure, ...]:
    if not any(trained_epochs(step.settings) for step in plan.strategy.steps if step.is_run):
        return ()
    # Only a plan that trains needs torch.
    from edgekit.flow.training_time import estimate_training  # noqa: PLC0415

    figure = estimate_training(model, plan)
    return () if figure is None else (figure,)


def fit(
    source: str | Path | Workload,
    *,
    listener: Listener,
    source_options: SourceOptions = NOTHING,
) -> tuple[FitLine, ...]:
    """Every profile in the catalog against one model, from estimates alone."""
    with workspace() as work:
        model = capture_model(resolve_source(source, work, source_options), work, listener)
        return tuple(_fit_one(model, entry.name) for entry in find_profiles())


def _fit_one(model: Model, device: str) -> FitLine:
    profile = load_profile(device)
    line = {"device": device, "title": profile.title, "target": profile.default_target}
    try:
        plan = make_plan(model, BuildOptions(device=device))
        require_support(model.facts, plan.target)
    except EdgekitError as error:
        return FitLine(**line, outcome="not supported", reason=str(error), estimates=())
    has_student = model.workload.student is not None
    figures = estimate_figures(
        model.facts,
        profile,
        plan.target,
        plan.quantize,
        plan.strategy.steps,
        has_student=has_student,
    )
    outside, unsure = _held_against(plan.limits, figures)
    if outside or unsure:
        outcome: FitOutcome = "does not fit" if outside else "may not fit"
        reason = "; ".join((*outside, *unsure))
        return FitLine(**line, outcome=outcome, reason=reason, estimates=figures)
    settled = {item.name for item in figures}
    open_limits = [limit.figure for limit in plan.limits if limit.figure not in settled]
    reason = "estimated inside every size limit"
    if open_limits:
        reason += f"; only a build tells: {', '.join(open_limits)}"
    return FitLine(**line, outcome="fits", reason=reason, estimates=figures)


def _held_against(
    limits: Iterable[Limit], figures: Iterable[Figure]
) -> tuple[list[str], list[str]]:
    """The limits that estimates miss with their whole interval, and those that they straddle."""
    by_name = {item.name: item for item in figures}
    outside, unsure = [], []
    for limit in limits:
        figure = by_name.get(limit.figure)
        if figure is None or figure.value is None or limit.sense is not Sense.AT_MOST:
            continue
        low = figure.value if figure.low is None else figure.low
        high = figure.value if figure.high is None else figure.high
        if high <= limit.bound:
            continue
        least, value, most, bound = (
            format_quantity(item, limit.unit) for item in (low, figure.value, high, limit.bound)
        )
        if low > limit.bound:
            outside.append(f"{limit.figure} is about {value} (estimated), at most {bound}")
        else:
            unsure.append(f"{limit.figure} may be {least} to {most} (estimated), at most {bound}")
    return outside, unsure


def _check_format(model: Model, compiler: CompilerSpec, target: Target) -> None:
    form = model.facts.source_format
    if form not in compiler.accepts:
        takes = ", ".join(compiler.accepts)
        raise CompileError(
            f"{model.source.origin}: target {target.name} takes {takes} models, and this one is "
            f"{form}; give the torch model, or choose the target of its own format"
        )


def _conditions(workload: Workload) -> frozenset[str]:
    has = {
        "training data": workload.training is not None,
        "unlabelled data": workload.unlabelled is not None,
        "student": workload.student is not None,
        "selection data": workload.selection is not None,
    }
    return frozenset(name for name, is_there in has.items() if is_there)


def _steps() -> dict[str, StepSpec]:
    return installed("edgekit.steps")


def _targets(chosen: Target) -> tuple[Target, ...]:
    """The chosen target first, then every other one of the catalog."""
    others = [load_target(entry.name) for entry in find_targets() if entry.name != chosen.name]
    return (chosen, *others)


def _support_lines(facts: ModelFacts, targets: tuple[Target, ...]) -> tuple[SupportLine, ...]:
    return tuple(
        SupportLine(
            operator=use.operator,
            count=len(use.module_paths),
            module_paths=tuple(dict.fromkeys(use.module_paths)),
            target=target.name,
            support=use.support.support,
            note=use.support.note,
        )
        for target in targets
        for use in operator_uses(facts, target)
    )


def _skipped_notes(strategy: Strategy) -> tuple[str, ...]:
    return tuple(f"step '{step.name}' is skipped: {step.reason}" for step in strategy.skipped)
