"""The terms of a distillation loss: what each looks at in student and teacher, and what it costs.

A term is a ``Term``: places to catch in both models, and a function of what a forward of both made
of one batch. To add one, write such a class and let ``teaching.Teaching`` make it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.bench import Batch, Bench
from edgekit.compress.distillation.attention import SitePair
from edgekit.compress.distillation.features import Pair, Projection, sized_alike
from edgekit.compress.distillation.lessons import Parts
from edgekit.compress.distillation.losses import attention_map_loss, feature_loss, relation_loss
from edgekit.compress.distillation.taps import Caught, Tap, channels_last
from edgekit.compress.distillation.teachers import (
    Task,
    Taught,
    Teachers,
    counted_positions,
    next_tokens,
)
from edgekit.compress.training.class_losses import cosine_loss, cross_entropy, soft_labels
from edgekit.evaluate.builtin import IGNORED_LABEL

LabelLoss = Callable[[Mapping[str, Tensor], Batch], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What student and teachers made of one batch. outputs, caught: of the student."""

    model: nn.Module
    batch: Batch
    parts: Parts
    outputs: Mapping[str, Tensor]
    caught: Caught
    taught: Taught


class Term(Protocol):
    """One term. student_taps, teacher_taps: places that it must see."""

    @property
    def student_taps(self) -> Sequence[Tap]:
        """Places in the student."""

    @property
    def teacher_taps(self) -> Sequence[Tap]:
        """Places in the teacher."""

    def loss(self, scene: Scene) -> Tensor | None:
        """What it costs; None where no sample of the batch has a part in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Untapped:
    """A term that looks at outputs alone."""

    @property
    def student_taps(self) -> Sequence[Tap]:
        """None."""
        return ()

    @property
    def teacher_taps(self) -> Sequence[Tap]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HardTerm(Untapped):
    """The workload's labels, as the mean over the samples of a batch that have one."""

    label_loss: LabelLoss

    def loss(self, scene: Scene) -> Tensor | None:
        """None in a batch without labels."""
        target = scene.parts.target
        chosen = scene.parts.labelled
        if chosen is None:
            return self.label_loss(scene.outputs, scene.batch)
        if not bool(chosen.any()):
            return None
        outputs = {name: value[chosen] for name, value in scene.outputs.items()}
        inputs = {name: value[chosen] for name, value in scene.batch.inputs.items()}
        return self.label_loss(outputs, Batch(inputs=inputs, target=target))


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTokenTerm(Untapped):
    """Cross-entropy of a language model with the text itself, where there are no other labels."""

    bench: Bench
    task: Task
    read: Callable[[Tensor], Tensor]

    def loss(self, scene: Scene) -> Tensor | None:
        """None in a batch of padding alone."""
        labels = next_tokens(self.bench, scene.batch.inputs)
        if labels is None or not bool((labels != IGNORED_LABEL).any()):
            return None
        scores = self.read(scene.outputs[self.task.output])
        return cross_entropy(self.task.classes_last(scores), labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoTerm(Untapped):
    """Cross-entropy with the teachers' confident labels, mean over the samples that have one."""

    task: Task
    read: Callable[[Tensor], Tensor]

    def loss(self, scene: Scene) -> Tensor | None:
        """None in a batch without pseudo-labels."""
        labels = scene.parts.pseudo
        if labels is None or not bool((labels != IGNORED_LABEL).any()):
            return None
        scores = self.task.classes_last(self.read(scene.outputs[self.task.output]))
        return cross_entropy(scores, labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftTerm(Untapped):
    """The teachers' outputs: softened probabilities, values, or directions of embeddings.

    Outputs beside the one that the metric is about follow the teachers' values; the mean of all.
    """

    bench: Bench
    task: Task
    teachers: Teachers
    temperature: float
    read: Callable[[Tensor], Tensor]

    def loss(self, scene: Scene) -> Tensor | None:
        """None where no position counts."""
        losses = [self._of(name, value, scene) for name, value in scene.outputs.items()]
        found = [loss for loss in losses if loss is not None]
        return torch.stack(found).mean() if found else None

    def _of(self, name: str, value: Tensor, scene: Scene) -> Tensor | None:
        if self.task.has_classes and name == self.task.output:
            wanted = self.teachers.scores(scene.taught, self.temperature)
            ours = self.task.classes_last(self.read(value)).float()
            return self.softened(ours, wanted, scene)
        if not value.is_floating_point():
            return None
        values = self.teachers.values(scene.taught, name)
        return follow_values(value, values, self.task, name)

    def softened(self, ours: Tensor, wanted: Tensor, scene: Scene) -> Tensor | None:
        """Soft labels over the positions that count. Shapes: (n, *positions, classes) both."""
        is_counted = counted(self.bench, self.task, scene.batch, scene.parts)
        if is_counted is None:
            classes = ours.shape[-1]
            rows = ours.reshape(-1, classes), wanted.reshape(-1, classes)
        else:
            rows = ours[is_counted], wanted[is_counted]
        return soft_labels(*rows, self.temperature) if len(rows[0]) else None


def follow_values(ours: Tensor, wanted: Tensor, task: Task, name: str) -> Tensor:
    """What an output without classes costs against the wanted one. Shapes: the same for both."""
    if task.kind == "embedding":
        return cosine_loss(ours, wanted)
    if task.label_task == "l1" and name == task.output:
        return functional.l1_loss(ours, wanted)
    return functional.mse_loss(ours, wanted)


def counted(bench: Bench, task: Task, batch: Batch, parts: Parts) -> Tensor | None:
    """Which samples, or positions of samples, have scores that count; None for all.

    Not those whose label is -100, nor padding. Shapes: (n, *positions).
    """
    positions = task.positions
    shape = (batch.count, *positions)
    found = counted_positions(bench, batch.inputs)
    is_counted = found if found is not None and found.shape == shape else None
    target = parts.target
    if target is None or target.is_floating_point() or target.shape[1:] != positions:
        return is_counted
    is_labelled = target != IGNORED_LABEL
    if is_counted is None:
        if bool(is_labelled.all()):
            return None
        is_counted = torch.ones(shape, dtype=torch.bool, device=target.device)
    chosen = slice(None) if parts.labelled is None else parts.labelled
    is_counted = is_counted.clone()
    is_counted[chosen] &= is_labelled
    return is_counted


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureTerm:
    """Features of paired layers, the student's projected to the teacher's width; mean of pairs."""

    pairs: Sequence[Pair]
    projections: Sequence[Projection] = field(repr=False)

    @property
    def student_taps(self) -> Sequence[Tap]:
        """The student's layers."""
        return [Tap(pair.student.path) for pair in self.pairs]

    @property
    def teacher_taps(self) -> Sequence[Tap]:
        """The teacher's layers."""
        return [Tap(pair.teacher.path) for pair in self.pairs]

    def loss(self, scene: Scene) -> Tensor | None:
        """The mean over pairs."""
        losses = []
        for pair, projection in zip(self.pairs, self.projections, strict=True):
            ours, theirs = pair_of_features(pair, scene)
            losses.append(feature_loss(projection(ours), theirs))
        return torch.stack(losses).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTerm:
    """Attention of paired layers: of transformers' modules where there are sites, else maps."""

    bench: Bench
    sites: Sequence[SitePair] = ()
    pairs: Sequence[Pair] = ()

    @property
    def student_taps(self) -> Sequence[Tap]:
        """Of sites, or of layers."""
        of_sites = [tap for pair in self.sites for tap in pair.student.taps]
        return of_sites or [Tap(pair.student.path) for pair in self.pairs]

    @property
    def teacher_taps(self) -> Sequence[Tap]:
        """Of sites, or of layers."""
        of_sites = [tap for pair in self.sites for tap in pair.teacher.taps]
        return of_sites or [Tap(pair.teacher.path) for pair in self.pairs]

    def loss(self, scene: Scene) -> Tensor | None:
        """The mean over pairs."""
        if not self.sites:
            found = [attention_map_loss(*pair_of_features(pair, scene)) for pair in self.pairs]
            return torch.stack(found).mean()
        is_counted = counted_positions(self.bench, scene.batch.inputs)
        caught = scene.caught, scene.taught.caught
        return torch.stack([pair.loss(*caught, is_counted) for pair in self.sites]).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationTerm:
    """Distances and angles between the samples of a batch, as both models place them.

    student, teacher: what a sample's place is: the input of the last linear layer, None for the
    model's output. Several positions of a sample count as their mean.
    """

    task: Task
    student: Tap | None
    teacher: Tap | None

    @property
    def student_taps(self) -> Sequence[Tap]:
        """Where the student places samples."""
        return [self.student] if self.student else []

    @property
    def teacher_taps(self) -> Sequence[Tap]:
        """Where the teacher places samples."""
        return [self.teacher] if self.teacher else []

    def loss(self, scene: Scene) -> Tensor | None:
        """Of the first 128 samples."""
        name = self.task.output
        ours = scene.caught[self.student] if self.student else scene.outputs[name]
        theirs = scene.taught.outputs[0][name]
        if self.teacher:
            theirs = scene.taught.caught[self.teacher]
        return relation_loss(_placed(ours), _placed(theirs))


def pair_of_features(pair: Pair, scene: Scene) -> tuple[Tensor, Tensor]:
    """What both layers of a pair gave, channels last, at one size. Shapes: (n, ..., channels)."""
    ours = channels_last(scene.caught[Tap(pair.student.path)], pair.student.axis)
    theirs = channels_last(scene.taught.caught[Tap(pair.teacher.path)], pair.teacher.axis)
    return sized_alike(ours, theirs)


def _placed(found: Tensor) -> Tensor:
    """One vector a sample. Shapes: (n, ..., width) -> (n, width)."""
    return found.flatten(1, -2).mean(dim=1) if found.ndim > 2 else found.reshape(len(found), -1)
