"""How good a model is on data that a step may look at, in torch and in float."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.compress.bench import Bench
from edgekit.core.errors import WorkloadError
from edgekit.data.dataset import TARGET, Dataset
from edgekit.evaluate.metrics import Metric, checked_scores
from edgekit.evaluate.paired import PairedBatch, PairedResult, paired_drop

BATCH_SAMPLES = 128

Outputs = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A model against the float model on one dataset.

    score: the metric of the model in the metric's own unit, as ``Judge.score`` gives it. drop: what
    it lost, as the verdict counts it; positive is worse.
    """

    score: float
    drop: float


class Judge:
    """Judges models on one dataset; the float model runs over it once."""

    def __init__(self, bench: Bench, dataset: Dataset | None = None) -> None:
        """dataset: the selection data where it is None."""
        self._bench = bench
        self._dataset = dataset or bench.selection
        self._has_scores_a_sample = True

    @cached_property
    def _reference(self) -> list[Outputs]:
        return list(predict(self._bench, self._bench.teacher, self._dataset))

    @property
    def metric(self) -> Metric:
        """What counts."""
        return self._bench.metric

    def judge(self, model: nn.Module) -> Judgement:
        """Metric and drop of a model, which is put into eval mode and back.

        Raises: WorkloadError for outputs or scores that are NaN.
        """
        result = self.paired(model)
        score, drop = result.candidate.value, result.drop.value
        if score is None or drop is None:  # paired_drop gives values or raises
            raise AssertionError(result)
        # Shares are told in percent or as they are, whichever the scores of both models allow.
        is_percent = result.candidate.unit == "%"
        return Judgement(score=score / 100 if is_percent else score, drop=drop)

    def score(self, model: nn.Module) -> float:
        """The metric of a model alone, in the metric's own unit (top-1: a share of 0..1).

        Raises: WorkloadError for outputs or scores that are NaN.
        """
        if not self._has_scores_a_sample:
            return self._score_of_all(model)
        found, done = [], 0
        for index, batch in enumerate(self._scored(model)):
            scores = self.metric.per_sample(batch.candidate, batch.target, batch.reference)
            if scores is None:
                self._has_scores_a_sample = False
                return self._score_of_all(model)
            where = f"batch {index} (samples {done} to {done + batch.count - 1})"
            found.append(checked_scores(scores, batch.count, metric=self.metric.name, where=where))
            done += batch.count
        return float(np.concatenate(found).mean())

    def _scored(self, model: nn.Module) -> Iterator[PairedBatch]:
        """Batches in which the float model has a part only where the metric compares with it."""
        rows = self._dataset.batches(BATCH_SAMPLES, self._targets)
        outputs = predict(self._bench, model, self._dataset)
        references = repeat(None) if self.metric.needs_target else self._reference
        for found, row, reference in zip(outputs, rows, references, strict=False):
            yield PairedBatch(
                reference=found if reference is None else reference,
                candidate=found,
                target=row.get(TARGET),
            )

    def _score_of_all(self, model: nn.Module) -> float:
        if self.metric.whole is None:
            raise WorkloadError(f"metric {self.metric.name}: no score a sample, none of a set")
        return self.metric.whole((item.candidate, item.target) for item in self._scored(model))

    @property
    def _targets(self) -> list[str]:
        return [TARGET] if TARGET in self._dataset.arrays else []

    def paired(self, model: nn.Module) -> PairedResult:
        """The same with intervals."""
        outputs = list(predict(self._bench, model, self._dataset))

        def batches() -> Iterator[PairedBatch]:
            rows = self._dataset.batches(BATCH_SAMPLES)
            for reference, candidate, row in zip(self._reference, outputs, rows, strict=True):
                yield PairedBatch(reference=reference, candidate=candidate, target=row.get(TARGET))

        return paired_drop(self.metric, batches, seed=self._bench.seed)

    def is_better(self, score: float, than: float) -> bool:
        """Whether one score of the metric beats another."""
        return score > than if self.metric.higher_is_better else score < than


@torch.no_grad()
def predict(bench: Bench, model: nn.Module, dataset: Dataset) -> Iterator[Outputs]:
    """Outputs of a model by name, batch after batch.

    Shapes: the first axis is the batch, at most BATCH_SAMPLES.
    """
    names = [item.name for item in bench.contract.inputs]
    modes = training_modes(model)
    model.eval()
    try:
        for rows in dataset.batches(BATCH_SAMPLES, names):
            inputs = {
                name: torch.from_numpy(value).to(bench.device) for name, value in rows.items()
            }
            found = bench.call(model, inputs)
            yield {name: value.float().cpu().numpy() for name, value in found.items()}
    finally:
        restore_modes(modes)


def training_modes(model: nn.Module) -> Mapping[nn.Module, bool]:
    """Which modules are in training mode."""
    return {module: module.training for module in model.modules()}


def restore_modes(modes: Mapping[nn.Module, bool]) -> None:
    """Put every module back into the mode that it was in."""
    for module, is_training in modes.items():
        module.training = is_training
