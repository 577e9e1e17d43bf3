"""Training after a step has changed a model, to win back what it lost."""

from torch import nn

from edgekit.compress.bench import Bench, Objective, StepPoint
from edgekit.compress.training.objective import teacher_objective
from edgekit.compress.training.train import train
from edgekit.core.progress import Reporter
from edgekit.core.steps.train import Train
from edgekit.data.dataset import TARGET


def recover(
    model: nn.Module, settings: Train, teacher_weight: float, bench: Bench, reporter: Reporter
) -> tuple[StepPoint, ...]:
    """Train a model in place; the points on the way, none where no epochs are asked for."""
    if not settings.epochs:
        return ()
    objective = recovery_objective(bench, settings, teacher_weight, reporter)
    trained = train(model, objective, bench, settings, reporter, masks=bench.masks, name="recover")
    return trained.points


def recovery_objective(
    bench: Bench, settings: Train, teacher_weight: float, reporter: Reporter
) -> Objective:
    """Labels and the float model's outputs, or the latter alone where there are no labels."""
    data = bench.training
    has_labels = bench.loss is not None or (data is not None and TARGET in data.arrays)
    if teacher_weight < 1 and not has_labels:
        reporter.note(
            "the training data have no targets: the float model's outputs are all it learns"
        )
        teacher_weight = 1.0
    return teacher_objective(bench, teacher_weight, label_smoothing=settings.label_smoothing)
