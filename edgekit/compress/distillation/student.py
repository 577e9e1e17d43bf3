"""Which model is the student: the user's new one, the model as it stands, or one made here."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.count import count
from edgekit.compress.example import bench_example, calibration_examples
from edgekit.compress.pruning.channels import Pruned
from edgekit.compress.pruning.shrink import shrink_to
from edgekit.compress.training.batches import stream_seed
from edgekit.compress.training.faults import faults_of
from edgekit.compress.training.loss_checks import check_outputs_match
from edgekit.core.errors import StepError, WorkloadError
from edgekit.core.progress import Reporter
from edgekit.core.steps.distil import Distil

Kind = Literal["factory", "current", "made"]

# On which it is measured which layers of a teacher matter.
_CALIBRATION_BATCHES, _CALIBRATION_SAMPLES = 4, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A student before its training, in eval mode.

    base: what it can be read back onto. masks: where its weights stay zero. facts: plain figures of
    how it was made.
    """

    model: nn.Module
    kind: Kind
    base: Literal["current", "model", "student"] = "model"
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def choose_student(settings: Distil, bench: Bench, reporter: Reporter) -> Student:
    """The student that the settings ask for, on the device of the bench, checked.

    Raises: StepError where there is no factory, for a student that is larger than its teacher, and
    for one whose outputs are not the teacher's.
    """
    kind = _kind(settings, bench)
    if kind != "current" and is_changed(bench):
        reporter.warn(
            f"the student is {_ORIGIN[kind]}, so what earlier steps made of the model is not used; "
            'set student = "current" to distil into that'
        )
    if kind == "factory":
        student = Student(model=_from_factory(bench), kind=kind, base="student")
    elif kind == "current":
        student = Student(model=bench.model, kind=kind, base="current", masks=bench.masks)
    else:
        student = _made(settings, bench, reporter)
    student.model.to(bench.device).eval()
    check_size(student.model, bench)
    check_outputs(student.model, bench)
    return student


def is_changed(bench: Bench) -> bool:
    """Whether earlier steps changed the model: its weights are no longer the float model's."""
    ours, theirs = dict(bench.model.named_parameters()), dict(bench.teacher.named_parameters())
    if ours.keys() != theirs.keys():
        return True
    return any(
        value.shape != theirs[name].shape or not torch.equal(value.detach(), theirs[name].detach())
        for name, value in ours.items()
    )


def check_size(student: nn.Module, bench: Bench) -> None:
    """Refuse a student that is larger than its teacher.

    Raises: StepError with the parameters of both.
    """
    ours, theirs = count(student, bench).parameters, count(bench.teacher, bench).parameters
    if ours > theirs:
        raise StepError(
            f"distil: the student has {ours:,} parameters and its teacher {theirs:,}; a student "
            "must not be larger: give a smaller one in the workload's student factory, or set "
            'student = "made"'
        )


def check_outputs(student: nn.Module, bench: Bench) -> None:
    """Refuse a student whose outputs are not the teacher's.

    Raises: StepError naming the output and both shapes.
    """
    example = bench.example(2)
    with torch.no_grad():
        outputs, wanted = (bench.call(model, example) for model in (student, bench.teacher))
    try:
        check_outputs_match(outputs, wanted)
    except StepError as error:
        raise StepError(f"distil: the student does not match its teacher: {error}") from error


_ORIGIN = {
    "factory": "a new one of the workload's factory",
    "made": "made of the float model",
}


def _kind(settings: Distil, bench: Bench) -> Kind:
    if settings.student != "auto":
        return settings.student
    if bench.student is not None:
        return "factory"
    return "current" if is_changed(bench) else "made"


def _from_factory(bench: Bench) -> nn.Module:
    if bench.student is None:
        raise StepError(
            'distil: student is "factory" and the workload has no student factory; give it '
            "'student': a function that makes the smaller model, or set student = \"made\""
        )
    # A killed training must find the same student again when it is made anew.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(bench.seed, "student"))
        with faults_of("the workload's student factory", WorkloadError):
            made = bench.student()
    if not isinstance(made, nn.Module):
        raise WorkloadError(
            f"the student factory returned {type(made).__name__}; it must return a torch.nn.Module"
        )
    return made


def _made(settings: Distil, bench: Bench, reporter: Reporter) -> Student:
    """The teacher, narrowed and thinned to what the settings allow."""
    try:
        found = _shrunk(settings, bench)
    except StepError as error:
        limits = ("student_bytes", "student_macs", "student_ratio")
        name = next(item for item in limits if getattr(settings, item))
        raise StepError(
            f"distil: {name} is {getattr(settings, name)}: {str(error).removeprefix('shrink: ')}; "
            f"set another {name}, or give the workload a student factory"
        ) from error
    for note in found.notes:
        reporter.note(f"student: {note}")
    reporter.note(
        f"the student is made of the float model: {found.after.parameters:,} of "
        f"{found.before.parameters:,} parameters, {found.after.macs:,} of {found.before.macs:,} "
        f"MACs, {len(found.dropped)} layers dropped"
    )
    facts = {"dropped_layers": list(found.dropped), "rewritten": list(found.rewritten)}
    masks = _zeros_of(found.model) if bench.masks else {}
    return Student(model=found.model, kind="made", masks=masks, facts=facts)


def _shrunk(settings: Distil, bench: Bench) -> Pruned:
    has_limit = settings.student_bytes > 0 or settings.student_macs > 0
    whole = count(bench.teacher, bench).parameters
    return shrink_to(
        _trainable_teacher(bench),
        bench_example(bench),
        parameters=0 if has_limit else max(1, int(whole * settings.student_ratio)),
        macs=settings.student_macs,
        bytes=settings.student_bytes,
        bits=settings.student_bits,
        multiple=bench.channel_multiple,
        calibration=calibration_examples(bench, _CALIBRATION_BATCHES, _CALIBRATION_SAMPLES),
    )


def _trainable_teacher(bench: Bench) -> nn.Module:
    """A copy of the teacher whose weights take gradients where the model's do."""
    made = copy.deepcopy(bench.teacher)
    frozen = {name for name, value in bench.model.named_parameters() if not value.requires_grad}
    for name, value in made.named_parameters():
        value.requires_grad_(name not in frozen)
    return made


def _zeros_of(model: nn.Module) -> dict[str, Tensor]:
    """Masks of a model that was cut out of a masked one: its zeros are those of the masks."""
    return {
        name: value.detach() != 0
        for name, value in model.named_parameters()
        if value.ndim > 1 and bool((value == 0).any())
    }
