"""The metrics that are known by name, as scores a sample.

Class scores may have several positions a sample (a language model's tokens, an image's pixels):
a sample's score is then the mean over its positions. A label of -100 marks a position that does
not count, as PyTorch's cross-entropy has it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import WorkloadError

Array = NDArray[Any]
Outputs = Mapping[str, Array]
Scores = NDArray[np.float64]
PerSample = Callable[[Outputs, Array | None, Outputs], Scores | None]

IGNORED_LABEL = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class Builtin:
    """What is known of a metric by name.

    score: of outputs, target and the float model's outputs. is_bounded: scores are told on a scale
    of 0..1, so a difference of them is told in points. lowest, highest: no score lies outside.
    """

    score: PerSample
    needs_target: bool
    is_bounded: bool
    higher_is_better: bool
    lowest: float
    highest: float = math.inf


def top_k(outputs: Outputs, target: Array | None, *, k: int) -> Scores:
    """1 where the right class is among the ``k`` with the highest scores; ties go to the lower.

    Shapes: (n, classes), or (n, ..., classes) or (n, classes, ...) with a label a position.
    Raises: WorkloadError for ``k`` classes or fewer, and for labels outside 0..classes - 1.
    """
    scores, labels = _positions(outputs, target)
    if scores.shape[-1] <= k:
        raise WorkloadError(f"top-{k} of {scores.shape[-1]} classes is always right; choose less")
    safe = np.where(labels == IGNORED_LABEL, 0, labels)
    own = np.take_along_axis(scores, safe[..., None], axis=-1)
    is_before = np.arange(scores.shape[-1]) < safe[..., None]
    # Not "scores > own": a NaN is greater than nothing, and would make every class the first.
    rank = np.sum(~(scores <= own) | ((scores == own) & is_before), axis=-1)
    return _mean_of_counted((rank < k).astype(np.float64), labels)


def nll(outputs: Outputs, target: Array | None, _: Outputs) -> Scores:
    """Negative log-likelihood of the right class in nats, from logits.

    Shapes: as ``top_k``.
    """
    scores, labels = _positions(outputs, target)
    logits = scores.astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    log_sum = np.log(np.exp(logits).sum(axis=-1))
    safe = np.where(labels == IGNORED_LABEL, 0, labels)
    own = np.take_along_axis(logits, safe[..., None], axis=-1)[..., 0]
    return _mean_of_counted(log_sum - own, labels)


def mae(outputs: Outputs, target: Array | None, _: Outputs) -> Scores:
    """Mean absolute error of a sample's elements against its target.

    Shapes: (n, ...) and a target of as many elements a sample.
    """
    values, wanted = _single(outputs), _target(target)
    rows = len(values)
    if values.size != wanted.size or len(wanted) != rows:
        raise WorkloadError(
            f"mae: outputs of shape {list(values.shape)} and targets of {list(wanted.shape)}; "
            "they must have the same elements"
        )
    error = np.abs(_flat(values) - _flat(wanted))
    return np.asarray(error.mean(axis=1))


def cosine(outputs: Outputs, _: Array | None, reference: Outputs) -> Scores:
    """Cosine of a sample's output to the float model's; of several outputs, the lowest.

    Two vectors of zeros agree (1); one of zeros against another has cosine 0.
    """
    rows = [cosine_rows(outputs[name], reference[name]) for name in outputs]
    return np.asarray(np.min(rows, axis=0))


def cosine_rows(values: Array, reference: Array) -> Scores:
    """Cosine of each row of one array to the same row of another, elements flattened."""
    if values.shape != reference.shape:
        raise WorkloadError(
            f"cosine: outputs of shape {list(values.shape)} against the float model's "
            f"{list(reference.shape)}"
        )
    ours, theirs = _flat(values), _flat(reference)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    is_same_zero = ~ours.any(axis=1) & ~theirs.any(axis=1)
    products = np.einsum("ij,ij->i", ours, theirs)
    found = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return np.where(is_same_zero, 1.0, np.clip(found, -1.0, 1.0))


def _top_1(outputs: Outputs, target: Array | None, _: Outputs) -> Scores:
    return top_k(outputs, target, k=1)


def _top_5(outputs: Outputs, target: Array | None, _: Outputs) -> Scores:
    return top_k(outputs, target, k=5)


def _share(score: PerSample) -> Builtin:
    return Builtin(
        score=score,
        needs_target=True,
        is_bounded=True,
        higher_is_better=True,
        lowest=0.0,
        highest=1.0,
    )


def _loss(score: PerSample) -> Builtin:
    return Builtin(
        score=score, needs_target=True, is_bounded=False, higher_is_better=False, lowest=0.0
    )


BUILTINS: Mapping[str, Builtin] = {
    "top-1": _share(_top_1),
    "top-5": _share(_top_5),
    "cosine": Builtin(
        score=cosine,
        needs_target=False,
        is_bounded=True,
        higher_is_better=True,
        lowest=-1.0,
        highest=1.0,
    ),
    "mae": _loss(mae),
    "nll": _loss(nll),
}


def _single(outputs: Outputs) -> Array:
    """The first output: the one that a metric of one output is about."""
    return next(iter(outputs.values()))


def _target(target: Array | None) -> Array:
    if target is None:
        raise WorkloadError("the metric needs targets, and the evaluation data have none")
    return target


def _flat(values: Array) -> Scores:
    return values.reshape(len(values), -1).astype(np.float64)


def _positions(outputs: Outputs, target: Array | None) -> tuple[Array, NDArray[np.int64]]:
    """Scores (n, positions, classes) and labels (n, positions)."""
    scores, labels = _single(outputs), _whole_numbers(_target(target))
    if scores.ndim == 2 and labels.shape == (len(scores), 1):
        labels = labels[:, 0]
    if scores.shape[:-1] != labels.shape:
        if (scores.shape[0], *scores.shape[2:]) != labels.shape:
            raise WorkloadError(
                f"class scores of shape {list(scores.shape)} and labels of {list(labels.shape)}; "
                "labels are class numbers, one a sample or one a position"
            )
        scores = np.moveaxis(scores, 1, -1)
    classes = scores.shape[-1]
    is_wrong = (labels != IGNORED_LABEL) & ((labels < 0) | (labels >= classes))
    if is_wrong.any():
        raise WorkloadError(
            f"label {labels[is_wrong][0]} of {classes} classes; labels are 0 to {classes - 1}"
        )
    rows = len(scores)
    return scores.reshape(rows, -1, classes), labels.reshape(rows, -1)


def _whole_numbers(labels: Array) -> NDArray[np.int64]:
    whole = labels.astype(np.int64)
    if labels.dtype.kind == "f" and not np.array_equal(whole, labels):
        raise WorkloadError("labels are fractions; class numbers are whole")
    return whole


def _mean_of_counted(scores: Scores, labels: NDArray[np.int64]) -> Scores:
    is_counted = labels != IGNORED_LABEL
    counts = is_counted.sum(axis=1)
    if not counts.all():
        raise WorkloadError("a sample has no label that counts (all are -100); leave it out")
    return np.asarray(np.where(is_counted, scores, 0.0).sum(axis=1) / counts)
