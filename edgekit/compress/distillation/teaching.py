"""One distillation put together: the learner, the terms of its loss, and the loss itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Batch, Bench
from edgekit.compress.distillation.attention import pair_sites
from edgekit.compress.distillation.features import Pair, Projection, pair_layers
from edgekit.compress.distillation.learner import Exit, Extras, Learner, exit_layers, student_of
from edgekit.compress.distillation.lessons import Lessons
from edgekit.compress.distillation.self_terms import EarlierTerm, ExitsTerm
from edgekit.compress.distillation.taps import Layer, Tap, seen_layers, tapped
from edgekit.compress.distillation.teachers import Task, Taught, Teachers, has_targets
from edgekit.compress.distillation.terms import (
    AttentionTerm,
    FeatureTerm,
    HardTerm,
    LabelLoss,
    NextTokenTerm,
    PseudoTerm,
    RelationTerm,
    Scene,
    SoftTerm,
    Term,
)
from edgekit.compress.training.batches import stream
from edgekit.compress.training.objective import label_loss, scores_reader
from edgekit.core.errors import StepError
from edgekit.core.steps.distil import Distil

_OF_TEACHERS = ("soft", "feature", "attention", "relation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """A term and its share of the loss."""

    name: str
    weight: float
    term: Term


class DistilLoss:
    """The weighted sum of terms for one batch: one forward of the student, one of each teacher."""

    def __init__(
        self, bench: Bench, teachers: Teachers, lessons: Lessons, terms: Sequence[Weighted]
    ) -> None:
        self.bench, self.teachers, self.lessons, self.terms = bench, teachers, lessons, terms
        self.needs_teachers = any(item.name in _OF_TEACHERS for item in terms)
        self._student_taps = [tap for item in terms for tap in item.term.student_taps]
        self._teacher_taps = [tap for item in terms for tap in item.term.teacher_taps]

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch. model: a learner, or a student alone."""
        scene = self.scene(model, batch)
        found = [(item.weight, item.term.loss(scene)) for item in self.terms]
        losses = [weight * loss for weight, loss in found if loss is not None]
        if not losses:
            # No sample of this batch teaches anything: a gradient of zeros.
            return torch.stack([value.sum() * 0.0 for value in scene.outputs.values()]).sum()
        return torch.stack(losses).sum()

    def scene(self, model: nn.Module, batch: Batch) -> Scene:
        """What student and teachers make of a batch."""
        taught = Taught(outputs=(), caught={})
        if self.needs_teachers:
            taught = self.teachers.teach(batch.inputs, self._teacher_taps)
        with tapped(student_of(model), self._student_taps) as caught:
            outputs = self.bench.call(student_of(model), batch.inputs)
        parts = self.lessons.parts(batch)
        return Scene(
            model=model, batch=batch, parts=parts, outputs=outputs, caught=caught, taught=taught
        )


