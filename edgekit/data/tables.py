"""Samples that lie in one file: a CSV of features or an npz of arrays; and labels in a CSV."""

import csv
import hashlib
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.contract import InputKind
from edgekit.core.errors import WorkloadError
from edgekit.data.dataset import TARGET

_X_NAMES = ("x", "X", "images", "data", "inputs")
_Y_NAMES = (TARGET, "y", "Y", "labels", "label", "targets")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSource:
    """All samples of one place: how many, their digests, and how to get one."""

    origin: str
    digests: list[bytes]
    item: Callable[[int], Any]
    labels: tuple[str, ...] = ()
    has_target: bool = False


def only_input(inputs: Mapping[str, InputKind], origin: str) -> InputKind:
    """The input of a model that has one.

    Raises: WorkloadError for a model with several.
    """
    if len(inputs) != 1:
        raise WorkloadError(
            f"{origin}: the model has {len(inputs)} inputs ({', '.join(inputs)}); for several, "
            "give an npz with one array a name"
        )
    return next(iter(inputs.values()))


def read_csv(path: Path, labels: Path | None, inputs: Mapping[str, InputKind]) -> SampleSource:
    """Rows of features; a column more than the model has features holds the label.

    ``labels`` may have one a line instead.

    Raises: WorkloadError.
    """
    source = only_input(inputs, str(path))
    rows = list(read_rows(path))
    width = math.prod(source.element_shape)
    has_label = bool(rows) and labels is None and len(rows[-1]) == width + 1
    features = _numbers(_body(rows, has_label=has_label), path, source)
    targets: NDArray[Any] | None = None
    names: tuple[str, ...] = ()
    if labels is not None:
        targets, names = as_targets(_label_column(labels, len(features)), str(labels))
    elif has_label:
        last = [row[-1] for row in rows[len(rows) - len(features) :]]
        targets, names = as_targets(last, str(path))
    return _array_source(path, {next(iter(inputs)): features}, targets, names)


def _body(rows: list[list[str]], *, has_label: bool) -> list[list[str]]:
    """The features without the label column and without a first line of column names."""
    features = [row[:-1] if has_label else row for row in rows]
    is_header = bool(features) and not all(_is_number(cell) for cell in features[0])
    return features[1:] if is_header else features


def _numbers(rows: list[list[str]], path: Path, source: InputKind) -> NDArray[Any]:
    if not rows:
        raise WorkloadError(f"{path}: no rows of features in it")
    wanted = math.prod(source.element_shape)
    for number, row in enumerate(rows, 1):
        if len(row) != wanted:
            raise WorkloadError(
                f"{path}, row {number}: {len(row)} features; the model wants {wanted} "
                f"({list(source.element_shape)}), and one column more may hold the label"
            )
    try:
        table = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise WorkloadError(f"{path}: a feature is no number: {error}") from error
    typed = table.astype(source.dtype)
    if typed.dtype.kind != "f" and not np.array_equal(typed, table):
        raise WorkloadError(f"{path}: features are not all {source.dtype}")
    return typed.reshape(len(rows), *source.element_shape)


def _label_column(labels: Path, count: int) -> list[str]:
    rows = list(read_rows(labels))
    # A title is one line more than there are samples.
    column = [row[-1] for row in rows[len(rows) - count :]] if len(rows) - count in (0, 1) else []
    if len(column) != count:
        raise WorkloadError(f"{labels}: {len(rows)} lines for {count} samples; one label a line")
    return column


def read_rows(path: Path) -> Iterator[list[str]]:
    """The rows of a CSV file, empty lines left out, cells without space around them.

    Raises: WorkloadError.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from ([cell.strip() for cell in row] for row in csv.reader(file) if row)
    except (OSError, ValueError, csv.Error) as error:
        raise WorkloadError(f"{path}: not a readable CSV file: {error}") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def as_targets(labels: list[str], origin: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Labels as whole numbers, fractions, or numbers of the sorted class names.

    Raises: WorkloadError for an empty label.
    """
    if "" in labels:
        raise WorkloadError(f"{origin}: label {labels.index('') + 1} is empty")
    if all(label.lstrip("-").isdecimal() for label in labels):
        return np.array([int(label) for label in labels], dtype=np.int64), ()
    if all(_is_number(label) for label in labels):
        return np.array([float(label) for label in labels], dtype=np.float32), ()
    names = tuple(sorted(set(labels)))
    numbers = {name: number for number, name in enumerate(names)}
    return np.array([numbers[label] for label in labels], dtype=np.int64), names


def read_npz(path: Path, labels: Path | None, inputs: Mapping[str, InputKind]) -> SampleSource:
    """Arrays by input name (or "x") and targets under "target" (or "y"), or in ``labels``.

    Raises: WorkloadError.
    """
    arrays = _load_npz(path)
    chosen = {name: _array_for(name, arrays, inputs, path) for name in inputs}
    counts = {name: len(array) for name, array in chosen.items()}
    count = next(iter(counts.values()))
    if set(counts.values()) != {count}:
        raise WorkloadError(f"{path}: arrays of different length: {counts}")
    names: tuple[str, ...] = ()
    targets = next((arrays[name] for name in _Y_NAMES if name in arrays), None)
    if labels is not None:
        targets, names = as_targets(_label_column(labels, count), str(labels))
    if targets is not None and (targets.ndim == 0 or len(targets) != count):
        raise WorkloadError(f"{path}: targets of shape {list(targets.shape)} for {count} samples")
    return _array_source(path, chosen, targets, names)


def _load_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise WorkloadError(f"{path}: not a readable npz of plain arrays: {error}") from error


def _array_for(
    name: str, arrays: Mapping[str, NDArray[Any]], inputs: Mapping[str, InputKind], path: Path
) -> NDArray[Any]:
    allowed = (name, *_X_NAMES) if len(inputs) == 1 else (name,)
    found = next((arrays[key] for key in allowed if key in arrays), None)
    if found is None or found.ndim == 0:
        raise WorkloadError(
            f"{path}: no array for input '{name}'; it holds {', '.join(arrays) or 'nothing'}, and "
            f"one of {', '.join(allowed)} is wanted"
        )
    return found


def _array_source(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    targets: NDArray[Any] | None,
    names: tuple[str, ...],
) -> SampleSource:
    def item(index: int) -> Any:
        sample = {name: array[index] for name, array in arrays.items()}
        return sample if targets is None else {**sample, TARGET: targets[index]}

    count = len(next(iter(arrays.values())))
    return SampleSource(
        origin=str(path),
        digests=[_row_digest(arrays, index) for index in range(count)],
        item=item,
        labels=names,
        has_target=targets is not None,
    )


def _row_digest(arrays: Mapping[str, NDArray[Any]], index: int) -> bytes:
    rows = (np.ascontiguousarray(array[index]).tobytes() for array in arrays.values())
    return hashlib.sha256(b"".join(rows)).digest()
