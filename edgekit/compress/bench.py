"""What a module step works with, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgekit.core.contract import Contract
from edgekit.data.dataset import Dataset
from edgekit.evaluate.metrics import Metric
from edgekit.graph.ranges import TrainedRange

# How a model is called: tensors by input name in, tensors by output name out.
Call = Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some samples, on the device of the model. Shapes: the first axis is the batch."""

    inputs: dict[str, Tensor]
    target: Tensor | None

    @property
    def count(self) -> int:
        """How many samples."""
        return len(next(iter(self.inputs.values())))

    def head(self, count: int) -> "Batch":
        """The first ``count`` samples."""
        inputs = {name: value[:count] for name, value in self.inputs.items()}
        return Batch(inputs=inputs, target=None if self.target is None else self.target[:count])


# A loss to go down: the model that is trained, and a batch.
Objective = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One model on the bench.

    model: what to compress; a step may change it in place or return another. teacher: the model
    as the user handed it over, in eval mode, never to be changed. call: calls either. training,
    unlabelled: samples to learn from, None where there are none. calibration: inputs for
    statistics. selection: samples on which choices are judged (early stopping, how far to prune);
    never those of the verdict. metric: what counts. loss: the user's own ``(outputs, target) ->
    loss``, None for the one that goes with the metric. augment: changes a batch of training inputs
    at random, None for no change. student: makes a new student, None where the user gave no
    factory. checkpoints: a folder that outlives a kill and belongs to this very step. drop_limit:
    largest metric drop that the profile allows, as the verdict counts it; None where it sets none.
    channel_multiple: what the target's kernels like channel counts to be multiples of. masks:
    weights that earlier steps, or the user, set to zero for good (0 and 1, by parameter name).
    teachers: more models to learn from beside ``teacher``. trainer: the user's own training loop.
    """

    model: nn.Module
    teacher: nn.Module
    contract: Contract
    call: Call
    training: Dataset | None
    calibration: Dataset
    selection: Dataset
    metric: Metric
    checkpoints: Path
    unlabelled: Dataset | None = None
    loss: Callable[[Any, Any], Tensor] | None = None
    augment: Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]] | None = None
    student: Callable[[], nn.Module] | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    teachers: tuple[nn.Module, ...] = ()
    trainer: Callable[..., None] | None = None
    drop_limit: float | None = None
    channel_multiple: int = 8
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def output(self) -> str:
        """The name of the first output, the one that a loss looks at by default."""
        return self.contract.outputs[0].name

    def example(self, count: int = 2) -> dict[str, Tensor]:
        """The first calibration inputs, to trace a model with."""
        names = [item.name for item in self.contract.inputs]
        rows = next(iter(self.calibration.batches(count, names)))
        return {name: torch.from_numpy(value).to(self.device) for name, value in rows.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPoint:
    """One point on the way of a step: after a round of pruning, or an epoch of training.

    score: of the metric on the selection data, None where it was not asked. is_kept: whether this
    is the one that the step gives back.
    """

    name: str
    parameters: int
    macs: int
    score: float | None = None
    loss: float | None = None
    seconds: float = 0.0
    is_kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step made.

    model: in eval mode, on the CPU. masks: where weights must stay zero (0 and 1, by parameter
    name). points: every point on the way. values: plain figures of the step's own for the report.
    base: what the model was made from: the one on the bench ("current"), the user's model, or a new
    one of the student factory. ranges: of activations, as they were trained.
    """

    model: nn.Module
    base: Literal["current", "model", "student"] = "current"
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    points: tuple[StepPoint, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    ranges: tuple[TrainedRange, ...] = ()