class Teaching:
    """Makes the terms that the settings ask for, and what is trained along with a student."""

    def __init__(
        self, student: nn.Module, settings: Distil, bench: Bench, task: Task, teachers: Teachers
    ) -> None:
        """student: in eval mode, on the device of the bench."""
        self.student, self.settings, self.bench = student, settings, bench
        self.task, self.teachers = task, teachers
        self.extras = Extras(has_earlier=self._is_on("self") and settings.self_from == "earlier")
        self.read: Callable[[Tensor], Tensor] = lambda values: values
        if task.has_classes:
            self.read = scores_reader(bench, student)
        self.pairs: tuple[Pair, ...] = ()
        self._layers: dict[int, list[Layer]] = {}

    def make(self, lessons: Lessons) -> tuple[nn.Module, DistilLoss]:
        """What to train, and the loss.

        Raises: StepError where a term finds nothing to look at in one of the models.
        """
        makers: Mapping[str, Callable[[], Term | None]] = {
            "hard": lambda: self._hard(lessons),
            "soft": self._soft,
            "feature": self._features,
            "attention": self._attention,
            "relation": self._relations,
            "self": lambda: self._self(lessons),
            "pseudo_label": lambda: PseudoTerm(task=self.task, read=self.read),
        }
        terms = []
        for name, weight in self.settings.weights.items():
            term = makers[name]() if weight else None
            if term is not None:
                terms.append(Weighted(name=name, weight=weight, term=term))
        if not terms:
            raise StepError(
                "distil: the training data have no labels, and hard_weight is the only share of "
                "the loss; give samples (x, y), or set soft_weight"
            )
        learner = self.student if self.extras.is_empty else Learner(self.student, self.extras)
        return learner, DistilLoss(self.bench, self.teachers, lessons, terms)

    def _is_on(self, name: str) -> bool:
        return self.settings.weights[name] > 0

    def _hard(self, lessons: Lessons) -> Term | None:
        if lessons.has_labels:
            return HardTerm(label_loss=self._label_loss())
        if self.task.kind == "language":
            return NextTokenTerm(bench=self.bench, task=self.task, read=self.read)
        return None

    def _label_loss(self) -> LabelLoss:
        # Class scores are read as the student gives them.
        bench = replace(self.bench, teacher=self.student)
        smoothing = self.settings.train.label_smoothing
        return label_loss(bench, label_smoothing=smoothing, task=self.task.label_task)

    def _soft(self) -> SoftTerm:
        return SoftTerm(
            bench=self.bench,
            task=self.task,
            teachers=self.teachers,
            temperature=self.settings.temperature,
            read=self.read,
        )

    def _features(self) -> Term:
        self._pair()
        generator = stream(self.bench.seed, "distil", "projections")
        for pair in self.pairs:
            self.extras.projections[pair.student.path] = Projection(
                pair.student.channels, pair.teacher.channels, generator
            )
        return FeatureTerm(pairs=self.pairs, projections=[*self.extras.projections.values()])

    def _attention(self) -> Term:
        if not self.settings.pairs:
            models = self.student, self.bench.teacher
            sites = pair_sites(*models, self._seen(models[0]), self._seen(models[1]))
            if sites:
                return AttentionTerm(bench=self.bench, sites=sites)
        self._pair()
        pairs = tuple(pair for pair in self.pairs if pair.student.size)
        if not pairs:
            raise StepError(
                "distil: attention_weight: the models' paired layers give vectors, which look at "
                "no place more than at another; set attention_weight to 0"
            )
        return AttentionTerm(bench=self.bench, pairs=pairs)

    def _relations(self) -> Term:
        return RelationTerm(
            task=self.task,
            student=self._before_last(self.student),
            teacher=self._before_last(self.bench.teacher),
        )

    def _self(self, lessons: Lessons) -> Term:
        if self.settings.self_from == "earlier":
            return EarlierTerm(bench=self.bench, soft=self._soft())
        layers = exit_layers(self._seen(self.student), self.task)
        generator = stream(self.bench.seed, "distil", "exits")
        probe = torch.ones(1, 2, device=self.bench.device)
        gives_shares = self.read(probe) is not probe
        for layer in layers:
            self.extras.exits[layer.path] = Exit(
                layer, self.task, generator, gives_shares=gives_shares
            )
        is_labelled = lessons.has_labels and self.bench.loss is None
        return ExitsTerm(
            soft=self._soft(),
            layers=layers,
            exits=[*self.extras.exits.values()],
            label_loss=self._label_loss() if is_labelled and has_targets(self.bench) else None,
        )

    def _pair(self) -> None:
        if not self.pairs:
            ours, theirs = self._seen(self.student), self._seen(self.bench.teacher)
            self.pairs = pair_layers(ours, theirs, self.settings.pairs)

    def _seen(self, model: nn.Module) -> list[Layer]:
        if id(model) not in self._layers:
            self._layers[id(model)] = seen_layers(model, self.bench)
        return self._layers[id(model)]

    def _before_last(self, model: nn.Module) -> Tap | None:
        """The input of the linear layer that gives the output; None for an embedding model."""
        if self.task.kind == "embedding":
            return None
        last = [
            layer
            for layer in self._seen(model)
            if layer.is_last and isinstance(layer.module, nn.Linear)
        ]
        return Tap(last[-1].path, "input") if last else None
