"""What a student is trained on: labelled samples, unlabelled ones, or both in one dataset.

Where both are mixed, the target of a sample is packed into bytes: what kind of sample it is, its
pseudo-label, and the label that the workload gave it, exactly as it was. So the shared training
loop shuffles, augments and resumes a mixture as it does any dataset.
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.compress.bench import Batch, Bench
from edgekit.compress.distillation.pseudo import Labels
from edgekit.compress.training.batches import Rows
from edgekit.data.dataset import TARGET, ArraySpec, Dataset, DatasetWriter
from edgekit.evaluate.builtin import IGNORED_LABEL

_LABELLED, _UNLABELLED = 1, 0
_LABEL_BYTES = 4
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Samples without labels of the workload's.

    labels: the teachers' (-100 for none), (samples, *positions). times: how often each is taken.
    """

    dataset: Dataset
    labels: Labels
    times: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A batch by what is known of its samples.

    labelled: which have a label of the workload's, None for all; target: those labels. pseudo: the
    teachers' labels (-100 for none) of all samples, None for none.
    """

    labelled: Tensor | None
    target: Tensor | None
    pseudo: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How the targets of a mixture are packed: kind, pseudo-label, the workload's own target.

    positions: the shape of a pseudo-label. target: of the workload's own; None where it has none.
    """

    positions: tuple[int, ...]
    target: ArraySpec | None

    @property
    def label_bytes(self) -> int:
        """Of a pseudo-label."""
        return _LABEL_BYTES * math.prod(self.positions)

    def pack(self, kind: int, label: NDArray[Any], target: NDArray[Any] | None) -> NDArray[Any]:
        """The bytes of one sample's target."""
        size = 0 if self.target is None else self.target.row_bytes
        own = bytes(size) if target is None else np.ascontiguousarray(target).tobytes()
        return np.frombuffer(bytes([kind]) + label.astype(np.int32).tobytes() + own, np.uint8)

    def unpack(self, packed: Tensor) -> Parts:
        """The parts of a batch. Shapes: (n, bytes)."""
        labelled = packed[:, 0] == _LABELLED
        end = 1 + self.label_bytes
        pseudo = _read(packed[:, 1:end], torch.int32).reshape(-1, *self.positions).long()
        target = None
        if self.target is not None:
            own = packed[labelled, end:]
            dtype: torch.dtype = getattr(torch, self.target.dtype)
            target = _read(own, dtype).reshape(-1, *self.target.shape)
        return Parts(labelled=labelled, target=target, pseudo=pseudo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What to train on. packing: of its targets; None where they are the workload's own.

    has_labels: all samples of a dataset without packing have labels that count.
    """

    dataset: Dataset
    has_labels: bool
    packing: Packing | None = None

    def parts(self, batch: Batch) -> Parts:
        """What is known of the samples of a batch."""
        if self.packing is not None and batch.target is not None:
            return self.packing.unpack(batch.target)
        if self.has_labels:
            return Parts(labelled=None, target=batch.target)
        nothing = torch.zeros(batch.count, dtype=torch.bool, device=_device(batch))
        return Parts(labelled=nothing, target=None)


def mix(bench: Bench, labelled: Dataset | None, pools: list[Pool], folder: Path) -> Lessons:
    """One dataset of labelled samples and pools; what is in the folder already makes room."""
    if folder.exists():
        shutil.rmtree(folder)
    names = [item.name for item in bench.contract.inputs]
    has_target = labelled is not None and TARGET in labelled.arrays
    packing = Packing(
        positions=pools[0].labels.shape[1:],
        target=labelled.arrays[TARGET] if labelled is not None and has_target else None,
    )
    with DatasetWriter(folder) as writer:
        if labelled is not None:
            none = np.full((labelled.count, *packing.positions), IGNORED_LABEL, np.int32)
            once = np.ones(labelled.count, np.int64)
            whole = Pool(dataset=labelled, labels=none, times=once)
            _copy(whole, [*names, TARGET] if has_target else names, _LABELLED, packing, writer)
        for pool in pools:
            _copy(pool, names, _UNLABELLED, packing, writer)
        return Lessons(dataset=writer.close(), has_labels=labelled is not None, packing=packing)


def _copy(pool: Pool, names: list[str], kind: int, packing: Packing, writer: DatasetWriter) -> None:
    order = torch.from_numpy(np.repeat(np.arange(pool.dataset.count), pool.times))
    with Rows(pool.dataset, names) as rows:
        for part in torch.split(order, _ROWS_AT_ONCE):
            found = {name: value.numpy() for name, value in rows.take(part).items()}
            for place, index in enumerate(part.tolist()):
                row: Mapping[str, Any] = {name: value[place] for name, value in found.items()}
                own = row.get(TARGET) if kind == _LABELLED else None
                packed = packing.pack(kind, pool.labels[index], own)
                inputs = {name: row[name] for name in names if name != TARGET}
                writer.append(inputs | {TARGET: packed})


def _read(content: Tensor, dtype: torch.dtype) -> Tensor:
    # A copy begins where its type may begin; a view into a row might not.
    return content.clone(memory_format=torch.contiguous_format).view(dtype)


def _device(batch: Batch) -> torch.device:
    return next(iter(batch.inputs.values())).device
