"""From a bench and the settings to what a student is trained on: labels, pseudo-labels, inputs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.compress.bench import Bench
from edgekit.compress.distillation.generated import beginnings, generate_texts
from edgekit.compress.distillation.lessons import Lessons, Pool, mix
from edgekit.compress.distillation.pseudo import (
    Labels,
    PseudoLabels,
    balanced_times,
    confident_labels,
    pseudo_labels,
    taken_by_class,
)
from edgekit.compress.distillation.synthetic import synthesize
from edgekit.compress.distillation.teachers import Task, Teachers, has_targets
from edgekit.compress.training.checkpoint import fingerprint_of
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.distil import Distil
from edgekit.data.dataset import Dataset
from edgekit.evaluate.builtin import IGNORED_LABEL

LESSONS, SYNTHETIC = "lessons", "synthetic"
# Shares of the loss that learn from a sample without a label.
_LABEL_FREE = ("soft", "feature", "attention", "relation", "self")


@dataclass(frozen=True, slots=True, kw_only=True)
class Syllabus:
    """What a student is trained on. values: plain figures of it for the report."""

    lessons: Lessons
    values: dict[str, Any] = field(default_factory=dict)


def check_data(settings: Distil, bench: Bench, task: Task) -> None:
    """Refuse settings that the data at hand cannot serve, before any work.

    Raises: StepError saying what is missing.
    """
    has_unlabelled = bench.unlabelled is not None or settings.synthetic_samples > 0
    if bench.training is None and not has_unlabelled:
        raise StepError(
            "distil: there are no training data; give the workload 'training' or 'unlabelled' "
            "samples, or set synthetic_samples for a teacher with batch norm layers or a causal "
            "language model"
        )
    if not settings.pseudo_label_weight:
        return
    if not task.has_classes:
        raise StepError(
            f"distil: pseudo_label_weight is {settings.pseudo_label_weight:g} and the task is "
            f"'{task.kind}': only class scores have a confidence; set it to 0, soft_weight makes "
            "the student follow the teacher's outputs"
        )
    if _labelled(bench) is not None and not has_unlabelled:
        raise StepError(
            f"distil: pseudo_label_weight is {settings.pseudo_label_weight:g} and all samples have "
            "labels; give the workload 'unlabelled' samples, or set it to 0"
        )


def make_syllabus(
    settings: Distil, bench: Bench, task: Task, teachers: Teachers, reporter: Reporter
) -> Syllabus:
    """Labelled samples, unlabelled ones and inputs that are made, as far as the settings use them.

    What is written goes into the checkpoints of the bench.
    Raises: StepError as ``check_data``, and where no pseudo-label is confident enough.
    """
    check_data(settings, bench, task)
    labelled, unlabelled, values = _labelled(bench), _unlabelled(bench), {}
    if settings.synthetic_samples:
        made = _synthesize(settings, bench, task, reporter)
        unlabelled += made
        values["synthetic_samples"] = sum(item.count for item in made)
    if labelled is not None and not _uses_unlabelled(settings, task):
        return Syllabus(lessons=Lessons(dataset=labelled, has_labels=True), values=values)
    if labelled is not None and not unlabelled:
        return Syllabus(lessons=Lessons(dataset=labelled, has_labels=True), values=values)
    if not settings.pseudo_label_weight and labelled is None and len(unlabelled) == 1:
        return Syllabus(lessons=Lessons(dataset=unlabelled[0], has_labels=False), values=values)
    pools, told = _pools(settings, bench, task, teachers, unlabelled)
    _tell(told, pools, labelled, reporter)
    lessons = mix(bench, labelled, pools, bench.checkpoints / LESSONS)
    return Syllabus(lessons=lessons, values=values | told)


def _labelled(bench: Bench) -> Dataset | None:
    """The training data where a label loss can work on them."""
    return bench.training if has_targets(bench) or bench.loss is not None else None


def _unlabelled(bench: Bench) -> list[Dataset]:
    training = bench.training if _labelled(bench) is None else None
    return [item for item in (training, bench.unlabelled) if item is not None]


def _uses_unlabelled(settings: Distil, task: Task) -> bool:
    is_on = settings.weights
    is_text = task.kind == "language" and is_on["hard"] > 0
    return is_text or is_on["pseudo_label"] > 0 or _learns_without_labels(settings)


def _learns_without_labels(settings: Distil) -> bool:
    return any(settings.weights[name] for name in _LABEL_FREE)


def _synthesize(settings: Distil, bench: Bench, task: Task, reporter: Reporter) -> list[Dataset]:
    samples, steps = settings.synthetic_samples, settings.synthetic_steps
    prompt, warmth = settings.prompt_tokens, settings.generation_temperature
    facts: dict[str, Any] = {"samples": samples, "seed": bench.seed}
    if task.kind == "language":
        facts |= {"prompts": beginnings(bench).digest, "tokens": prompt, "temperature": warmth}
    else:
        facts |= {"steps": steps}
    teacher = dict(bench.teacher.named_parameters()) | dict(bench.teacher.named_buffers())
    folder = bench.checkpoints / f"{SYNTHETIC}-{fingerprint_of(facts, teacher)[:16]}"
    if task.kind != "language":
        return [*synthesize(bench, task, samples, steps, folder, reporter)]
    return [
        *generate_texts(
            bench, task, samples, folder, reporter, prompt_tokens=prompt, temperature=warmth
        )
    ]


def _pools(
    settings: Distil,
    bench: Bench,
    task: Task,
    teachers: Teachers,
    datasets: Sequence[Dataset],
) -> tuple[list[Pool], dict[str, Any]]:
    """The unlabelled samples with the teachers' labels, and what is to be told of these."""
    rest = 1 if _learns_without_labels(settings) or task.kind == "language" else 0
    if not settings.pseudo_label_weight:
        shape = task.positions if task.has_classes else ()
        found = [np.full((item.count, *shape), IGNORED_LABEL, np.int32) for item in datasets]
        return [
            _pool(item, labels, None, 1) for item, labels in zip(datasets, found, strict=True)
        ], {}
    each = [pseudo_labels(bench, teachers, item) for item in datasets]
    whole = PseudoLabels(
        labels=np.concatenate([item.labels for item in each]),
        confidences=np.concatenate([item.confidences for item in each]),
    )
    labels = confident_labels(whole, settings.confidence)
    times = _times(settings, task, labels, whole.confidences)
    ends = np.cumsum([item.count for item in datasets])[:-1]
    parts = zip(datasets, np.split(labels, ends), np.split(times, ends), strict=True)
    pools = [_pool(item, own, taken, rest) for item, own, taken in parts]
    return pools, {"pseudo_labels": _told(task, whole, labels, times)}


