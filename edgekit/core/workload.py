"""What a user hands over: a trained model, the data that judge it, and the metric.

The fields are typed loosely on purpose: a model is a ``torch.nn.Module`` or a
``torch.export.ExportedProgram``, and this module must import without torch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.core.contract import InputKind, Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A model with its data and its metric.

    model: a torch.nn.Module or torch.export.ExportedProgram.
    inputs, outputs: in the order in which the model takes and returns them.
    calibration, evaluation, selection: any iterable of samples or batches; a sample is ``x``,
    ``(x, y)`` or a dict by input name (and "target"); ``x`` may be a tuple or a dict for several
    inputs. uint8 pixels, int16 sound and texts are pre-processed as the inputs declare; anything
    else must already have the model's dtype and shape. Each is read once, from start to end.
    metric: "top-1", "top-5", "cosine", "mae", "nll", a torchmetrics metric, or a callable
    ``(outputs, targets) -> score a sample`` (higher is better).
    has_dynamic_batch: the artifact takes any batch size.
    limits: bounds by figure name that replace the profile's, in the figure's unit.
    training, unlabelled: samples for steps that train; like the others they are read once and kept
    on disk, and each epoch takes them in another order. augment: changes training inputs at random,
    by name ("flip, crop:4") or as a callable ``(inputs, generator) -> inputs`` on a batch. loss: a
    callable ``(outputs, targets) -> loss``; None is the one that goes with the metric. student: a
    callable that makes a new, smaller model with the same inputs and outputs. teachers: more
    models to learn from beside ``model``. trainer: a training loop of your own,
    ``(model, batches, loss_of) -> None``.
    adapters: folders of low-rank adapters as PEFT writes them, by the name that they are chosen by
    at run time. They belong to ``model`` as it is, so steps that change the module do not run.
    """

    name: str
    model: Any
    inputs: Mapping[str, InputKind]
    outputs: Mapping[str, Output]
    calibration: Iterable[Any]
    evaluation: Iterable[Any]
    metric: str | Callable[..., Any] = "top-1"
    selection: Iterable[Any] | None = None
    has_dynamic_batch: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)
    training: Iterable[Any] | None = None
    unlabelled: Iterable[Any] | None = None
    loss: Callable[..., Any] | None = None
    augment: str | Callable[..., Any] | None = None
    student: Callable[[], Any] | None = None
    teachers: Sequence[Any] = ()
    trainer: Callable[..., None] | None = None
    adapters: Mapping[str, str | Path] = field(default_factory=dict)
    license: str = ""
    description: str = ""
