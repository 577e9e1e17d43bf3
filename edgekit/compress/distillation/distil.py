"""The step "distil": a student is trained to do what the float model does.

The parts, each usable alone: ``student`` chooses or makes it; ``syllabus`` says on what it is
trained (``pseudo`` labels, ``synthetic`` inputs, both mixed with labelled samples by ``lessons``);
``teaching`` puts the loss together from ``terms``, which look into both models through ``taps`` and
``features``; ``losses`` holds the formulas; ``learner`` what is trained along and thrown away.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from edgekit.compress.bench import Bench, Call, StepPoint, StepResult
from edgekit.compress.count import count
from edgekit.compress.distillation.agreement import agreement
from edgekit.compress.distillation.learner import STUDENT, Learner, student_of
from edgekit.compress.distillation.lessons import Lessons
from edgekit.compress.distillation.student import Student, choose_student
from edgekit.compress.distillation.syllabus import check_data, make_syllabus
from edgekit.compress.distillation.teachers import Task, Teachers, resolve_task
from edgekit.compress.distillation.teaching import DistilLoss, Teaching
from edgekit.compress.training.search import Variation, rates, search, short
from edgekit.compress.training.train import Trained, train
from edgekit.core.progress import Reporter
from edgekit.core.steps.distil import Distil, other_label_shares
from edgekit.core.steps.search import Search

NAME = "distil"


def distil(settings: Distil, bench: Bench, reporter: Reporter) -> StepResult:
    """Choose or make a student and train it; it comes back without what was trained along.

    Raises: StepError for settings that the workload cannot serve, for a student that is larger
    than its teacher or gives other outputs, and as ``train`` does.
    """
    task = resolve_task(settings.task, bench)
    check_data(settings, bench, task)
    teachers = Teachers(bench, task)
    student = choose_student(settings, bench, reporter)
    syllabus = make_syllabus(settings, bench, task, teachers, reporter)
    inner = replace(bench, training=syllabus.lessons.dataset, call=_call_of_student(bench))
    lesson = _Lesson(student, bench, inner, task, teachers, syllabus.lessons, reporter)
    settings, teaching, loss, trained = lesson.teach(settings)
    if trained.points[0].is_kept:
        reporter.warn(
            f"no epoch was better by {bench.metric.name} on the selection data than the student "
            f"that training began with ({trained.score:.4g}), so that is kept; train longer, or "
            f"change learning_rate (now {settings.train.learning_rate:g})"
        )
    values = _values(settings, bench, task, student, teaching, loss) | syllabus.values
    return StepResult(
        model=student.model.eval().cpu(),
        base=student.base,
        masks=student.masks,
        points=_points(trained, student.model, bench),
        values=values | {"score": trained.score},
        ranges=trained.ranges,
    )


class _Lesson:
    """What is taught, to whom, whatever the settings."""

    def __init__(  # what a training of a student needs
        self,
        student: Student,
        bench: Bench,
        inner: Bench,
        task: Task,
        teachers: Teachers,
        lessons: Lessons,
        reporter: Reporter,
    ) -> None:
        """inner: the bench that the training sees."""
        self._student, self._bench, self._inner = student, bench, inner
        self._task, self._teachers, self._lessons = task, teachers, lessons
        self._reporter = reporter

    def teach(self, settings: Distil) -> tuple[Distil, Teaching, DistilLoss, Trained]:
        """The whole training, after trials where they are asked for; with the settings taken."""
        teaching, learner, loss = self._make(settings)
        _tell_of_dropped(settings, loss, self._reporter)
        if not settings.train.search.epochs or self._bench.trainer is not None:
            return settings, teaching, loss, self._train(learner, loss, settings, NAME)
        stages = [rates(settings.train, _with_rate)]
        if {"hard", "soft"} <= {item.name for item in loss.terms}:
            stages.append(_label_shares(settings))
        found = search(
            settings,
            stages,
            self._try,
            model=self._student.model,
            masks=self._student.masks,
            bench=self._inner,
            reporter=self._reporter,
        )
        taken = replace(found.settings, train=replace(found.settings.train, search=Search()))
        teaching, learner, loss = self._make(taken)
        return taken, teaching, loss, found.told_in(self._train(learner, loss, taken, NAME))

    def _try(self, settings: Distil, trial: str) -> Trained:
        _, learner, loss = self._make(settings)
        brief = replace(settings, train=short(settings.train))
        return self._train(learner, loss, brief, f"{NAME}-{trial}")

    def _make(self, settings: Distil) -> tuple[Teaching, nn.Module, DistilLoss]:
        teaching = Teaching(self._student.model, settings, self._bench, self._task, self._teachers)
        return teaching, *teaching.make(self._lessons)

    def _train(self, learner: nn.Module, loss: DistilLoss, settings: Distil, name: str) -> Trained:
        prefix = STUDENT if isinstance(learner, Learner) else ""
        masks = {f"{prefix}{path}": keeps for path, keeps in self._student.masks.items()}
        return train(
            learner,
            loss,
            self._inner,
            settings.train,
            self._reporter,
            masks=masks,
            name=name,
            after_batch=learner.follow if isinstance(learner, Learner) else None,
            rounded=student_of(learner),
            order=NAME,
        )


def _with_rate(settings: Distil, rate: float) -> Distil:
    return replace(settings, train=replace(settings.train, learning_rate=rate))


def _label_shares(settings: Distil) -> tuple[Variation[Distil], ...]:
    def at(share: float) -> Variation[Distil]:
        name = f"labels {share:g} of hard and soft"
        return Variation(name=name, change=lambda old: old.with_label_share(share))

    stated = settings.hard_weight, settings.soft_weight
    return tuple(at(share) for share in other_label_shares(settings.label_shares, *stated))


def _call_of_student(bench: Bench) -> Call:
    """How a learner is called: as its student."""

    def call(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return bench.call(student_of(model), inputs)

    return call


def _points(trained: Trained, student: nn.Module, bench: Bench) -> tuple[StepPoint, ...]:
    """The points with the student's own size: what was trained along does not count."""
    size = count(student, bench)
    return tuple(
        replace(point, parameters=size.parameters, macs=size.macs) for point in trained.points
    )


def _values(
    settings: Distil,
    bench: Bench,
    task: Task,
    student: Student,
    teaching: Teaching,
    loss: DistilLoss,
) -> dict[str, Any]:
    model = student.model.to(bench.device).eval()
    ours, theirs = count(model, bench), count(bench.teacher, bench)
    return {
        "student": student.kind,
        **student.facts,
        "task": task.kind,
        "teachers": len(teaching.teachers.models),
        "parameters": {"student": ours.parameters, "teacher": theirs.parameters},
        "macs": {"student": ours.macs, "teacher": theirs.macs},
        "weights": {item.name: item.weight for item in loss.terms},
        "temperature": settings.temperature,
        "pairs": {pair.student.path: pair.teacher.path for pair in teaching.pairs},
        "agreement": agreement(model, bench, task),
        "agreement_of": "equal labels" if task.has_classes else "mean cosine of outputs",
    }


def _tell_of_dropped(settings: Distil, loss: DistilLoss, reporter: Reporter) -> None:
    used = {item.name for item in loss.terms}
    if settings.hard_weight and "hard" not in used:
        reporter.note(
            "the training data have no labels: hard_weight counts for nothing, and the student "
            "learns from its teacher alone"
        )