def _times(
    settings: Distil, task: Task, labels: Labels, confidences: NDArray[np.float32]
) -> NDArray[np.int64]:
    if settings.has_class_balance and not task.positions:
        return balanced_times(labels, confidences)
    is_taken = (labels != IGNORED_LABEL).reshape(len(labels), -1).any(axis=1)
    return np.asarray(is_taken, dtype=np.int64)


def _pool(dataset: Dataset, labels: Labels, times: NDArray[np.int64] | None, rest: int) -> Pool:
    """rest: how often to take a sample that has no label."""
    taken = np.zeros(len(labels), np.int64) if times is None else times
    kept = labels.copy()
    kept[taken == 0] = IGNORED_LABEL
    return Pool(dataset=dataset, labels=kept, times=np.maximum(taken, rest))


def _told(
    task: Task, found: PseudoLabels, labels: Labels, times: NDArray[np.int64]
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "of": int(found.labels.size),
        "confident": int((labels != IGNORED_LABEL).sum()),
        "distinct_samples": int((times > 0).sum()),
    }
    if not task.positions:
        taken = taken_by_class(labels, times)
        told["taken"] = {str(label): taken.get(str(label), 0) for label in range(task.classes)}
    return told


def _tell(
    told: dict[str, Any], pools: Sequence[Pool], labelled: Dataset | None, reporter: Reporter
) -> None:
    count = sum(int(pool.times.sum()) for pool in pools)
    beside = "no labelled ones" if labelled is None else f"{labelled.count:,} labelled ones"
    is_repeated = any(int(pool.times.max(initial=0)) > 1 for pool in pools)
    again = " (some more than once, so that classes are balanced)" if is_repeated else ""
    reporter.note(f"an epoch goes over {count:,} unlabelled samples{again} beside {beside}")
    found = told.get("pseudo_labels")
    if found is None:
        return
    reporter.note(
        f"pseudo-labels: {found['confident']:,} of {found['of']:,} are confident enough, on "
        f"{found['distinct_samples']:,} samples"
    )
    missing = [label for label, times in found.get("taken", {}).items() if not times]
    if missing:
        reporter.warn(
            f"no confident pseudo-label of class {', '.join(missing[:10])}"
            f"{' and others' if len(missing) > 10 else ''}; the student sees none of them without "
            "labels: lower 'confidence', or give more unlabelled samples"
        )
