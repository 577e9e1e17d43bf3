"""How long the training steps of a plan will take: a few batches are timed, the rest is counted."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgekit.compile.capture import MODEL_ERRORS, sample_inputs
from edgekit.compress.masks import copy_model
from edgekit.compress.training.pace import time_text
from edgekit.core.figure import Figure, Place, Provenance, not_evaluated
from edgekit.core.strategy import PlannedStep
from edgekit.core.workload import Workload
from edgekit.flow.planning import Plan
from edgekit.flow.prepare import Model
from edgekit.flow.workbench import make_call
from edgekit.plan.effort import trained_epochs
from edgekit.plan.forecast import forecasts

NAME = "training_seconds"
TIMED_BATCHES = 3
BATCH_SAMPLES = 32
# A forward pass takes about a third of a training step, and a teacher runs forward alone.
TEACHER_SHARE = 1 / 3
# Another machine load, augmentation, judging after each epoch.
LOW, HIGH = 0.5, 2.0


def estimate_training(model: Model, plan: Plan) -> Figure | None:
    """Seconds of all training steps on this machine; None where nothing trains."""
    steps = plan.strategy.steps
    if not any(trained_epochs(step.settings) for step in steps if step.is_run):
        return None
    data, missing = _sample_counts(model.workload)
    if missing:
        why = f"the {missing} data do not say how many samples they hold (no len())"
        return not_evaluated(NAME, "s", why)
    works = tuple(_works(model, plan, data))
    try:
        seconds = sum(work.passes for work in works) * _seconds_a_sample(model)
    except MODEL_ERRORS as error:
        why = f"the model takes no batch of {BATCH_SAMPLES} in training mode: {error}"
        return not_evaluated(NAME, "s", why)
    counted = _counted_text(data, works)
    return Figure(
        name=NAME,
        value=round(seconds, 1),
        unit="s",
        provenance=Provenance.ESTIMATED,
        place=Place.HOST,
        how=f"{TIMED_BATCHES} batches of {BATCH_SAMPLES} timed on this machine, times {counted} "
        f"and {sum(work.epochs for work in works)} epochs: {time_text(seconds)}",
        low=round(LOW * seconds, 1),
        high=round(HIGH * seconds, 1),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """How many samples the workload holds."""

    labelled: int
    unlabelled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What one step costs. passes: in training steps of the whole model on one sample.

    beside: samples without labels that its epochs go over.
    """

    epochs: int
    passes: float
    beside: int = 0


def _sample_counts(workload: Workload) -> tuple[_Data, str]:
    """The counts, and which data do not say theirs."""
    found = {"training": workload.training, "unlabelled": workload.unlabelled}
    counts = {name: 0 if data is None else _count(data) for name, data in found.items()}
    missing = next((name for name, count in counts.items() if count is None), "")
    return _Data(labelled=counts["training"] or 0, unlabelled=counts["unlabelled"] or 0), missing


def _works(model: Model, plan: Plan, data: _Data) -> Iterator[_Work]:
    steps = [step for step in plan.strategy.steps if step.is_run]
    has_student = model.workload.student is not None
    models = forecasts(model.facts, steps, has_student=has_student)
    for step, before, after in zip(steps, models, models[1:], strict=False):
        epochs = trained_epochs(step.settings)
        if epochs:
            # A step that cuts by rounds trains each of the models on the way.
            rounds = int(step.settings.get("iterations", 1))
            macs = after.likely.macs + (before.likely.macs - after.likely.macs) / 2 * (rounds > 1)
            share = macs / max(1, model.facts.macs)
            yield _work(step, epochs, share, data, tokens=_tokens(model))


def _tokens(model: Model) -> int:
    """The length of a text, by the inputs that are not floats."""
    items = [item for item in model.contract.inputs if item.dtype.startswith("int")]
    return max((shape[0] for item in items if (shape := item.source.element_shape)), default=1)


def _work(step: PlannedStep, epochs: int, share: float, data: _Data, *, tokens: int) -> _Work:
    """share: of the whole model's work that the trained one does on a sample. tokens: of a text."""
    has_teacher = step.name == "distil" or step.settings.get("teacher_weight", 0) > 0
    a_sample = share + (TEACHER_SHARE if has_teacher else 0.0)
    beside, before = 0, 0.0
    if step.name == "distil":
        made = int(step.settings.get("synthetic_samples", 0))
        beside = data.unlabelled + made
        # The teacher labels them once; made ones are searched for by its gradients, and text is
        # written with one look at the whole for each token.
        is_text = step.settings.get("task") == "language"
        steps = TEACHER_SHARE * tokens if is_text else int(step.settings.get("synthetic_steps", 0))
        before = TEACHER_SHARE * beside + made * steps
    passes = epochs * (data.labelled + beside) * a_sample + before
    return _Work(epochs=epochs, passes=passes, beside=beside)


def _counted_text(data: _Data, works: Sequence[_Work]) -> str:
    most = max(work.beside for work in works)
    beside = f" (and at most {most} without labels in 'distil')" if most else ""
    return f"{data.labelled} samples{beside}"


def _count(data: Iterable[Any]) -> int | None:
    """How many samples there are, where the data say it; a loader has a dataset that does."""
    holder: Any = getattr(data, "dataset", data)
    try:
        return len(holder)
    except TypeError:
        return None


def _seconds_a_sample(model: Model) -> float:
    """The fastest of a few training steps of a copy of the model, with the gradient of a sum."""
    call = make_call(model.contract)
    module = copy_model(model.workload.model).train()
    named = {item.name: item.source for item in model.contract.inputs}
    drawn = sample_inputs(
        ((kind.element_shape, kind.dtype) for kind in named.values()), BATCH_SAMPLES
    )
    inputs: Mapping[str, Tensor] = dict(zip(named, drawn, strict=True))
    best = math.inf
    for _ in range(TIMED_BATCHES):
        started = time.perf_counter()
        loss = torch.stack([part.float().sum() for part in call(module, inputs).values()]).sum()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        best = min(best, time.perf_counter() - started)
    return best / BATCH_SAMPLES
