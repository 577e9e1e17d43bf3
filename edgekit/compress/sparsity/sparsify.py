"""The step "sparsify": single weights become zero and stay zero.

One weight in a tensor that is zero makes no kernel faster; what it buys is told in figures of bytes
and zeros (``sparse_report``) and never as speed. Methods: ``magnitude``, ``wanda``, ``sparsegpt``,
``rigl``. Which weights take part: ``sparse_layers``. A round of pruning: ``sparse_round``.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench, StepPoint, StepResult
from edgekit.compress.count import count
from edgekit.compress.judge import Judge
from edgekit.compress.masks import merged_masks, require_zeros
from edgekit.compress.schedule import recover_in_round, shares
from edgekit.compress.sparsity.compressed_size import compressed_bytes
from edgekit.compress.sparsity.rigl import RigL, plan_updates
from edgekit.compress.sparsity.sparse_layers import Participants, SparseWeight, participants
from edgekit.compress.sparsity.sparse_report import described, summary, zeros_in
from edgekit.compress.sparsity.sparse_round import magnitude_masks, prune_
from edgekit.compress.training.batches import Batches
from edgekit.compress.training.optimizer import check_masks, zero_masked_
from edgekit.compress.training.recovery import recovery_objective
from edgekit.compress.training.train import Trained, train
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.search import Search
from edgekit.core.steps.sparsify import Sparsify
from edgekit.core.steps.train import Train


@dataclass(slots=True, kw_only=True)
class _Standing:
    """How far the step is. kept: the place among the points of the model as it stands."""

    masks: dict[str, Tensor]
    points: list[StepPoint] = field(default_factory=list)
    kept: int = 0
    by_magnitude: dict[str, str] = field(default_factory=dict)
    moved: int | None = None


def sparsify(settings: Sparsify, bench: Bench, reporter: Reporter) -> StepResult:
    """Set weights to zero, then train if asked; every round is a point.

    Raises: StepError when no zero would be added, no round is inside the limit, a pattern matches
    nothing, or training is asked for without training data.
    """
    _check_bench(settings, bench)
    model = bench.model.to(bench.device)
    check_masks(model, bench.masks)
    masks = {name: keeps.to(bench.device) for name, keeps in bench.masks.items()}
    zero_masked_(model, masks)
    grouped = settings.grouped
    found = participants(model, settings.ignore, group=0 if grouped is None else grouped.group)
    zeros_before, bytes_before = zeros_in(found.weights), compressed_bytes(model)
    step = _Step(settings, replace(bench, masks=masks), reporter, found, sum(zeros_before.values()))
    standing = step.by_rigl() if settings.method == "rigl" else step.in_rounds()
    model = model.eval().cpu()
    masks = {name: keeps.cpu() for name, keeps in standing.masks.items() if not bool(keeps.all())}
    require_zeros(model, masks)
    values = described(
        settings,
        model,
        found,
        zeros_before=zeros_before,
        bytes_before=bytes_before,
        bytes_after=compressed_bytes(model),
        by_magnitude=standing.by_magnitude,
    )
    if standing.moved is not None:
        values["moved"] = standing.moved
    reporter.note(summary(values))
    points = [replace(item, is_kept=i == standing.kept) for i, item in enumerate(standing.points)]
    return StepResult(model=model, masks=masks, points=tuple(points), values=values)


class _Step:
    """One run of the step on one model."""

    def __init__(
        self,
        settings: Sparsify,
        bench: Bench,
        reporter: Reporter,
        found: Participants,
        zeros_before: int,
    ) -> None:
        """bench: with the masks on its device."""
        self.settings, self.bench, self.reporter = settings, bench, reporter
        self.model, self.found, self.zeros_before = bench.model, found, zeros_before
        self.judge = Judge(bench)
        self.size = count(bench.model, bench)

    def in_rounds(self) -> _Standing:
        """Prune and train, round after round, up to the last one inside the limit."""
        standing = self._start()
        rounds = self.settings.iterations
        for number, share in enumerate(shares(self.settings.schedule, rounds), start=1):
            ratio = share * self.settings.ratio
            before = replace(standing, masks=dict(standing.masks))
            weights = _copies(self.model) if self.settings.is_within_limit else {}
            self._round(standing, number, ratio)
            if not self._is_inside():
                if number == 1:
                    raise StepError(self._outside(ratio))
                _place(self.model, weights)
                return self._go_back(standing, before, number)
        return standing

    def by_rigl(self) -> _Standing:
        """Prune by magnitude at once, then let weights move while the model trains."""
        settings, bench, weights = self.settings, self.bench, self.found.weights
        _check_trained(weights)
        standing = self._start()
        started = time.monotonic()
        batches = len(Batches(bench, settings.recover.batch_size, name="rigl"))
        plan = plan_updates(settings, settings.recover.epochs * batches, batches)
        first = magnitude_masks(weights, settings, settings.ratio, bench.masks)
        # The training changes these in place.
        moving = {name: keeps.clone() for name, keeps in merged_masks(bench.masks, first).items()}
        zero_masked_(self.model, moving)
        self._require_zeros_added()
        rigl = RigL(
            weights,
            moving,
            bench.masks,
            plan,
            self.reporter,
            first_share=settings.drop_ratio,
            group=0 if settings.grouped is None else settings.grouped.group,
        )
        recover = replace(settings.recover, search=Search())
        if settings.recover.search.epochs:
            self.reporter.note(
                "no trials: when weights move hangs on the length of the training, so a shorter "
                "one tells nothing"
            )
        trained = self._train(recover, moving, "rigl", after_batch=rigl.after_batch)
        self._add_training(standing, trained, f"{settings.ratio:.1%} zeros", started)
        standing.masks = moving
        standing.moved = sum(int((moving[name] & ~keeps).sum()) for name, keeps in first.items())
        if trained.points[0].is_kept:
            self.reporter.warn(
                "no epoch was better on the selection data than the model as it was pruned, so no "
                f"weight has moved; lower learning_rate (now {settings.recover.learning_rate:g}), "
                "or train longer"
            )
        if not self._is_inside():
            raise StepError(self._outside(settings.ratio))
        return standing

    def _start(self) -> _Standing:
        point = self._point("as it came", self.judge.score(self.model), 0.0)
        return _Standing(masks=dict(self.bench.masks), points=[point])

    def _round(self, standing: _Standing, number: int, ratio: float) -> None:
        settings, rounds = self.settings, self.settings.iterations
        name = f"{ratio:.1%} zeros" if rounds == 1 else f"round {number}, {ratio:.1%} zeros"
        started = time.monotonic()
        pruned = prune_(
            self.model,
            self.found.weights,
            settings,
            ratio,
            standing.masks,
            self.bench,
            self.reporter,
        )
        standing.masks = merged_masks(standing.masks, pruned.masks)
        standing.by_magnitude = pruned.by_magnitude
        if number == 1:
            self._tell(pruned.by_magnitude)
        if number == rounds:
            self._require_zeros_added()
        recover = recover_in_round(settings.recover, number - 1, rounds)
        if recover.epochs:
            trained = self._train(recover, standing.masks, f"recover-{number}")
            self._add_training(standing, trained, name, started)
            return
        seconds = time.monotonic() - started
        standing.points.append(self._point(name, self.judge.score(self.model), seconds))
        standing.kept = len(standing.points) - 1

    def _train(
        self, settings: Train, masks: Mapping[str, Tensor], name: str, **hooks: object
    ) -> Trained:
        objective = recovery_objective(
            self.bench, settings, self.settings.teacher_weight, self.reporter
        )
        return train(
            self.model,
            objective,
            self.bench,
            settings,
            self.reporter,
            masks=masks,
            name=name,
            **hooks,  # type: ignore[arg-type]
        )

    def _add_training(
        self, standing: _Standing, trained: Trained, name: str, started: float
    ) -> None:
        """The points of a training; its start is the model as it was pruned."""
        start, *epochs = trained.points
        seconds = time.monotonic() - started - trained.seconds
        standing.kept = len(standing.points) + [item.is_kept for item in trained.points].index(True)
        standing.points += [replace(start, name=name, seconds=max(seconds, 0.0)), *epochs]

    def _is_inside(self) -> bool:
        limit = self.bench.drop_limit
        if not self.settings.is_within_limit or limit is None:
            return True
        return self.judge.judge(self.model).drop <= limit

    def _go_back(self, standing: _Standing, before: _Standing, number: int) -> _Standing:
        """The way up to the round before this one, with this one's points for the record."""
        self._require_zeros_added()
        self.reporter.note(
            f"stopped before round {number} of {self.settings.iterations}, which is outside the "
            f"metric's limit ({self.bench.drop_limit:g})"
        )
        return replace(before, points=standing.points)

    def _outside(self, ratio: float) -> str:
        return (
            f"sparsify: {ratio:.1%} zeros lose more by {self.bench.metric.name} on the selection "
            f"data than the limit of {self.bench.drop_limit:g} allows; lower sparsity_ratio, use "
            "more rounds (iterations), or train for more epochs (recover.epochs)"
        )

    def _require_zeros_added(self) -> None:
        """Refuse a step that does nothing; asked before the last training, not after it."""
        zeros = sum(zeros_in(self.found.weights).values())
        if zeros <= self.zeros_before:
            total = sum(item.parameter.numel() for item in self.found.weights)
            raise StepError(
                f"sparsify: no zero was added: {self.zeros_before} of {total} weights that take "
                f"part are zero already, and {self.settings.ratio:g} of them were asked for; raise "
                "sparsity_ratio, or leave this step out"
            )

    def _tell(self, by_magnitude: Mapping[str, str]) -> None:
        for name, reason in by_magnitude.items():
            self.reporter.note(f"{name}: by magnitude, not {self.settings.method}: {reason}")

    def _point(self, name: str, score: float, seconds: float) -> StepPoint:
        return StepPoint(
            name=name,
            parameters=self.size.parameters,
            macs=self.size.macs,
            score=score,
            seconds=seconds,
        )


def _check_bench(settings: Sparsify, bench: Bench) -> None:
    if settings.recover.epochs and bench.training is None:
        raise StepError(
            f"sparsify: recover.epochs is {settings.recover.epochs} and there are no training "
            "data; give the workload some, or set epochs to 0"
        )
    if settings.is_within_limit and bench.drop_limit is None:
        raise StepError(
            "sparsify: is_within_limit is set, and there is no limit to keep: the profile has no "
            "limit of metric_drop, or no selection data with targets tell it; give either, or "
            "leave is_within_limit out"
        )


def _check_trained(weights: Sequence[SparseWeight]) -> None:
    """Refuse frozen weights where they are to move."""
    frozen = [item.name for item in weights if not item.parameter.requires_grad]
    if frozen:
        raise StepError(
            f"sparsify: method 'rigl' grows weights by their gradients, and {len(frozen)} take "
            f"none ('{frozen[0]}', ...); set requires_grad, or name their layers in ignore"
        )


def _copies(model: nn.Module) -> dict[str, Tensor]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: value.detach().clone() for name, value in tensors}


@torch.no_grad()
def _place(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    there = dict([*model.named_parameters(), *model.named_buffers()])
    for name, value in tensors.items():
        there[name].copy_(value)
