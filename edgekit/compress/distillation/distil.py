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
from edgekit.compress.distillation.student import Student, choose_student
from edgekit.compress.distillation.syllabus import check_data, make_syllabus
from edgekit.compress.distillation.teachers import Task, Teachers, resolve_task
from edgekit.compress.distillation.teaching import DistilLoss, Teaching
from edgekit.compress.training.train import Trained, train
from edgekit.core.progress import Reporter
from edgekit.core.steps.distil import Distil

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
    teaching = Teaching(student.model, settings, bench, task, teachers)
    learner, loss = teaching.make(syllabus.lessons)
    _tell_of_dropped(settings, loss, reporter)
    inner = replace(bench, training=syllabus.lessons.dataset, call=_call_of_student(bench))
    trained = _train(learner, loss, inner, settings, student.masks, reporter)
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
    )


def _train(
    learner: nn.Module,
    loss: DistilLoss,
    bench: Bench,
    settings: Distil,
    masks: Mapping[str, Tensor],
    reporter: Reporter,
) -> Trained:
    prefix = STUDENT if isinstance(learner, Learner) else ""
    return train(
        learner,
        loss,
        bench,
        settings.train,
        reporter,
        masks={f"{prefix}{name}": keeps for name, keeps in masks.items()},
        name=NAME,
        after_batch=learner.follow if isinstance(learner, Learner) else None,
        rounded=student_of(learner),
    )


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
