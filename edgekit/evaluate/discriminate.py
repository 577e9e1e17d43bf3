"""Whether a metric can tell a good model from a bad one at all.

A metric that always returns 1 makes every compression look harmless. Here the outputs, and then
the targets, are mixed up among the samples: a score that does not move at all proves nothing.
Metrics that are known by name need no such test.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import WorkloadError
from edgekit.evaluate.builtin import Outputs, Scores
from edgekit.evaluate.metrics import Metric, checked_scores
from edgekit.evaluate.paired import Batches, PairedBatch

Array = NDArray[Any]
SAMPLES = 256
TRIES = 8


def check_metric_discriminates(metric: Metric, batches: Batches, *, seed: int = 0) -> None:
    """Refuse a metric whose scores ignore what the model says, or what it should say.

    Raises: WorkloadError naming which of the two has no influence.
    """
    if metric.is_builtin:
        return
    batch = _first_samples(batches)
    generator = np.random.default_rng(seed)
    if _is_unmoved(metric, batch, lambda: _mixed_outputs(batch, generator)):
        raise WorkloadError(
            f"metric {metric.name} does not depend on the outputs: its scores of {batch.count} "
            "samples stayed the same when the outputs were mixed up; it can judge no model"
        )
    target = batch.target
    if not metric.needs_target or target is None or _is_constant(target):
        return
    if _is_unmoved(metric, batch, lambda: replace(batch, target=generator.permutation(target))):
        raise WorkloadError(
            f"metric {metric.name} does not depend on the targets: its scores of {batch.count} "
            "samples stayed the same when the targets were mixed up; if it needs none, set its "
            "attribute needs_target to False"
        )


def _is_unmoved(metric: Metric, batch: PairedBatch, mixed: Callable[[], PairedBatch]) -> bool:
    before = _scores(metric, batch)
    return all(np.array_equal(_scores(metric, mixed()), before) for _ in range(TRIES))


def _scores(metric: Metric, batch: PairedBatch) -> Scores:
    found = metric.per_sample(batch.reference, batch.target, batch.reference)
    if found is None and metric.whole is not None:
        return np.array([metric.whole([(batch.reference, batch.target)])])
    return checked_scores(
        np.asarray(found), batch.count, metric=metric.name, where="the first samples"
    )


def _first_samples(batches: Batches) -> PairedBatch:
    """The first samples as one batch; the candidate's outputs play no part."""
    taken: list[PairedBatch] = []
    for batch in batches():
        taken.append(batch)
        if sum(item.count for item in taken) >= SAMPLES:
            break
    if not taken:
        raise WorkloadError("evaluation data: no samples; at least 1 is needed")
    outputs = {
        name: np.concatenate([item.reference[name] for item in taken])
        for name in taken[0].reference
    }
    targets = [item.target for item in taken if item.target is not None]
    return PairedBatch(
        reference=outputs,
        candidate=outputs,
        target=np.concatenate(targets) if targets else None,
    )


def _mixed_outputs(batch: PairedBatch, generator: np.random.Generator) -> PairedBatch:
    return replace(batch, reference=_mixed(batch.reference, generator))


def _mixed(outputs: Outputs, generator: np.random.Generator) -> Outputs:
    # Whole rows change places and so do the elements of a row: probabilities still add up to one.
    return {
        name: generator.permuted(
            generator.permutation(values).reshape(len(values), -1), axis=1
        ).reshape(values.shape)
        for name, values in outputs.items()
    }


def _is_constant(target: Array) -> bool:
    return bool((target == target[0]).all())
