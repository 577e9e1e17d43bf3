"""Training data batch by batch: each epoch in an order of its own, rows read from disk as needed.

Everything random is drawn from a generator that is seeded by the seed of the build, the epoch and
the batch. So a batch is the same whether training came to it in one go or after a kill, and no
generator's state needs to be kept.
"""

import hashlib
import mmap
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from edgekit.compress.bench import Batch, Bench
from edgekit.core.errors import StepError
from edgekit.data.dataset import TARGET, Dataset

# Pages of mapped files count as memory of the process until they are let go.
_RESIDENT_BYTES = 64 * 2**20


def stream_seed(seed: int, *parts: str | int) -> int:
    """A seed of its own for one purpose, from the seed of the build.

    Units: 0..2**63 - 1.
    """
    text = "/".join(str(part) for part in (seed, *parts))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stream(seed: int, *parts: str | int) -> torch.Generator:
    """A generator on the CPU that is seeded by ``stream_seed``."""
    return torch.Generator().manual_seed(stream_seed(seed, *parts))


def epoch_order(count: int, *, seed: int, epoch: int) -> Tensor:
    """The order of the samples in one epoch (counted from 0): a permutation.

    Shapes: (count,), int64.
    """
    return torch.randperm(count, generator=stream(seed, "order", epoch))


def split_batches(order: Tensor, size: int) -> list[Tensor]:
    """An order cut into batches; a last one of a single sample joins the one before it.

    A batch norm layer has no variance to learn from a single sample, and torch refuses it.
    """
    parts = list(torch.split(order, size))
    if size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        last = parts.pop()
        parts[-1] = torch.cat([parts[-1], last])
    return parts


class Rows:
    """Samples of a dataset in any order, read through mapped files; use it in a ``with`` block.

    Memory stays flat: what was read is let go now and then, however large the files are.
    """

    def __init__(self, dataset: Dataset, names: Iterable[str]) -> None:
        """names: the arrays to read.

        Raises: WorkloadError for a name that is not in the dataset.
        """
        self._arrays = {name: _mapped(dataset, name) for name in names}
        self._dtypes = {name: dataset.arrays[name].dtype for name in self._arrays}
        self._touched_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._arrays.clear()

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """The samples with these numbers, by array name; each a fresh copy.

        Shapes: indices (n,) -> (n, *shape of one sample).
        """
        picked = indices.numpy()
        found = {
            name: torch.from_numpy(np.asarray(array[picked]).astype(self._dtypes[name], copy=False))
            for name, array in self._arrays.items()
        }
        self._let_go_of(len(picked))
        return found

    def _let_go_of(self, rows: int) -> None:
        # At least a page is mapped for each row that is touched, however small the row.
        self._touched_bytes += sum(
            rows * max(array[:1].nbytes, mmap.PAGESIZE) for array in self._arrays.values()
        )
        if self._touched_bytes > _RESIDENT_BYTES:
            for array in self._arrays.values():
                _release(array)
            self._touched_bytes = 0


class Batches:
    """The training data of a bench: an iteration is one epoch of augmented batches on the device.

    Every epoch has its own order, drawn from the seed. ``len()`` is the number of batches an epoch.
    """

    def __init__(self, bench: Bench, batch_size: int, *, name: str = "train") -> None:
        """name: of the training, so that two trainings of one build see different orders.

        Raises: StepError where there are no training data.
        """
        if bench.training is None:
            raise StepError(
                f"{name}: there are no training data; give the workload 'training' samples, or "
                "leave out the steps that train"
            )
        self._bench = bench
        self.seed, self.size = stream_seed(bench.seed, name), batch_size
        self.dataset = bench.training
        self._inputs = [item.name for item in bench.contract.inputs]
        self._next_epoch = 0

        parts = split_batches(torch.arange(self.dataset.count), self.size)
        self._count, self.smallest = len(parts), min(len(part) for part in parts)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        """The next epoch."""
        epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        return self.epoch(epoch)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch (counted from 0), from number ``start`` on."""
        order = epoch_order(self.dataset.count, seed=self.seed, epoch=epoch)
        names = [*self._inputs, TARGET] if TARGET in self.dataset.arrays else self._inputs
        with Rows(self.dataset, names) as rows:
            parts = split_batches(order, self.size)
            for number in range(start, len(parts)):
                yield self._batch(rows.take(parts[number]), epoch, number)

    def _batch(self, found: dict[str, Tensor], epoch: int, number: int) -> Batch:
        target = found.pop(TARGET, None)
        if self._bench.augment is not None:
            draws = stream(self.seed, "augment", epoch, number)
            found = self._bench.augment(found, draws)
        device = self._bench.device
        return Batch(
            inputs={name: value.to(device) for name, value in found.items()},
            target=None if target is None else target.to(device),
        )


def _mapped(dataset: Dataset, name: str) -> "np.memmap[Any, Any]":
    file = dataset.file(name)
    spec = dataset.arrays[name]
    dtype = np.dtype(spec.dtype).newbyteorder("<")
    return np.memmap(file, dtype, mode="r", shape=(dataset.count, *spec.shape))


def _release(array: "np.memmap[Any, Any]") -> None:
    mapped = array._mmap  # type: ignore[attr-defined]  # noqa: SLF001 -- numpy has no other way
    if hasattr(mapped, "madvise"):  # not on every system
        mapped.madvise(mmap.MADV_DONTNEED)
