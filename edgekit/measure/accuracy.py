"""An artifact on every sample of a dataset, and its metric against the float model's."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import SessionError, WorkloadError
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.data.dataset import TARGET, Dataset, DatasetWriter, open_dataset
from edgekit.evaluate.discriminate import check_metric_discriminates
from edgekit.evaluate.metrics import Metric
from edgekit.evaluate.paired import Batches, PairedBatch, PairedResult, paired_drop
from edgekit.measure.runner import Runner, open_runner

OUTPUTS = "outputs"
METRIC_BATCH = 64
_REPORT_EVERY = 50


def predict(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Stage: run an artifact on every sample, into the dataset ``out/outputs``.

    Inputs: artifact, data. Settings: artifact, contract (plain), threads. Samples go in one at a
    time (or as many as the artifact's fixed batch), because scales that an engine finds at run
    time may depend on what else is in a batch.
    Raises: SessionError when an output is NaN or infinite, naming the sample.
    """
    dataset = open_dataset(request.folder("data"))
    settings = request.settings
    with open_runner(
        request.folder("artifact"),
        settings["artifact"],
        settings["contract"],
        threads=settings.get("threads", 1),
    ) as runner:
        count = write_outputs(runner, dataset, out / OUTPUTS, reporter)
    return {"samples": count}


def write_outputs(runner: Runner, dataset: Dataset, out: Path, reporter: Reporter) -> int:
    """The outputs of every sample as a dataset by output name; how many there were."""
    names = [item.name for item in runner.contract.inputs]
    with DatasetWriter(out) as writer:
        for arrays in dataset.batches(runner.batch, names):
            outputs = runner.run(arrays)
            for row in range(len(arrays[names[0]])):
                sample = {name: values[row] for name, values in outputs.items()}
                _expect_finite(sample, writer.count, runner.artifact.entry)
                writer.append(sample)
            if writer.count % _REPORT_EVERY < runner.batch:
                reporter.progress("running samples", writer.count / dataset.count)
        return writer.count


def compare(
    metric: Metric, *, reference: Dataset, candidate: Dataset, data: Dataset, seed: int = 0
) -> PairedResult:
    """The metric of two sets of outputs on the same evaluation data, and its drop.

    Raises: WorkloadError when the sets differ in number, or the metric cannot judge.
    """
    batches = paired_batches(reference, candidate, data)
    check_metric_discriminates(metric, batches, seed=seed)
    return paired_drop(metric, batches, seed=seed)


def paired_batches(reference: Dataset, candidate: Dataset, data: Dataset) -> Batches:
    """Both outputs and the targets, a batch at a time, read from disk anew on each call.

    Raises: WorkloadError when the three do not hold the same samples.
    """
    if not reference.count == candidate.count == data.count:
        raise WorkloadError(
            f"outputs of {reference.count} and {candidate.count} samples for {data.count} "
            "evaluation samples: they are not of the same data"
        )
    if dict(reference.arrays).keys() != dict(candidate.arrays).keys():
        raise WorkloadError(
            f"outputs {', '.join(reference.arrays)} against {', '.join(candidate.arrays)}"
        )
    has_target = TARGET in data.arrays

    def batches() -> Iterator[PairedBatch]:
        targets = data.batches(METRIC_BATCH, [TARGET] if has_target else [])
        both = zip(
            reference.batches(METRIC_BATCH), candidate.batches(METRIC_BATCH), targets, strict=True
        )
        for ours, theirs, labels in both:
            yield PairedBatch(reference=ours, candidate=theirs, target=labels.get(TARGET))

    return batches


def of_choice(batches: Batches, choice: int, repeats: int) -> Batches:
    """Those of the batches' samples that made one choice, of ``repeats`` that follow each other."""

    def chosen() -> Iterator[PairedBatch]:
        start = 0
        for batch in batches():
            rows = np.arange(start, start + batch.count) % repeats == choice
            start += batch.count
            if rows.any():
                yield PairedBatch(
                    reference={name: value[rows] for name, value in batch.reference.items()},
                    candidate={name: value[rows] for name, value in batch.candidate.items()},
                    target=None if batch.target is None else batch.target[rows],
                )

    return chosen


def _expect_finite(sample: Mapping[str, NDArray[Any]], index: int, entry: str) -> None:
    for name, values in sample.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise SessionError(
                f"{entry}: output '{name}' is NaN or infinite for sample {index}; the artifact "
                "overflows, so try a wider precision for the layers that feed this output"
            )
