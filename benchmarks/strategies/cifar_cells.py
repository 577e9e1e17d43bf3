"""The cells of the CIFAR-10 pair: what each one trains, for how long, and what comes out.

Cost is counted in multiply-accumulates: training on a sample is a forward pass and a backward pass
of twice its work, a teacher is asked for a forward pass alone. Source of the factor two: Kaplan et
al. 2020, arXiv:2001.08361, section 2.1.
"""

import hashlib
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.strategies.cifar_data import (
    SETS,
    SIDE,
    Learning,
    answers,
    dev_pictures,
    learned_pictures,
    make_bench,
    network,
    published,
    write_learning,
)
from benchmarks.strategies.cifar_record import Record, this_place
from edgekit.compress.bench import Bench, StepResult
from edgekit.compress.count import count, count_run
from edgekit.compress.distillation.distil import distil
from edgekit.compress.example import as_example
from edgekit.compress.judge import Judge
from edgekit.compress.pruning.prune import prune
from edgekit.compress.training.finetune import finetune
from edgekit.core.codec import digest_of, to_plain
from edgekit.core.progress import Reporter
from edgekit.core.steps import Distil, Prune, Train

Arm = Literal["published-20", "published-56", "teacher", "plain", "distil", "prune"]
PLAIN, PLAIN_SAME_COST, DISTILLED = "plain", "plain-same-cost", "distil"
SEEDS = (1, 2, 3)
TRIAL_SEED = 9
TEACHER_EPOCHS, STUDENT_EPOCHS, PRUNED_EPOCHS = 4, 3, 24
# What was cut has far to go: more and smaller steps.
PRUNED_BATCH = 32
BACKWARD = 2
TEACHER_FILE = "teacher.safetensors"
TINY_IMAGES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training.

    label: its row in the table; cells of other seeds share it. is_trial: only the selection images
    judge it. images: how many to learn from and to be judged on at most; 0 for all.
    """

    label: str
    arm: Arm
    seed: int = 0
    train: Train | None = None
    distil: Distil | None = None
    prune: Prune | None = None
    is_trial: bool = False
    images: int = 0

    @property
    def name(self) -> str:
        """The label, with the seed where it counts."""
        return f"{self.label}-{self.seed}" if self.seed else self.label

    @property
    def epochs(self) -> int:
        """Passes over the training images."""
        settings = self.distil.train if self.distil else self.prune.recover if self.prune else None
        chosen = settings or self.train
        return chosen.epochs if chosen else 0


def all_cells(*, is_tiny: bool = False) -> tuple[Cell, ...]:
    """Every cell in the order in which they run: what was tried comes first.

    is_tiny: one seed, one epoch and few images, to see that all of it runs.
    """
    judged = (
        Cell(label="published-resnet56", arm="published-56"),
        Cell(label="published-resnet20", arm="published-20"),
        Cell(label="teacher", arm="teacher", train=sgd(TEACHER_EPOCHS)),
        *_judged(),
    )
    if not is_tiny:
        return (*judged[:3], *_trials(), *judged[3:])
    return tuple(_tiny(cell) for cell in judged if cell.seed in (0, SEEDS[0]))


def sgd(epochs: int, learning_rate: float = 0.01, *, batch: int = 128) -> Train:
    """Stochastic gradient descent with momentum, the rate falling along a cosine."""
    return Train(
        epochs=epochs,
        batch_size=batch,
        optimizer="sgd",
        learning_rate=learning_rate,
        weight_decay=5e-4,
        clip_norm=0.0,
    )


def _judged() -> tuple[Cell, ...]:
    """The arms, each for all seeds; those that answer the question come first."""
    train, longer = sgd(STUDENT_EPOCHS), sgd(same_cost_epochs(STUDENT_EPOCHS))
    recover = sgd(PRUNED_EPOCHS, 0.02, batch=PRUNED_BATCH)
    arms = (
        Cell(label=DISTILLED, arm="distil", distil=taught(train)),
        Cell(label=PLAIN, arm="plain", train=train),
        Cell(label=PLAIN_SAME_COST, arm="plain", train=longer),
        Cell(label="prune-half-channels", arm="prune", prune=Prune(ratio=0.5, recover=recover)),
    )
    both, rest = arms[:2], arms[2:]
    return (
        *(replace(cell, seed=seed) for seed in SEEDS for cell in both),
        *(replace(cell, seed=seed) for cell in rest for seed in SEEDS),
    )


def _trials() -> tuple[Cell, ...]:
    """What was tried with another seed, and chosen from by the selection images alone."""
    epochs = STUDENT_EPOCHS
    # Small batches, and the average of the weights judged in their place.
    averaged = replace(sgd(epochs, batch=64), ema_decay=0.97)
    plain = {"batch-128": sgd(epochs), "batch-64-averaged": averaged}
    distilled = {"batch-128": sgd(epochs), "batch-128-rate-0.003": sgd(epochs, 0.003)}
    return (
        *(_trial(f"plain-{said}", "plain", train=train) for said, train in plain.items()),
        *(
            _trial(f"distil-{said}", "distil", distil=taught(train))
            for said, train in distilled.items()
        ),
    )


def _trial(label: str, arm: Arm, **settings: Any) -> Cell:
    return Cell(label=f"trial-{label}", arm=arm, seed=TRIAL_SEED, is_trial=True, **settings)


def taught(train: Train, **changes: float) -> Distil:
    """Distillation of the published ResNet-20, with the step's own defaults but for ``changes``."""
    # The weights of the recorded runs, which were the step's defaults then.
    weights = {"hard_weight": 0.3, "soft_weight": 0.7}
    return replace(Distil(student="factory", train=train, **weights), **changes)


