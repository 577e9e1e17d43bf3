"""Mixed precision in a build: measured, solved for, checked, and written into the strategy.

It happens once, before the first step that needs to know the bits of each layer (one that rounds
weights), else before the graph steps. What comes out is a base precision with an override for each
layer, so that everything after it is as if somebody had written them by hand.

A budget in bytes of the file counts what the file takes beside the planned weights: measured on an
artifact with every layer at its fewest bits. The file of the plan is held against the budget too,
and the plan is solved again with less where it is larger.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.compress.quantization.sensitivity import Probe
from edgekit.core.errors import BudgetError, StepError
from edgekit.core.mixed import INTEGERS, Mixed
from edgekit.core.planned import Strategy
from edgekit.core.progress import Reporter
from edgekit.core.sensitivity import LayerSensitivity, Sensitivity
from edgekit.core.strategy import Quantize
from edgekit.flow.mixed_builds import QUANTIZE, PlanBuilder, with_overrides
from edgekit.flow.mixed_results import Settled, Solved, Tried
from edgekit.flow.planning import Plan
from edgekit.flow.sensing import Place, Sensor, forms_of
from edgekit.plan.mixed import (
    FILE_BYTES,
    TIME,
    WEIGHT_BYTES,
    Choice,
    best_plan,
    is_within,
    offers,
    uniform,
    used,
    with_files,
)
from edgekit.plan.mixed import Plan as MixedPlan
from edgekit.plan.mixed_wish import FILE_LIMIT, WEIGHTS_LIMIT
from edgekit.plan.rounding import with_rounding

_TRIES = 4
# Constants are aligned in a file: what a plan takes is foreseen to about so much, and then built.
_SLACK_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Budgets:
    """What must be kept.

    weights, time: of the planned layers, None for none. file: of the artifact, 0 for none. over: so
    much larger than foreseen was the file of the last plan.
    """

    weights: float | None
    time: float | None
    file: int = 0
    over: int = 0

    @property
    def rows(self) -> dict[str, float]:
        """By the names that ``plan.mixed`` has for them."""
        file = self.file + _SLACK_BYTES - self.over if self.file else None
        bounds = {WEIGHT_BYTES: self.weights, FILE_BYTES: file, TIME: self.time}
        return {name: float(bound) for name, bound in bounds.items() if bound is not None}


class Mixer:
    """Settles the mixed precision of one build, for the model as it stands at one place."""

    def __init__(
        self, plan: Plan, sensor: Sensor, builder: PlanBuilder, place: Place, reporter: Reporter
    ) -> None:
        quantize = plan.quantize
        if quantize is None or quantize.mixed is None:
            raise ValueError("there is no mixed precision to settle")
        self._plan, self._sensor, self._builder, self._place = plan, sensor, builder, place
        self._quantize: Quantize = quantize
        self._mixed: Mixed = quantize.mixed
        self._where = f"{plan.profile.name}: mixed precision"
        self._reporter = reporter
        self._probe = Probe(
            forms=forms_of(self._mixed.ordered(), quantize.block_size),
            samples=self._mixed.samples,
            metric_layers=self._mixed.metric_layers,
        )

    def settle(self) -> Settled:
        """The plan with an override for each layer.

        Raises: BudgetError for a budget that cannot be kept, with the least that can be.
        """
        found = self._sensor.sensitivity(self._place, self._probe)
        layers = self._free(found)
        given = self._offers(layers)
        budgets = self._budgets()
        if budgets.file:
            given = with_files(given, self._beside(given, layers, budgets.file))
        best, tried = self._best(given, budgets)
        file_bytes = 0
        if budgets.file:
            best, tried, file_bytes = self._fitted(best, tried, given, layers, budgets)
        measured = self._sensor.check(self._place, self._probe, best.forms, is_judged=True)
        solved = Solved(
            mixed=self._mixed,
            best=best,
            tried=tuple(tried),
            found=found,
            layers=layers,
            measured=measured,
            file_bytes=file_bytes,
            file_bound=budgets.file,
        )
        self._reporter.note(solved.text())
        return Settled(
            plan=self._with(solved), detail=solved.detail(), figures=tuple(solved.figures())
        )

    def _with(self, solved: Solved) -> Plan:
        """The plan of the build, with the precision of each layer."""
        plan = with_overrides(self._plan, solved.best.plan, solved.layers)
        steps = tuple(
            replace(step, reason=f"{step.reason}; chosen: {solved.counts()}")
            if step.name == QUANTIZE and step.is_run
            else step
            for step in plan.strategy.steps
        )
        strategy = Strategy(steps=with_rounding(steps, self._plan.target, self._plan.profile.name))
        return replace(plan, strategy=strategy)

    def _free(self, found: Sensitivity) -> tuple[LayerSensitivity, ...]:
        """The layers that are solved for: in the exported model, and not set by hand."""
        there = self._builder.paths()
        by_hand = [re.compile(item.pattern) for item in self._quantize.overrides]
        free, absent = [], []
        for layer in found.layers:
            paths = [path for path in (layer.path, *layer.others) if path in there]
            if not paths:
                absent.append(layer.path)
            elif not any(pattern.search(path) for pattern in by_hand for path in paths):
                free.append(layer)
        if absent:
            self._reporter.note(
                f"not planned, as the exported model has no such weight: {', '.join(absent)}"
            )
        if found.left:
            left = "; ".join(f"{path} ({why})" for path, why in found.left.items())
            self._reporter.note(f"not measured, stored as {self._mixed.base}: {left}")
        if not free:
            raise StepError(
                f"{self._where}: no layer is left to choose a precision for; take overrides out "
                "(--layer), or choose one precision for all"
            )
        return tuple(free)

    def _offers(self, layers: Sequence[LayerSensitivity]) -> dict[str, tuple[Choice, ...]]:
        names, size = self._mixed.candidates, self._quantize.block_size
        given = offers(layers, names, block_size=size)
        if not self._mixed.max_latency_ratio:
            return given
        times: dict[str, float] = {}
        for name in self._mixed.ordered():
            if name != "float":
                self._reporter.progress(f"timing {name}")
                times[name] = self._builder.time_ratio(uniform(given, name), layers)
        said = ", ".join(f"{name} {ratio:.3g}" for name, ratio in times.items())
        self._reporter.note(
            f"times over float's with all layers alike, measured here: {said}; a layer's share is "
            "that of its multiply-accumulates (estimated)"
        )
        return offers(layers, names, block_size=size, times=times)

    def _budgets(self) -> _Budgets:
        """Those of the step; without any, the limits of the device."""
        mixed = self._mixed
        if mixed.has_budget:
            weights, time = mixed.max_weight_bytes or None, mixed.max_latency_ratio or None
            return _Budgets(weights=weights, time=time, file=mixed.max_bytes)
        limits = {limit.figure: limit.bound for limit in self._plan.limits}
        file = int(limits.get(FILE_LIMIT, 0))
        return _Budgets(weights=limits.get(WEIGHTS_LIMIT), time=None, file=file)

    def _beside(
        self,
        given: Mapping[str, Sequence[Choice]],
        layers: Sequence[LayerSensitivity],
        bound: int,
    ) -> dict[str, float]:
        """What the file takes beside the weights, by the precision that all layers have.

        Raises: BudgetError where the smallest file is over the bound.
        """
        found: dict[str, float] = {}
        for name in self._mixed.ordered():
            if name not in INTEGERS:
                continue
            self._reporter.progress(f"what a file of {name} takes beside its weights")
            plan = uniform(given, name)
            size = self._builder.file_bytes(plan, layers)
            if size > bound and not found:  # the fewest bits come first
                raise BudgetError(
                    f"{self._where}: at most {bound:,} bytes are asked for the artifact, and with "
                    f"every layer at its fewest bits it takes {size:,}; raise the budget, give a "
                    "narrower candidate, or make the model smaller"
                )
            found[name] = size - used(plan, WEIGHT_BYTES)
        return found

    def _best(
        self, given: Mapping[str, Sequence[Choice]], budgets: _Budgets
    ) -> tuple[Tried, list[Tried]]:
        """The plan whose measured error is least: of the solved one and the uniform ones that fit.

        Errors that do not add up as assumed can make the solved plan the worse one.
        """
        rows = budgets.rows
        plans = {"solved": best_plan(given, rows, self._where)}
        plans |= {
            how: plan for how, plan in _uniform_ones(given, self._mixed) if is_within(plan, rows)
        }
        tried: dict[str, Tried] = {}
        for how, plan in plans.items():
            forms = {path: choice.form for path, choice in plan.items()}
            if not any(forms == item.forms for item in tried.values()):
                measured = self._sensor.check(self._place, self._probe, forms, is_judged=False)
                tried[how] = Tried(how=how, plan=plan, measured=measured)
        found = list(tried.values())
        return min(found, key=lambda item: item.measured.error), found

    def _fitted(
        self,
        best: Tried,
        tried: list[Tried],
        given: Mapping[str, Sequence[Choice]],
        layers: Sequence[LayerSensitivity],
        budgets: _Budgets,
    ) -> tuple[Tried, list[Tried], int]:
        """The same, made smaller until the file itself is within its budget; and its bytes."""
        for _ in range(_TRIES):
            size = self._builder.file_bytes(best.plan, layers)
            if size <= budgets.file:
                return best, tried, size
            budgets = replace(budgets, over=budgets.over + size - budgets.file)
            best, tried = self._best(given, budgets)
        raise BudgetError(
            f"{self._where}: after {_TRIES} plans the artifact still takes {size:,} bytes, and "
            f"{budgets.file:,} are asked; set mixed.max_weight_bytes to less"
        )


def _uniform_ones(
    given: Mapping[str, Sequence[Choice]], mixed: Mixed
) -> Iterator[tuple[str, MixedPlan]]:
    """Plans that anybody would write by hand: all alike, and the ends at 8 bits."""
    plans = {name: uniform(given, name) for name in mixed.ordered()}
    for name, plan in plans.items():
        yield f"uniform {name}", plan
    if {"int4", "int8"} <= plans.keys():
        paths = list(given)
        ends = {path: plans["int8"][path] for path in (paths[0], paths[-1])}
        yield "int4 between int8 ends", {**plans["int4"], **ends}
