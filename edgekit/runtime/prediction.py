"""What a session says of one raw sample: scores after the activation, and the best labels."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.core.contract import Output
from edgekit.core.errors import SessionError
from edgekit.runtime.engine import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The outputs of one sample.

    outputs: by name, without the batch axis, after the activation that the contract declares.
    labels: by name, (label, score) from best to worst, for outputs that have labels.
    """

    outputs: Mapping[str, Array]
    labels: Mapping[str, tuple[tuple[str, float], ...]]


def predict_outputs(
    raw: Mapping[str, Array], meanings: Mapping[str, Output], *, top: int
) -> Prediction:
    """The prediction of one sample's raw outputs (without the batch axis).

    Raises: SessionError for NaN in an output and for labels that do not match it.
    """
    outputs = {
        name: activate(array, meanings[name].activation, where=f"output '{name}'")
        for name, array in raw.items()
    }
    labels = {
        name: best_labels(outputs[name], meaning.labels, top=top, where=f"output '{name}'")
        for name, meaning in meanings.items()
        if meaning.labels
    }
    return Prediction(outputs=outputs, labels=labels)


def activate(array: Array, activation: str, *, where: str) -> Array:
    """Scores after ``softmax`` over the last axis, ``sigmoid``, or nothing.

    Raises: SessionError for NaN.
    """
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise SessionError(f"{where}: the model gave NaN; its weights or this input are not sane")
    if activation == "none":
        return array
    # float64, and shifted or mirrored so that exp never overflows.
    scores = array.astype(np.float64)
    if activation == "softmax":
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        result = powers / powers.sum(axis=-1, keepdims=True)
    else:
        decay = np.exp(-np.abs(scores))
        result = np.where(scores >= 0, 1.0, decay) / (1.0 + decay)
    return np.asarray(result, dtype=np.float32)


def best_labels(
    scores: Array, labels: tuple[str, ...], *, top: int, where: str
) -> tuple[tuple[str, float], ...]:
    """The ``top`` labels with their scores, best first; the earlier label wins a tie.

    Raises: SessionError when there is not one label a score.
    """
    if scores.shape != (len(labels),):
        raise SessionError(f"{where}: {len(labels)} labels for scores of shape {scores.shape}")
    order = np.argsort(-scores.astype(np.float64), kind="stable")[: max(top, 0)]
    return tuple((labels[int(i)], float(scores[i])) for i in order)