def _tiny(cell: Cell) -> Cell:
    def short(train: Train) -> Train:
        return replace(train, epochs=1, batch_size=16)

    return replace(
        cell,
        images=TINY_IMAGES,
        train=short(cell.train) if cell.train else None,
        distil=replace(cell.distil, train=short(cell.distil.train)) if cell.distil else None,
        prune=replace(cell.prune, recover=short(cell.prune.recover)) if cell.prune else None,
    )


def run_cell(cell: Cell, work: Path, reporter: Reporter) -> Record:
    """Train what a cell asks for, or go on where a killed run of it stopped, and judge it."""
    began = time.process_time()
    with tempfile.TemporaryDirectory(prefix="edgekit-cifar-pair-") as folder:
        learning = write_learning(Path(folder), images=cell.images)
        bench = _bench(cell, learning, work)
        result = _run(cell, bench, reporter)
        sizes = count(result.model, bench), count(bench.teacher, bench)
        score = Judge(bench).score(result.model)
        heart = _by_heart(result.model, learning) if cell.arm == "teacher" else {}
    own, theirs = (size.macs for size in sizes)
    is_taught = cell.arm in ("distil", "prune")
    per_sample = (1 + BACKWARD) * own + (theirs if is_taught else 0)
    sets = () if cell.is_trial else tuple(SETS)
    judged = {
        name: answers(result.model, *dev_pictures(name, images=cell.images)).percent
        for name in sets
    }
    if cell.arm == "teacher" and not cell.is_trial:
        _keep(result.model, work / TEACHER_FILE)
    return Record(
        label=cell.label,
        seed=cell.seed,
        epochs=cell.epochs,
        selection_percent=100 * score,
        jpeg_percent=judged.get("jpeg"),
        lossless_percent=judged.get("lossless"),
        parameters=sizes[0].parameters,
        macs=own,
        cost_macs=cell.epochs * learning.training.count * per_sample,
        cpu_seconds=round(time.process_time() - began, 1),
        sha256=_digest(result.model),
        place=this_place("edgekit", "torch"),
        **heart,
    )


def _by_heart(model: nn.Module, learning: Learning) -> dict[str, float]:
    """What a teacher makes of its own training images, against images that it never saw."""
    known = answers(model, *learned_pictures(learning))
    return {
        "training_percent": known.percent,
        "training_confidence": known.confidence,
        "jpeg_confidence": answers(model, *dev_pictures("jpeg")).confidence,
    }


def same_cost_epochs(epochs: int) -> int:
    """As many epochs of plain fine-tuning as cost what so many of distillation do, rounded up."""
    student, teacher = (forward_macs(layers) for layers in (20, 56))
    return math.ceil(epochs * (1 + teacher / ((1 + BACKWARD) * student)))


@cache
def forward_macs(layers: int) -> int:
    """Multiply-accumulates of one picture, counted by torch on a network of any weights."""
    return count_run(network(layers), as_example(torch.zeros(1, 3, SIDE, SIDE))).macs


def adapted_teacher(work: Path) -> nn.Module:
    """The ResNet-56 that the cell "teacher" has trained.

    Raises: SystemExit where it was not run in this work folder.
    """
    path = work / TEACHER_FILE
    if not path.is_file():
        raise SystemExit(f"{path} is not there; run the cell 'teacher' first, with the same --work")
    model = published(56)
    model.load_state_dict(load_file(path))
    return model


def _bench(cell: Cell, learning: Learning, work: Path) -> Bench:
    makers: dict[Arm, Callable[[], tuple[nn.Module, nn.Module]]] = {
        "published-20": lambda: (published(20), published(20)),
        "published-56": lambda: (published(56), published(56)),
        "teacher": lambda: (published(56), published(56)),
        "plain": lambda: (published(20), published(20)),
        "distil": lambda: (adapted_teacher(work), adapted_teacher(work)),
        "prune": lambda: (adapted_teacher(work), adapted_teacher(work)),
    }
    model, teacher = makers[cell.arm]()
    # A checkpoint knows its data and its first weights; what else it came from is told here.
    facts = {"cell": to_plain(cell), "teacher": _digest(teacher)}
    return make_bench(
        model,
        teacher,
        learning,
        work / "checkpoints" / f"{cell.name}-{digest_of(facts)[:12]}",
        seed=cell.seed,
        student=lambda: published(20),
    )


def _run(cell: Cell, bench: Bench, reporter: Reporter) -> StepResult:
    if cell.distil is not None:
        return distil(cell.distil, bench, reporter)
    if cell.prune is not None:
        return prune(cell.prune, bench, reporter)
    if cell.train is not None:
        return finetune(cell.train, bench, reporter)
    return StepResult(model=bench.model)


def _keep(model: nn.Module, path: Path) -> None:
    """Written whole or not at all."""
    partial = path.with_suffix(".partial")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial)
    partial.replace(path)


def _digest(model: nn.Module) -> str:
    """sha256 of all tensors of a model, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()
