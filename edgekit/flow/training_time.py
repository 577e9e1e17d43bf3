"""How long the training steps of a plan will take: a few batches are timed, the rest is counted."""

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from edgekit.compile.capture import MODEL_ERRORS, sample_inputs
from edgekit.compress.masks import copy_model
from edgekit.compress.training.pace import time_text
from edgekit.core.figure import Figure, Place, Provenance, not_evaluated
from edgekit.core.strategy import PlannedStep
from edgekit.flow.planning import Plan
from edgekit.flow.prepare import Model
from edgekit.flow.workbench import make_call
from edgekit.plan.estimate import kept_share
from edgekit.plan.strategy import trained_epochs

NAME = "training_seconds"
TIMED_BATCHES = 3
BATCH_SAMPLES = 32
# A forward pass takes about a third of a training step, and a teacher runs forward alone.
TEACHER_SHARE = 1 / 3
# Another machine load, augmentation, judging after each epoch.
LOW, HIGH = 0.5, 2.0


def estimate_training(model: Model, plan: Plan) -> Figure | None:
    """Seconds of all training steps on this machine; None where nothing trains."""
    steps = [
        (step, epochs)
        for step in plan.strategy.steps
        if step.is_run and (epochs := trained_epochs(step.settings))
    ]
    if not steps:
        return None
    samples = _count(model.workload.training)
    if samples is None:
        why = "the training data do not say how many samples they hold (no len())"
        return not_evaluated(NAME, "s", why)
    passes = sum(epochs * _work(step) for step, epochs in steps)
    try:
        seconds = passes * samples * _seconds_a_sample(model)
    except MODEL_ERRORS as error:
        why = f"the model takes no batch of {BATCH_SAMPLES} in training mode: {error}"
        return not_evaluated(NAME, "s", why)
    return Figure(
        name=NAME,
        value=round(seconds, 1),
        unit="s",
        provenance=Provenance.ESTIMATED,
        place=Place.HOST,
        how=f"{TIMED_BATCHES} batches of {BATCH_SAMPLES} timed on this machine, times {samples} "
        f"samples and {sum(epochs for _, epochs in steps)} epochs: {time_text(seconds)}",
        low=round(LOW * seconds, 1),
        high=round(HIGH * seconds, 1),
    )


def _work(step: PlannedStep) -> float:
    """What one sample costs a step, in training steps of the whole model."""
    has_teacher = step.name in ("distil", "prune") or "teacher_weight" in step.settings
    return kept_share(step.name, step.settings) + (TEACHER_SHARE if has_teacher else 0.0)


def _count(training: Iterable[Any] | None) -> int | None:
    """How many samples there are, where the data say it; a loader has a dataset that does."""
    holder: Any = getattr(training, "dataset", training)
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
