"""Terms of a loss in which a model learns from itself: its deeper exit, or its earlier weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from edgekit.compress.bench import Bench
from edgekit.compress.distillation.learner import Exit, Learner
from edgekit.compress.distillation.taps import Layer, Tap, channels_last
from edgekit.compress.distillation.terms import (
    HardTerm,
    LabelLoss,
    Scene,
    SoftTerm,
    Untapped,
    follow_values,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitsTerm:
    """Exits of inner blocks learn what the model itself gives, and the labels where there are any.

    Formula: mean over exits of the loss against the deepest output, which gets no gradient, and the
    cross-entropy with the labels, in equal shares.
    Source: Zhang et al. 2019, arXiv:1905.08094 (BYOT), equations 2 and 3.
    """

    soft: SoftTerm
    layers: Sequence[Layer]
    exits: Sequence[Exit] = field(repr=False)
    label_loss: LabelLoss | None = None

    @property
    def student_taps(self) -> Sequence[Tap]:
        """The blocks that have an exit."""
        return [Tap(layer.path) for layer in self.layers]

    @property
    def teacher_taps(self) -> Sequence[Tap]:
        """None."""
        return ()

    def loss(self, scene: Scene) -> Tensor | None:
        """The mean over exits."""
        name = self.soft.task.output
        deepest = {name: scene.outputs[name].detach()}
        losses = []
        for layer, head in zip(self.layers, self.exits, strict=True):
            features = channels_last(scene.caught[Tap(layer.path)], layer.axis)
            early = replace(scene, outputs={name: head(features.float())})
            found = [follow_self(self.soft, early, deepest)]
            if self.label_loss is not None:
                found.append(HardTerm(label_loss=self.label_loss).loss(early))
            kept = [loss for loss in found if loss is not None]
            losses += [torch.stack(kept).mean()] if kept else []
        return torch.stack(losses).mean() if losses else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierTerm(Untapped):
    """What the student's earlier self, the moving average of its weights, gives for the batch.

    Source: Tarvainen & Valpola 2017, arXiv:1703.01780 (mean teacher).
    """

    bench: Bench
    soft: SoftTerm

    def loss(self, scene: Scene) -> Tensor | None:
        """Nothing outside a learner."""
        if not isinstance(scene.model, Learner) or scene.model.earlier is None:
            return None
        with torch.no_grad():
            wanted = self.bench.call(scene.model.earlier, scene.batch.inputs)
        return follow_self(self.soft, scene, wanted)


def follow_self(soft: SoftTerm, scene: Scene, wanted: Mapping[str, Tensor]) -> Tensor | None:
    """The loss of the task's output against the model's own, read as the student's are."""
    task, name = soft.task, soft.task.output
    ours = scene.outputs[name]
    if not task.has_classes:
        return follow_values(ours, wanted[name], task, name)
    theirs = task.classes_last(soft.read(wanted[name])).float()
    return soft.softened(task.classes_last(soft.read(ours)).float(), theirs, scene)
