"""Labels that teachers give to samples without any: which are taken, and how often each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit.compress.bench import Bench
from edgekit.compress.distillation.teachers import Teachers
from edgekit.compress.judge import BATCH_SAMPLES
from edgekit.core.errors import StepError
from edgekit.data.dataset import Dataset
from edgekit.evaluate.builtin import IGNORED_LABEL

Labels = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoLabels:
    """What teachers say of samples. Shapes: (samples, *positions) both.

    labels: the most probable class. confidences: its probability, the mean over the teachers.
    """

    labels: Labels
    confidences: NDArray[np.float32]


def pseudo_labels(bench: Bench, teachers: Teachers, dataset: Dataset) -> PseudoLabels:
    """The teachers' labels of every sample of a dataset, as it is and without augmentation.

    Source: Lee 2013, "Pseudo-Label" (ICML workshop on challenges in representation learning).
    """
    names = [item.name for item in bench.contract.inputs]
    labels, confidences = [], []
    for rows in dataset.batches(BATCH_SAMPLES, names):
        inputs = {name: torch.from_numpy(value).to(bench.device) for name, value in rows.items()}
        scores = teachers.scores(teachers.teach(inputs), 1.0)
        best = scores.softmax(dim=-1).max(dim=-1)
        labels.append(best.indices.to(torch.int32).cpu().numpy())
        confidences.append(best.values.cpu().numpy())
    return PseudoLabels(labels=np.concatenate(labels), confidences=np.concatenate(confidences))


def confident_labels(found: PseudoLabels, threshold: float) -> Labels:
    """The labels of at least this confidence; the others are -100.

    Raises: StepError when none is left.
    """
    kept = np.where(found.confidences >= threshold, found.labels, IGNORED_LABEL).astype(np.int32)
    if not (kept != IGNORED_LABEL).any():
        raise StepError(
            f"distil: no pseudo-label of {kept.size} has a confidence of {threshold:g}; the highest"
            f" is {float(found.confidences.max()):.7g}: lower 'confidence', or set "
            "pseudo_label_weight to 0"
        )
    return kept


def balanced_times(labels: Labels, confidences: NDArray[np.float32]) -> NDArray[np.int64]:
    """How often to take each sample so that every class that occurs is taken equally often.

    Each class is taken as often as the classes are on average: of one that has more, the most
    confident; of one that has fewer, all in turn, the most confident first. -100 is taken never.
    Shapes: (samples,) each.
    Source: Xie et al. 2020, arXiv:1911.04252 (Noisy Student), section 3.1 (data balancing).
    """
    times = np.zeros(len(labels), dtype=np.int64)
    classes = np.unique(labels[labels != IGNORED_LABEL])
    if not len(classes):
        return times
    each = int((labels != IGNORED_LABEL).sum()) // len(classes)
    for label in classes:
        members = np.flatnonzero(labels == label)
        ranked = members[np.argsort(-confidences[members], kind="stable")]
        whole, rest = divmod(each, len(ranked))
        times[ranked] += whole
        times[ranked[:rest]] += 1
    return times


def taken_by_class(labels: Labels, times: Sequence[int] | NDArray[np.int64]) -> dict[str, int]:
    """How many labels of each class are taken, each time counted; by class number."""
    repeated = np.repeat(labels.reshape(len(labels), -1), times, axis=0)
    classes, counts = np.unique(repeated[repeated != IGNORED_LABEL], return_counts=True)
    return {str(label): int(count) for label, count in zip(classes, counts, strict=True)}
