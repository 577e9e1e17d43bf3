"""Trials before a training: what differs goes one thing at a time, the best is kept.

All trials start from the same weights and see the same samples in the same order, and the training
after them starts there too: it ends, bit for bit, as one that was given the taken settings at once.
A trial keeps checkpoints like any training, so a search that was killed goes on where it was.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench, StepPoint
from edgekit.compress.judge import Judge
from edgekit.compress.training.training_run import Trained
from edgekit.compress.training.update import NotFiniteError
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.search import Search
from edgekit.core.steps.train import Train

TRIAL = "trial"
STATED = "as stated"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation(Generic[T]):
    """One other value of one setting. name: what it is, for people."""

    name: str
    change: Callable[[T], T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Generic[T]):
    """What a search found. points: one for each trial, in their order."""

    settings: T
    points: tuple[StepPoint, ...]

    def told_in(self, trained: Trained) -> Trained:
        """The training with the trials among its points, after its start."""
        start, *epochs = trained.points
        return replace(trained, points=(start, *self.points, *epochs), trials=len(self.points))


def rates(settings: Train, change: Callable[[T, float], T]) -> tuple[Variation[T], ...]:
    """The other learning rates that are to be tried. change: gives settings another rate."""

    def at(rate: float) -> Variation[T]:
        return Variation(name=f"learning_rate {rate:.3g}", change=lambda old: change(old, rate))

    return tuple(at(settings.learning_rate * factor) for factor in settings.search.rate_factors)


def short(settings: Train) -> Train:
    """The training of one trial."""
    return replace(settings, epochs=min(settings.search.epochs, settings.epochs), search=Search())


def search(  # what is tried, on what, and how it is told
    stated: T,
    stages: Sequence[Sequence[Variation[T]]],
    run: Callable[[T, str], Trained],
    *,
    model: nn.Module,
    masks: Mapping[str, Tensor],
    bench: Bench,
    reporter: Reporter,
) -> Found[T]:
    """Try the stated settings, and then each stage's variations of the best so far.

    run: a short training of the model with such settings; its text names the folder of its
    checkpoints. Of equal scores the earlier trial's settings are taken. A trial whose loss or
    gradient is not finite is out, and said so. model, masks: left as they were.
    Raises: StepError as the trainings do, and where every trial is out.
    """
    points: list[StepPoint] = []
    numbers = count(1)
    judge = Judge(bench)

    def attempt(settings: T, name: str) -> float:
        with _unchanged(model, masks):
            trained = run(settings, f"{TRIAL}-{next(numbers)}")
        kept = next(point for point in trained.points if point.is_kept)
        label = f"{TRIAL}, {name}"
        points.append(replace(kept, name=label, is_kept=False, seconds=trained.seconds))
        return trained.score

    as_stated: Variation[T] = Variation(name=STATED, change=lambda settings: settings)
    best, best_name, best_score = stated, STATED, None
    failures: list[StepError] = []
    for stage in ((as_stated,), *stages):
        start = best
        for variation in stage:
            settings = variation.change(start)
            try:
                score = attempt(settings, variation.name)
            except StepError as error:
                if not isinstance(error.__cause__, NotFiniteError):
                    raise
                failures.append(error)
                reporter.warn(f"{TRIAL}, {variation.name}: {error.__cause__}; it is out")
                continue
            if best_score is None or judge.is_better(score, best_score):
                best, best_score, best_name = settings, score, variation.name
    if best_score is None:
        raise failures[0]
    told = "; ".join(f"{item.name.removeprefix(f'{TRIAL}, ')}: {item.score:.4g}" for item in points)
    reporter.note(f"{len(points)} trials on the selection data ({told}); taken: {best_name}")
    return Found(settings=best, points=tuple(points))


@contextmanager
def _unchanged(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """After the block the weights, the statistics and the masks are what they were before it."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    kept = [(value, value.detach().clone()) for value in (*named.values(), *masks.values())]
    try:
        yield
    finally:
        with torch.no_grad():
            for value, old in kept:
                value.copy_(old)
