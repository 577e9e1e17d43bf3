"""How much a student says what its teacher says."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.compress.bench import Bench
from edgekit.compress.distillation.teachers import Task, counted_positions
from edgekit.compress.judge import BATCH_SAMPLES, predict
from edgekit.data.dataset import TARGET
from edgekit.evaluate.builtin import IGNORED_LABEL, cosine_rows

Array = NDArray[Any]


def agreement(student: nn.Module, bench: Bench, task: Task) -> float:
    """Share of equal labels on the selection data; without classes the mean cosine of outputs.

    Positions that do not count (label -100, padding) are left out.
    Units: 0 to 1 for labels, -1 to 1 for cosines; against the float model.
    """
    total, count = 0.0, 0
    pairs = (predict(bench, model, bench.selection) for model in (student, bench.teacher))
    for ours, theirs, rows in zip(*pairs, _rows(bench), strict=True):
        one, other = ours[task.output], theirs[task.output]
        if task.has_classes:
            is_equal = one.argmax(axis=task.class_axis) == other.argmax(axis=task.class_axis)
            found = is_equal[_counted(bench, rows, is_equal.shape)].astype(np.float64)
        else:
            found = cosine_rows(one, other)
        total += float(found.sum())
        count += len(found)
    return total / max(count, 1)


def _rows(bench: Bench) -> Iterator[Mapping[str, Array]]:
    return bench.selection.batches(BATCH_SAMPLES)


def _counted(bench: Bench, rows: Mapping[str, Array], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which positions count. Shapes: as the labels."""
    labels = rows.get(TARGET)
    if labels is not None and labels.shape == shape and labels.dtype.kind in "iu":
        return np.asarray(labels != IGNORED_LABEL)
    inputs = {item.name: torch.from_numpy(rows[item.name]) for item in bench.contract.inputs}
    masks = counted_positions(bench, inputs)
    if masks is not None and tuple(masks.shape) == shape:
        return np.asarray(masks.numpy())
    return np.ones(shape, dtype=np.bool_)
