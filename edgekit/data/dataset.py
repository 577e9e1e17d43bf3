"""Samples on disk: a folder of ``meta.json`` and one file of raw rows for every named array.

Rows are in C order and little-endian, one after another, so any language can read them. Reading
and writing stream: memory does not grow with the number of samples. ``meta.json`` is written
last, so a folder without it was never finished.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import OutputError, WorkloadError
from edgekit.data.dataset_meta import (
    KINDS,
    META,
    SCHEMA,
    ArraySpec,
    Choices,
    Meta,
    array_file,
    on_disk,
    read_meta,
    write_meta,
)

__all__ = [
    "META",
    "SCHEMA",
    "TARGET",
    "ArraySpec",
    "Choices",
    "Dataset",
    "DatasetWriter",
    "add_choices",
    "hash_sample",
    "open_dataset",
]

Array = NDArray[Any]
Sample = Mapping[str, Array]

TARGET = "target"


class Hash(Protocol):
    """What ``hashlib`` gives, as far as it is used here."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A finished dataset folder.

    arrays: input names, "target" for labels, or output names. digest: sha256 over the samples in
    order: names, dtypes, shapes and bytes. choices: the array that every sample is met with every
    row of, where there is one; ``count`` counts each meeting.
    """

    path: Path
    count: int
    digest: str
    arrays: Mapping[str, ArraySpec]
    choices: Choices | None = None

    @property
    def repeats(self) -> int:
        """How many samples in a row differ in their choice alone."""
        return 1 if self.choices is None else self.choices.rows

    def without_choices(self) -> "Dataset":
        """The samples themselves, each once."""
        if self.choices is None:
            return self
        arrays = {name: spec for name, spec in self.arrays.items() if name != self.choices.name}
        return Dataset(
            path=self.path,
            count=self.count // self.choices.rows,
            digest=self.choices.digest,
            arrays=arrays,
        )

    def batches(
        self, size: int, names: Iterable[str] | None = None
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Arrays by name, ``size`` samples at a time (the last batch may be smaller).

        Each array is a fresh copy: changing it changes nothing on disk.
        Shapes: (at most size, *shape of one sample).
        Raises: WorkloadError for a name that is not there, a size below 1, a file cut short.
        """
        if size < 1:
            raise WorkloadError(f"batch size is {size}; it must be 1 or more")
        chosen = self._chosen(names)
        if self.choices is not None:
            yield from self._met(size, chosen, self.choices)
            return
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(array_file(self.path, name).open("rb")) for name in chosen
            }
            for start in range(0, self.count, size):
                rows = min(size, self.count - start)
                yield {name: self._read(files[name], name, rows) for name in chosen}

    def sample(self, index: int) -> dict[str, NDArray[Any]]:
        """One sample, without a batch axis.

        Raises: WorkloadError when there is no sample with this index.
        """
        if not 0 <= index < self.count:
            raise WorkloadError(f"{self.path.name}: no sample {index}; there are {self.count}")
        found = {}
        for name, spec in self.arrays.items():
            is_choice = self.choices is not None and name == self.choices.name
            row = index % self.repeats if is_choice else index // self.repeats
            with array_file(self.path, name).open("rb") as file:
                file.seek(row * spec.row_bytes)
                found[name] = self._read(file, name, 1)[0]
        return found

    def file(self, name: str) -> Path:
        """The file of one array: ``count`` rows as ``arrays`` describes them, little-endian.

        Raises: WorkloadError for a name that is not there, and for a set with choices, whose files
        are shorter.
        """
        if self.choices is not None:
            raise WorkloadError(
                f"{self.path.name}: every sample is met with {self.repeats} rows of "
                f"'{self.choices.name}'; its files are read by batches() alone"
            )
        return array_file(self.path, *self._chosen([name]))

    def verify(self) -> None:
        """Read everything once and compare it with the digest.

        Raises: WorkloadError when the content is not what was written.
        """
        content = hashlib.sha256()
        for batch in self.without_choices().batches(1):
            hash_sample(content, {name: rows[0] for name, rows in batch.items()})
        found = content.hexdigest()
        if self.choices is not None:
            found = _digest_with(found, self.choices.name, self._rows_of(self.choices))
        if found != self.digest:
            raise WorkloadError(
                f"{self.path}: the samples were changed after they were written (sha256 "
                f"{found[:12]}, expected {self.digest[:12]}); write the dataset again"
            )

    def _met(
        self, size: int, chosen: list[str], choices: Choices
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Batches of samples with their choices; a sample is held until it has met all rows."""
        # One array is read in any case: it says when the next sample comes.
        names = [name for name in chosen if name != choices.name]
        alone = self.without_choices()
        samples = alone.batches(1, names or list(alone.arrays)[:1])
        rows, held = self._rows_of(choices), dict[str, Array]()
        for start in range(0, self.count, size):
            parts = []
            for number in range(start, min(start + size, self.count)):
                row = number % choices.rows
                if row == 0:
                    held = next(samples)
                parts.append({**held, choices.name: rows[row : row + 1]})
            yield {name: np.concatenate([part[name] for part in parts]) for name in chosen}

    def _rows_of(self, choices: Choices) -> Array:
        with array_file(self.path, choices.name).open("rb") as file:
            return self._read(file, choices.name, choices.rows)

    def _chosen(self, names: Iterable[str] | None) -> list[str]:
        chosen = list(self.arrays if names is None else names)
        for name in chosen:
            if name not in self.arrays:
                there = ", ".join(self.arrays)
                raise WorkloadError(f"{self.path.name}: no array '{name}'; there are: {there}")
        return chosen

    def _read(self, file: IO[bytes], name: str, rows: int) -> Array:
        spec = self.arrays[name]
        wanted = rows * spec.row_bytes
        content = bytearray(file.read(wanted))
        if len(content) != wanted:
            raise WorkloadError(
                f"{array_file(self.path, name)}: the file was cut short while in use"
            )
        flat = np.frombuffer(content, on_disk(spec.dtype))
        return flat.astype(spec.dtype, copy=False).reshape(rows, *spec.shape)


class DatasetWriter:
    """Writes a dataset folder one sample at a time; use it in a ``with`` block.

    The first sample sets names, dtypes and shapes; all others must agree. Leaving the block by an
    error leaves no ``meta.json``, so nobody takes the folder for a dataset.
    Raises: OutputError when the folder holds a dataset already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._arrays: dict[str, ArraySpec] = {}
        self._files: dict[str, IO[bytes]] = {}
        self._digest = hashlib.sha256()
        path.mkdir(parents=True, exist_ok=True)
        if (path / META).exists():
            raise OutputError(f"{path} holds a dataset already; write to an empty folder")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._close_files()

    def append(self, sample: Sample) -> None:
        """Write one sample: arrays by name, without a batch axis.

        Raises: WorkloadError when it differs in names, dtypes or shapes from the first one.
        """
        arrays = {name: _stored(name, value) for name, value in sample.items()}
        specs = {
            name: ArraySpec(dtype=value.dtype.name, shape=value.shape)
            for name, value in arrays.items()
        }
        if not self._files:
            self._start(specs)
        self._expect(specs)
        for name, value in arrays.items():
            self._files[name].write(value.astype(on_disk(value.dtype), copy=False).tobytes())
        hash_sample(self._digest, arrays)
        self.count += 1

    def close(self) -> Dataset:
        """Finish the dataset: ``meta.json`` appears, in one move.

        Raises: WorkloadError when no sample was written.
        """
        self._close_files()
        if not self.count:
            raise WorkloadError(f"{self.path.name}: no samples were given; at least 1 is needed")
        meta = Meta(
            schema=SCHEMA, count=self.count, arrays=self._arrays, digest=self._digest.hexdigest()
        )
        write_meta(self.path, meta)
        return open_dataset(self.path)

    def _start(self, specs: dict[str, ArraySpec]) -> None:
        if not specs:
            raise WorkloadError(f"{self.path.name}: sample 0 has no arrays")
        self._arrays = specs
        self._files = {name: array_file(self.path, name).open("wb") for name in specs}

    def _expect(self, specs: dict[str, ArraySpec]) -> None:
        if specs == self._arrays:
            return
        if set(specs) != set(self._arrays):
            raise WorkloadError(
                f"{self.path.name}: sample {self.count} has {', '.join(sorted(specs))}; "
                f"sample 0 had {', '.join(sorted(self._arrays))}"
            )
        name = next(name for name in specs if specs[name] != self._arrays[name])
        got, wanted = specs[name], self._arrays[name]
        raise WorkloadError(
            f"{self.path.name}: '{name}' of sample {self.count} is {got.dtype} "
            f"{list(got.shape)}; that of sample 0 is {wanted.dtype} {list(wanted.shape)}, "
            "and all samples of a set must agree"
        )

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()


def add_choices(path: Path, name: str, rows: Array) -> Dataset:
    """The dataset in a folder with one more array, of which every sample meets every row.

    Nothing is written but the rows themselves, however many samples there are.
    Shapes: rows (choices, *shape of one).
    Raises: WorkloadError for a name that is taken, and for a dataset that has choices already.
    """
    dataset = open_dataset(path)
    if dataset.choices is not None or name in dataset.arrays:
        raise WorkloadError(f"{path.name}: '{name}' cannot be added; there are choices, or arrays")
    stored = _stored(name, rows)
    array_file(path, name).write_bytes(stored.astype(on_disk(stored.dtype), copy=False).tobytes())
    spec = ArraySpec(dtype=stored.dtype.name, shape=stored.shape[1:])
    write_meta(
        path,
        Meta(
            schema=SCHEMA,
            count=dataset.count * len(stored),
            arrays={**dataset.arrays, name: spec},
            digest=_digest_with(dataset.digest, name, stored),
            choices=Choices(name=name, rows=len(stored), digest=dataset.digest),
        ),
    )
    return open_dataset(path)


def _digest_with(digest: str, name: str, rows: Array) -> str:
    content = hashlib.sha256(digest.encode())
    hash_sample(content, {name: rows})
    return content.hexdigest()


def open_dataset(path: Path) -> Dataset:
    """The dataset in a folder, after its description and the sizes of its files were checked.

    Raises: WorkloadError when the folder is no dataset, was not finished, or does not add up.
    """
    meta = read_meta(path)
    return Dataset(
        path=path,
        count=meta.count,
        digest=meta.digest,
        arrays=meta.arrays,
        choices=meta.choices,
    )


def hash_sample(digest: Hash, sample: Sample) -> None:
    """Feed one sample to a hash: name, dtype, shape and bytes of each array, sorted by name.

    What varies in length goes in with its length, so two samples never run into each other.
    """
    for name in sorted(sample):
        value = sample[name]
        head = f"{len(name)}:{name}|{value.dtype.name}|{list(value.shape)}|"
        digest.update(head.encode())
        digest.update(np.ascontiguousarray(value, on_disk(value.dtype)).tobytes())


def _stored(name: str, value: Array) -> Array:
    if value.dtype.kind not in KINDS or value.size == 0:
        raise WorkloadError(
            f"'{name}' is {value.dtype} {list(value.shape)}; a dataset stores booleans, integers "
            "and floats, at least one element a sample"
        )
    return value
