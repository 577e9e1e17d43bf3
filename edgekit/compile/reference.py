"""The float model's own outputs on a dataset: what every artifact is compared with."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.compile.capture import predict_reference
from edgekit.core.codec import from_plain
from edgekit.core.contract import Contract
from edgekit.core.errors import WorkloadError
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.data.dataset import Dataset, DatasetWriter, open_dataset

BATCH_SAMPLES = 64


def predict(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Stage: run the captured model in torch on every sample of ``data``.

    Settings: contract (plain). Writes the dataset ``outputs``; returns its sample count.
    Raises: WorkloadError when the float model itself gives NaN or infinity.
    """
    contract = from_plain(Contract, request.settings["contract"], where="contract")
    dataset = open_dataset(request.folder("data"))
    names = [item.name for item in contract.inputs]
    with DatasetWriter(out / "outputs") as writer:
        batches = _counted(dataset, names, reporter)
        for outputs in predict_reference(request.folder("model"), batches, contract):
            _refuse_nan(outputs, writer.count)
            rows = len(next(iter(outputs.values())))
            for row in range(rows):
                writer.append({name: values[row] for name, values in outputs.items()})
    return {"samples": writer.count}


def _counted(dataset: Dataset, names: list[str], reporter: Reporter) -> Iterator[dict[str, Any]]:
    done = 0
    for batch in dataset.batches(BATCH_SAMPLES, names):
        yield batch
        done += len(batch[names[0]])
        reporter.progress("float model", done / dataset.count)


def _refuse_nan(outputs: Mapping[str, Any], first: int) -> None:
    for name, values in outputs.items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise WorkloadError(
                f"the float model's output '{name}' is NaN or infinite for sample {first + row}; "
                "mend the model or the sample before compressing it"
            )
