"""Samples on disk: a folder of ``meta.json`` and one file of raw rows for every named array.

Rows are in C order and little-endian, one after another, so any language can read them. Reading
and writing stream: memory does not grow with the number of samples. ``meta.json`` is written
last, so a folder without it was never finished.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from edgekit.core.codec import canonical_json, from_plain
from edgekit.core.errors import OutputError, WorkloadError

Array = NDArray[Any]
Sample = Mapping[str, Array]

SCHEMA = 1
META = "meta.json"
TARGET = "target"
_KINDS = "biuf"


class Hash(Protocol):
    """What ``hashlib`` gives, as far as it is used here."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """One named array of a dataset; ``shape`` is that of one sample."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meta:
    schema: int
    count: int
    arrays: dict[str, ArraySpec]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A finished dataset folder.

    arrays: input names, "target" for labels, or output names. digest: sha256 over the samples in
    order: names, dtypes, shapes and bytes.
    """

    path: Path
    count: int
    digest: str
    arrays: Mapping[str, ArraySpec]

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
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(_file(self.path, name).open("rb")) for name in chosen
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
            with _file(self.path, name).open("rb") as file:
                file.seek(index * spec.row_bytes)
                found[name] = self._read(file, name, 1)[0]
        return found

    def file(self, name: str) -> Path:
        """The file of one array: ``count`` rows as ``arrays`` describes them, little-endian.

        Raises: WorkloadError for a name that is not there.
        """
        return _file(self.path, *self._chosen([name]))

    def verify(self) -> None:
        """Read everything once and compare it with the digest.

        Raises: WorkloadError when the content is not what was written.
        """
        content = hashlib.sha256()
        for batch in self.batches(1):
            hash_sample(content, {name: rows[0] for name, rows in batch.items()})
        if content.hexdigest() != self.digest:
            raise WorkloadError(
                f"{self.path}: the samples were changed after they were written (sha256 "
                f"{content.hexdigest()[:12]}, expected {self.digest[:12]}); write the dataset again"
            )

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
            raise WorkloadError(f"{_file(self.path, name)}: the file was cut short while in use")
        flat = np.frombuffer(content, _on_disk(spec.dtype))
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
            self._files[name].write(value.astype(_on_disk(value.dtype), copy=False).tobytes())
        hash_sample(self._digest, arrays)
        self.count += 1

    def close(self) -> Dataset:
        """Finish the dataset: ``meta.json`` appears, in one move.

        Raises: WorkloadError when no sample was written.
        """
        self._close_files()
        if not self.count:
            raise WorkloadError(f"{self.path.name}: no samples were given; at least 1 is needed")
        meta = _Meta(
            schema=SCHEMA, count=self.count, arrays=self._arrays, digest=self._digest.hexdigest()
        )
        unfinished = self.path / (META + ".part")
        unfinished.write_bytes(canonical_json(meta))
        unfinished.replace(self.path / META)
        return open_dataset(self.path)

    def _start(self, specs: dict[str, ArraySpec]) -> None:
        if not specs:
            raise WorkloadError(f"{self.path.name}: sample 0 has no arrays")
        self._arrays = specs
        self._files = {name: _file(self.path, name).open("wb") for name in specs}

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


def open_dataset(path: Path) -> Dataset:
    """The dataset in a folder, after its description and the sizes of its files were checked.

    Raises: WorkloadError when the folder is no dataset, was not finished, or does not add up.
    """
    meta = _read_meta(path)
    if meta.schema != SCHEMA:
        raise WorkloadError(f"{path / META}: schema {meta.schema} is not known; expected {SCHEMA}")
    if meta.count < 1 or not meta.arrays:
        raise WorkloadError(f"{path / META}: a dataset holds at least one sample and one array")
    for name, spec in meta.arrays.items():
        _check_spec(path, name, spec)
        wanted, file = meta.count * spec.row_bytes, _file(path, name)
        found = file.stat().st_size if file.is_file() else -1
        if found != wanted:
            there = "is missing" if found < 0 else f"has {found} bytes"
            raise WorkloadError(
                f"{file}: the file {there}; {meta.count} samples of {spec.row_bytes} bytes are "
                f"{wanted}; write the dataset again"
            )
    return Dataset(path=path, count=meta.count, digest=meta.digest, arrays=meta.arrays)


def hash_sample(digest: Hash, sample: Sample) -> None:
    """Feed one sample to a hash: name, dtype, shape and bytes of each array, sorted by name.

    What varies in length goes in with its length, so two samples never run into each other.
    """
    for name in sorted(sample):
        value = sample[name]
        head = f"{len(name)}:{name}|{value.dtype.name}|{list(value.shape)}|"
        digest.update(head.encode())
        digest.update(np.ascontiguousarray(value, _on_disk(value.dtype)).tobytes())


def _read_meta(path: Path) -> _Meta:
    file = path / META
    try:
        plain = json.loads(file.read_bytes())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WorkloadError(f"{path} is no finished dataset: {META}: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise WorkloadError(f"{file}: not JSON: {error}") from error
    return from_plain(_Meta, plain, where=str(file), error=WorkloadError)


def _check_spec(path: Path, name: str, spec: ArraySpec) -> None:
    try:
        is_known = np.dtype(spec.dtype).kind in _KINDS
    except TypeError:
        is_known = False
    if not is_known or any(length < 1 for length in spec.shape):
        raise WorkloadError(
            f"{path / META}: array '{name}' is {spec.dtype} {list(spec.shape)}; the dtype must be "
            "a boolean, integer or float type and every length 1 or more"
        )


def _stored(name: str, value: Array) -> Array:
    if value.dtype.kind not in _KINDS or value.size == 0:
        raise WorkloadError(
            f"'{name}' is {value.dtype} {list(value.shape)}; a dataset stores booleans, integers "
            "and floats, at least one element a sample"
        )
    return value


def _on_disk(dtype: str | np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _file(path: Path, name: str) -> Path:
    # A contract's name may hold any character ("a/b:0"): quoted, it stays one file in this folder.
    return path / (quote(name, safe="") + ".bin")
