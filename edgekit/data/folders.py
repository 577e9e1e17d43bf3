"""Data that lie in files: a folder of samples, a CSV of features, or an npz of arrays.

For model files that bring no workload (``--data DIR [--labels FILE]``). A part of the samples is
set aside for calibration and the rest judges; which is which follows from each sample's content
and a seed, so it is the same everywhere, and equal samples always fall on the same side.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.contract import Audio, Image, InputKind, Text
from edgekit.core.errors import WorkloadError
from edgekit.data.tables import (
    SampleSource,
    as_targets,
    only_input,
    read_csv,
    read_npz,
    read_rows,
)

CALIBRATION_SHARE = 0.2
MAX_CALIBRATION = 512

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".npy")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".npy")
TEXT_SUFFIXES = (".txt",)
TENSOR_SUFFIXES = (".npy",)
TABLE_SUFFIXES = (".csv", ".npz")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSet:
    """Some of the samples of a place, read one by one each time that it is iterated."""

    indices: tuple[int, ...]
    item: Callable[[int], Any]

    def __iter__(self) -> Iterator[Any]:
        """Items as ``iterate_samples`` takes them."""
        return (self.item(index) for index in self.indices)

    def __len__(self) -> int:
        """How many samples."""
        return len(self.indices)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderData:
    """What ``read_folder`` found. labels: class names in order, empty where there are none."""

    calibration: FileSet
    evaluation: FileSet
    labels: tuple[str, ...]
    has_target: bool


def read_folder(
    data: Path, labels: Path | None, inputs: Mapping[str, InputKind], *, seed: int = 0
) -> FolderData:
    """Calibration and evaluation samples from files.

    data: a folder with one subfolder a class; a folder of files, with a CSV ``file,label`` in
    ``labels``; a CSV of features, a row a sample, with the label in one column
    more or in ``labels``, one a line; or an npz with arrays by input name (or "x") and "target"
    (or "y").
    A folder that holds one CSV or npz and nothing else stands for it.
    Raises: WorkloadError for what cannot be read, or fewer than two different samples.
    """
    place = place_of(data)
    if place.suffix == ".npz":
        source = read_npz(place, labels, inputs)
    elif place.suffix == ".csv":
        source = read_csv(place, labels, inputs)
    elif place.is_dir():
        source = _read_files(place, labels, inputs)
    else:
        raise WorkloadError(f"{data}: data are a folder, a .csv or a .npz, not '{place.suffix}'")
    is_calibration = _split(source, seed)
    calibration = tuple(int(index) for index in np.flatnonzero(is_calibration))
    evaluation = tuple(int(index) for index in np.flatnonzero(~is_calibration))
    return FolderData(
        calibration=FileSet(indices=calibration, item=source.item),
        evaluation=FileSet(indices=evaluation, item=source.item),
        labels=source.labels,
        has_target=source.has_target,
    )


def place_of(data: Path) -> Path:
    """Where the samples are: the CSV or npz that a folder holds alone, else ``data`` itself.

    Raises: WorkloadError where there is nothing, or a folder holds a table and something else.
    """
    if not data.exists():
        raise WorkloadError(f"{data}: no such file or folder")
    inside = _visible(data) if data.is_dir() else []
    tables = [path for path in inside if path.suffix in TABLE_SUFFIXES]
    if not tables:
        return data
    if len(inside) > 1:
        other = next(path for path in inside if path != tables[0])
        raise WorkloadError(
            f"{data}: '{tables[0].name}' lies beside '{other.name}'; a folder of data holds "
            f"samples, or one .csv or .npz and nothing else: give {tables[0]} itself, or move it "
            "out (labels are given with --labels)"
        )
    return tables[0]


def _split(source: SampleSource, seed: int) -> NDArray[np.bool_]:
    count = len(source.digests)
    keys = [hashlib.sha256(b"%d:" % seed + digest).digest() for digest in source.digests]
    wanted = min(max(1, round(count * CALIBRATION_SHARE)), MAX_CALIBRATION)
    # By rank of the hash, ties included: equal samples have equal hashes and stay together.
    border = sorted(keys)[wanted - 1] if keys else b""
    is_calibration = np.array([key <= border for key in keys], dtype=bool)
    if is_calibration.all():
        raise WorkloadError(
            f"{source.origin}: {count} samples with {len(set(keys))} different ones; at least 2 "
            "different ones are needed, to calibrate on one part and judge on the other"
        )
    return is_calibration


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _read_files(folder: Path, labels: Path | None, inputs: Mapping[str, InputKind]) -> SampleSource:
    suffixes = _suffixes(only_input(inputs, str(folder)))
    classes = [path for path in _visible(folder) if path.is_dir()]
    if classes and labels is None:
        return _read_classes(folder, sorted(classes, key=_class_order), suffixes)
    files = _files_in(folder, suffixes)
    if labels is None:
        return _file_source(folder, files, None, ())
    targets, names = as_targets(_labels_by_file(labels, folder, files), str(labels))
    return _file_source(folder, files, targets, names)


def _read_classes(folder: Path, classes: list[Path], suffixes: Sequence[str]) -> SampleSource:
    loose = [path.name for path in _visible(folder) if path.is_file()]
    if loose:
        raise WorkloadError(
            f"{folder}: '{loose[0]}' lies beside class folders; put every sample into a class, or "
            "give --labels FILE for a flat folder"
        )
    files, targets = [], []
    for number, path in enumerate(classes):
        found = _files_in(path, suffixes)
        files += found
        targets += [number] * len(found)
    names = tuple(path.name for path in classes)
    return _file_source(folder, files, np.array(targets, dtype=np.int64), names)


def _class_order(path: Path) -> tuple[int, int, str]:
    """Numbers by value, before names by letter."""
    return (0, int(path.name), "") if path.name.isdecimal() else (1, 0, path.name)


def _suffixes(source: InputKind) -> tuple[str, ...]:
    if isinstance(source, Image):
        return IMAGE_SUFFIXES
    if isinstance(source, Audio):
        return AUDIO_SUFFIXES
    return TEXT_SUFFIXES if isinstance(source, Text) else TENSOR_SUFFIXES


def _files_in(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    files = []
    for path in _visible(folder):
        if path.is_dir() or path.suffix.lower() not in suffixes:
            raise WorkloadError(
                f"{path}: not a sample of this input; {', '.join(suffixes)} files are"
            )
        files.append(path)
    if not files:
        raise WorkloadError(f"{folder}: no {', '.join(suffixes)} files in it")
    return files


def _file_source(
    folder: Path, files: list[Path], targets: NDArray[Any] | None, names: tuple[str, ...]
) -> SampleSource:
    def item(index: int) -> Any:
        return files[index] if targets is None else (files[index], targets[index])

    return SampleSource(
        origin=str(folder),
        digests=[_file_digest(path) for path in files],
        item=item,
        labels=names,
        has_target=targets is not None,
    )


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _labels_by_file(labels: Path, folder: Path, files: list[Path]) -> list[str]:
    table: dict[str, str] = {}
    for number, row in enumerate(read_rows(labels), 1):
        if len(row) != 2:
            raise WorkloadError(f"{labels}, line {number}: {len(row)} columns; write file,label")
        table[row[0]] = row[1]
    missing = [path.name for path in files if path.name not in table]
    if missing:
        raise WorkloadError(
            f"{labels}: no label for '{missing[0]}' ({len(missing)} of {len(files)} files in "
            f"{folder} have none); write a line file,label for each"
        )
    return [table[path.name] for path in files]
