"""Losses of class scores and of directions, as plain functions of tensors."""

from torch import Tensor
from torch.nn import functional

from edgekit.core.errors import StepError
from edgekit.evaluate.builtin import IGNORED_LABEL


def cross_entropy(scores: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of class scores, as the mean over all positions whose label is not -100.

    Shapes: as metric "top-1" takes them: scores (n, classes), (n, ..., classes) or
    (n, classes, ...); labels one a sample or one a position. Fractions of the scores' own shape
    are class probabilities.
    Raises: StepError for labels of another shape, outside the classes, or none that counts.
    """
    if target.is_floating_point() and target.shape == scores.shape:
        return functional.cross_entropy(
            _classes_second(scores), _classes_second(target), label_smoothing=label_smoothing
        )
    rows, labels = positions(scores, target)
    _check_labels(labels, rows.shape[-1])
    return functional.cross_entropy(
        rows, labels, ignore_index=IGNORED_LABEL, label_smoothing=label_smoothing
    )


def positions(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Scores as (positions, classes) and labels as (positions,), of all samples of a batch.

    Raises: StepError when their shapes do not go together.
    """
    labels = target.long()
    if scores.ndim == 2 and labels.shape == (len(scores), 1):
        labels = labels[:, 0]
    if scores.ndim < 2 or scores.shape[:-1] != labels.shape:
        if scores.ndim < 2 or (scores.shape[0], *scores.shape[2:]) != tuple(labels.shape):
            raise StepError(
                f"class scores of shape {list(scores.shape)} and labels of {list(target.shape)}: "
                "labels are class numbers, one a sample or one a position; give the workload a "
                "'loss' for anything else"
            )
        scores = scores.movedim(1, -1)
    return scores.reshape(-1, scores.shape[-1]), labels.reshape(-1)


def counted_rows(ours: Tensor, theirs: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor]:
    """Class scores of both as rows, without the positions whose label says that they do not count.

    Without labels the last axis is taken for the classes. A sample with one label that does not
    count is one without a label, and follows the teacher all the same.
    """
    if target is None or target.is_floating_point():
        return ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, theirs.shape[-1])
    rows, labels = positions(ours, target)
    wanted, _ = positions(theirs, target)
    is_counted = labels != IGNORED_LABEL
    if len(labels) == len(target) or bool(is_counted.all()):
        return rows, wanted
    return rows[is_counted], wanted[is_counted]


def soft_labels(scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T^2 times the divergence of softened probabilities from the teacher's, mean over rows.

    The factor T^2 keeps the gradient's size when the temperature changes.
    Shapes: (n, classes) both.
    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.
    """
    ours = functional.log_softmax(scores / temperature, dim=-1)
    theirs = functional.log_softmax(wanted / temperature, dim=-1)
    divergence = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def cosine_loss(outputs: Tensor, wanted: Tensor) -> Tensor:
    """One minus the cosine of each sample's elements to the wanted ones, mean over samples.

    Shapes: (n, ...) both.
    """
    return 1 - functional.cosine_similarity(outputs.flatten(1), wanted.flatten(1), dim=1).mean()


def _classes_second(values: Tensor) -> Tensor:
    return values if values.ndim == 2 else values.movedim(-1, 1)


def _check_labels(labels: Tensor, classes: int) -> None:
    counted = labels[labels != IGNORED_LABEL]
    if not len(counted):
        raise StepError("a batch has no label that counts (all are -100); leave such samples out")
    low, high = int(counted.min()), int(counted.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise StepError(f"label {wrong} of {classes} classes; labels are 0 to {classes - 1}")
