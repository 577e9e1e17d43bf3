"""Structured pruning as a step: cut a little, retrain, repeat; stop inside the metric limit.

Layers go first, all at once; then channels, heads and widths by the schedule, each round measured
against the model as it came. A round that is done is written down, so a step that was killed goes
on with the round that it was in.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from torch import nn

from edgekit.compress.bench import Bench, StepPoint, StepResult
from edgekit.compress.count import count
from edgekit.compress.example import bench_example, calibration_examples
from edgekit.compress.judge import Judge
from edgekit.compress.pruning.channels import Aim, Pruned, asked_units, prune_found
from edgekit.compress.pruning.depth import asked_blocks, without_blocks
from edgekit.compress.pruning.goal import Key
from edgekit.compress.pruning.importance import IN_LOSS, Losses
from edgekit.compress.pruning.prunable import Prunable, find_prunable
from edgekit.compress.pruning.rounds import Round, Rounds
from edgekit.compress.schedule import recover_in_round, rounds_of, shares
from edgekit.compress.training.batches import Batches
from edgekit.compress.training.objective import label_objective
from edgekit.compress.training.recovery import recovery_objective
from edgekit.compress.training.train import train
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.prune import Goal, Prune

# Batches on which gradients are taken for "taylor" and "hessian".
_LOSS_BATCHES, _LOSS_SAMPLES = 16, 32
# Batches on which the influence of layers is measured.
_RUN_BATCHES, _RUN_SAMPLES = 8, 32


def prune(settings: Prune, bench: Bench, reporter: Reporter) -> StepResult:
    """Prune the bench's model by a schedule, with training after each round.

    Raises: StepError for settings that do not go with the model or its data, where nothing can go,
    a goal is out of reach, or no round is inside the metric limit.
    """
    _check(settings, bench)
    bench.model.to(bench.device)
    return _Pruning(settings, bench, reporter).run()


def _check(settings: Prune, bench: Bench) -> None:
    if settings.recover.epochs and bench.training is None:
        raise StepError(
            f"prune: recover asks for {settings.recover.epochs} epochs, and the workload has no "
            "training data; give it 'training' samples, or set recover.epochs to 0"
        )
    if settings.importance in IN_LOSS and bench.training is None:
        raise StepError(
            f"prune: importance '{settings.importance}' needs training data, and the workload has "
            "none; give it 'training' samples, or take 'group-norm'"
        )
    if settings.is_within_limit and bench.drop_limit is None:
        raise StepError(
            "prune: is_within_limit is set, and there is no limit to keep: the profile has no "
            "limit of metric_drop, or no selection data with targets tell it; give either, or "
            "leave is_within_limit out"
        )


class _Pruning:
    """One run of the step."""

    def __init__(self, settings: Prune, bench: Bench, reporter: Reporter) -> None:
        self._settings, self._bench, self._reporter = settings, bench, reporter
        self._judge = Judge(bench)
        self._example = bench_example(bench)
        self._units = [unit for unit in asked_units(settings) if unit != "layers"]
        # Layers alone go in one round: there is nothing that could grow.
        self._shares = shares(settings.schedule, rounds_of(settings)) if self._units else (1.0,)
        self._rounds = Rounds(bench, settings, reporter)
        self._told: set[str] = set()

    def run(self) -> StepResult:
        """All rounds, or those up to the limit."""
        start = self._point("start", self._bench.model, time.monotonic())
        shallow = self._shallow()
        self._whole = shallow.model
        initial = self._initial(shallow.model)
        done: list[Round] = []
        for number in range(len(self._shares)):
            found = self._rounds.load(number)
            if found is None:
                found = self._round(number, done[-1] if done else shallow, initial)
                self._rounds.save(number, found)
            if self._is_outside(found):
                return self._result(start, done, outside=found)
            done.append(found)
        return self._result(start, done)

    def _shallow(self) -> Round:
        """The model without the layers that are to go."""
        bench, settings = self._bench, self._settings
        if not (settings.drop_layers or settings.depth_ratio):
            return Round(model=bench.model, masks=bench.masks)
        examples = calibration_examples(bench, _RUN_BATCHES, _RUN_SAMPLES)
        chosen = asked_blocks(bench.model, examples, settings)
        if not chosen and not self._units:
            raise StepError(
                f"prune: depth_ratio is {settings.depth_ratio}, and of the layers that can go that "
                "is none; raise it, or name other units"
            )
        if not chosen:
            self._note(f"no layer went: depth_ratio {settings.depth_ratio} of those that can go")
            return Round(model=bench.model, masks=bench.masks)
        found = without_blocks(bench.model, [block.path for block in chosen], self._example)
        masks = {
            found.renamed[key]: mask for key, mask in bench.masks.items() if key in found.renamed
        }
        self._note(f"layers that went: {', '.join(found.dropped)}")
        return Round(model=found.model, masks=masks, facts={"dropped": list(found.dropped)})

    def _initial(self, model: nn.Module) -> dict[Key, int]:
        if not self._units:
            return {}
        groups = self._prunable(model).groups
        kinds = {group.kind for group in groups}
        for name, kind in (("head_ratio", "heads"), ("ffn_ratio", "ffn")):
            if getattr(self._settings, name) and kind not in kinds:
                raise StepError(
                    f"prune: {name} is {getattr(self._settings, name)}, and nothing of {kind} may "
                    f"go in this model; take {name} out"
                )
        return {group.key: len(group.units) for group in groups}

    def _prunable(self, model: nn.Module) -> Prunable:
        ignore = self._settings.ignore
        return find_prunable(model, self._example, self._units, ignore)

    def _round(self, number: int, before: Round, initial: Mapping[Key, int]) -> Round:
        """Cut, measure, train, measure."""
        began, name = time.monotonic(), f"round {number + 1}"
        total = len(self._shares)
        self._reporter.progress(f"{name} of {total}", number / total)
        if self._units:
            pruned = self._cut(before, self._shares[number], initial)
            model, masks, facts = pruned.model, pruned.masks, _facts(pruned, before)
        else:
            model, masks, facts = before.model, before.masks, dict(before.facts)
        points = [self._point(f"{name} cut", model, began)]
        recover = recover_in_round(self._settings.recover, number, len(self._shares))
        if recover.epochs:
            bench, weight = self._bench, self._settings.teacher_weight
            objective = recovery_objective(bench, recover, weight, self._reporter)
            folder = f"round-{number + 1}"
            trained = train(
                model, objective, bench, recover, self._reporter, masks=masks, name=folder
            )
            points += trained.tried
        points.append(self._point(name, model, began))
        drop = self._judge.judge(model).drop if self._settings.is_within_limit else None
        return Round(model=model, masks=masks, points=tuple(points), drop=drop, facts=facts)

    def _cut(self, before: Round, share: float, initial: Mapping[Key, int]) -> Pruned:
        bench, settings = self._bench, self._settings
        prunable = self._prunable(before.model)
        aim = Aim(
            limits=self._limits(share, initial, prunable),
            progress=share,
            multiple=settings.round_to or bench.channel_multiple,
            initial=initial,
        )
        pruned = prune_found(
            prunable, settings, aim, losses=self._losses(), masks=before.masks, seed=bench.seed
        )
        for note in pruned.notes:
            self._note(note)
        return pruned

    def _limits(
        self, share: float, initial: Mapping[Key, int], prunable: Prunable
    ) -> dict[Goal, float]:
        """What may stay of the goal after a round; nothing where the settings' ratio says it."""
        goal, settings = self._settings.goal, self._settings
        if goal == "channels" and not settings.keep:
            return {}
        if goal == "channels":
            width = {group.key: group.width for group in prunable.groups}
            first = float(sum(units * width.get(key, 0) for key, units in initial.items()))
        else:
            first = float(getattr(count(self._bench.model, self._bench), goal))
        last = settings.keep or first * (1 - settings.ratio)
        return {goal: first - max(first - last, 0.0) * share}

    def _losses(self) -> Losses | None:
        if self._settings.importance not in IN_LOSS:
            return None
        batches = Batches(self._bench, _LOSS_SAMPLES, name="importance")
        return Losses(
            objective=label_objective(self._bench),
            batches=list(islice(batches.epoch(0), _LOSS_BATCHES)),
        )

    def _is_outside(self, found: Round) -> bool:
        limit = self._bench.drop_limit
        return found.drop is not None and limit is not None and found.drop > limit

    def _result(
        self, start: StepPoint, done: Sequence[Round], outside: Round | None = None
    ) -> StepResult:
        if not done:
            raise StepError(self._never_inside(outside))
        last = done[-1]
        points = [start, *(point for item in done for point in item.points)]
        kept = len(points) - 1
        if outside is not None:
            points += outside.points
            self._note(
                f"stopped after round {len(done)} of {len(self._shares)}: the next one lost "
                f"{outside.drop:.4g} of the metric, in the unit of its limit, which is "
                f"{self._bench.drop_limit:.4g}"
            )
        if points[kept].parameters == start.parameters and points[kept].macs == start.macs:
            raise StepError(
                f"prune: nothing went: the model has {start.parameters:,} parameters and "
                f"{start.macs:,} MACs, and counts are rounded to multiples of "
                f"{self._settings.round_to or self._bench.channel_multiple}; ask for more to go, "
                "or lower round_to"
            )
        numbered = [replace(item, is_kept=index == kept) for index, item in enumerate(points)]
        return StepResult(
            model=last.model.to("cpu").eval(),
            masks={name: mask.cpu() for name, mask in last.masks.items()},
            points=tuple(numbered),
            values={
                **last.facts,
                "shapes": _shapes(self._whole, last.model),
                "rounds": len(done),
                "rounds_planned": len(self._shares),
            },
        )

    def _never_inside(self, outside: Round | None) -> str:
        drop = outside.drop if outside is not None and outside.drop is not None else 0.0
        return (
            f"prune: the first of {len(self._shares)} rounds lost {drop:.4g} of the metric, and "
            f"the limit is {self._bench.drop_limit:.4g}; prune less in it (a smaller ratio, more "
            "iterations), or retrain longer (recover.epochs)"
        )

    def _point(self, name: str, model: nn.Module, began: float) -> StepPoint:
        size = count(model, self._bench)
        score = self._judge.score(model)
        seconds = time.monotonic() - began
        return StepPoint(
            name=name, parameters=size.parameters, macs=size.macs, score=score, seconds=seconds
        )

    def _note(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._reporter.note(message)


def _facts(pruned: Pruned, before: Round) -> dict[str, object]:
    """Plain figures of a round for the report."""
    rewritten = [*before.facts.get("rewritten", []), *pruned.rewritten]
    return {
        **before.facts,
        "reached": {item.goal: item.reached for item in pruned.reached},
        "rewritten": list(dict.fromkeys(rewritten)),
    }


def _shapes(before: nn.Module, after: nn.Module) -> dict[str, str]:
    """Weights that have another shape now, by the path of their layer."""
    old = dict(before.named_parameters())
    return {
        name.removesuffix(".weight"): f"{list(old[name].shape)} -> {list(value.shape)}"
        for name, value in after.named_parameters()
        if value.ndim > 1 and name in old and old[name].shape != value.shape
    }
