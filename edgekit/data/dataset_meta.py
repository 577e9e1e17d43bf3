"""How a dataset lies in its folder: its description ``meta.json``, and the file of each array."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from edgekit.core.codec import canonical_json, from_plain
from edgekit.core.errors import WorkloadError

SCHEMA = 1
META = "meta.json"
KINDS = "biuf"


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
class Choices:
    """One more array, of which every sample is met with every row, one after the other.

    The file of the array holds ``rows`` rows; samples 0 to rows - 1 differ in this array alone.
    digest: of the samples without it.
    """

    name: str
    rows: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What ``meta.json`` holds."""

    schema: int
    count: int
    arrays: dict[str, ArraySpec]
    digest: str
    choices: Choices | None = None


def read_meta(path: Path) -> Meta:
    """The description of a finished dataset, after it and the sizes of the files were checked.

    Raises: WorkloadError when the folder is no dataset, was not finished, or does not add up.
    """
    meta = _parse(path)
    if meta.schema != SCHEMA:
        raise WorkloadError(f"{path / META}: schema {meta.schema} is not known; expected {SCHEMA}")
    if meta.count < 1 or not meta.arrays:
        raise WorkloadError(f"{path / META}: a dataset holds at least one sample and one array")
    _check_choices(path, meta)
    for name, spec in meta.arrays.items():
        _check_spec(path, name, spec)
        _check_size(path, name, spec, _rows_in_file(meta, name))
    return meta


def write_meta(path: Path, meta: Meta) -> None:
    """Write the description, in one move."""
    unfinished = path / (META + ".part")
    unfinished.write_bytes(canonical_json(meta))
    unfinished.replace(path / META)


def array_file(path: Path, name: str) -> Path:
    """The file of one array in a dataset's folder."""
    # A contract's name may hold any character ("a/b:0"): quoted, it stays one file in this folder.
    return path / (quote(name, safe="") + ".bin")


def on_disk(dtype: str | np.dtype[Any]) -> np.dtype[Any]:
    """A dtype as it is stored: little-endian."""
    return np.dtype(dtype).newbyteorder("<")


def _parse(path: Path) -> Meta:
    file = path / META
    try:
        plain = json.loads(file.read_bytes())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WorkloadError(f"{path} is no finished dataset: {META}: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise WorkloadError(f"{file}: not JSON: {error}") from error
    return from_plain(Meta, plain, where=str(file), error=WorkloadError)


def _check_spec(path: Path, name: str, spec: ArraySpec) -> None:
    try:
        is_known = np.dtype(spec.dtype).kind in KINDS
    except TypeError:
        is_known = False
    if not is_known or any(length < 1 for length in spec.shape):
        raise WorkloadError(
            f"{path / META}: array '{name}' is {spec.dtype} {list(spec.shape)}; the dtype must be "
            "a boolean, integer or float type and every length 1 or more"
        )


def _check_choices(path: Path, meta: Meta) -> None:
    choices = meta.choices
    if choices is None:
        return
    if choices.rows < 1 or meta.count % choices.rows or choices.name not in meta.arrays:
        raise WorkloadError(
            f"{path / META}: {meta.count} samples with {choices.rows} rows of '{choices.name}' do "
            "not add up; write the dataset again"
        )


def _rows_in_file(meta: Meta, name: str) -> int:
    if meta.choices is None:
        return meta.count
    return meta.choices.rows if name == meta.choices.name else meta.count // meta.choices.rows


def _check_size(path: Path, name: str, spec: ArraySpec, rows: int) -> None:
    wanted, file = rows * spec.row_bytes, array_file(path, name)
    found = file.stat().st_size if file.is_file() else -1
    if found != wanted:
        there = "is missing" if found < 0 else f"has {found} bytes"
        raise WorkloadError(
            f"{file}: the file {there}; {rows} samples of {spec.row_bytes} bytes are {wanted}; "
            "write the dataset again"
        )
