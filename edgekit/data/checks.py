"""The user's samples onto disk, checked one by one; and the sets of a build held apart.

A digest of 16 bytes a sample is kept beside the arrays. It covers the inputs and not the target,
so the same picture with another label is still the same sample.
"""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.contract import InputKind
from edgekit.core.errors import WorkloadError
from edgekit.data.dataset import (
    TARGET,
    Dataset,
    DatasetWriter,
    Sample,
    hash_sample,
    open_dataset,
)
from edgekit.data.samples import iterate_samples

DIGESTS = "inputs.blake2b"
DIGEST_BYTES = 16

Digests = NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedSet:
    """A dataset whose samples were checked, with a digest of each sample's inputs, in order."""

    dataset: Dataset
    digests: Digests


def write_checked(
    iterable: Iterable[Any],
    inputs: Mapping[str, InputKind],
    out: Path,
    *,
    set_name: str,
    needs_target: bool,
    limit: int | None = None,
) -> CheckedSet:
    """Write a user's samples as a dataset, one at a time, after each was checked.

    limit: stop after this many samples; the iterable is not read further.
    Raises: WorkloadError as ``iterate_samples`` does; OutputError when ``out`` holds a dataset.
    """
    samples = iterate_samples(iterable, inputs, set_name=set_name, needs_target=needs_target)
    with DatasetWriter(out) as writer, (out / DIGESTS).open("wb") as digests:
        for sample in islice(samples, limit):
            writer.append(sample)
            digests.write(input_digest(sample))
    return open_checked(out)


def write_split(
    iterable: Iterable[Any],
    inputs: Mapping[str, InputKind],
    out: Path,
    held_out: Path,
    *,
    needs_target: bool,
    one_in: int,
    used: Iterable[CheckedSet] = (),
) -> tuple[CheckedSet, CheckedSet | None]:
    """A user's training samples as two datasets: about one sample in ``one_in`` is held out.

    Where a sample goes is decided by its own digest, so that equal samples go the same way and the
    two never share one. Samples of ``used`` sets, which the build looks at as well, are never held
    out. The held-out set is None where none was chosen.
    Raises: WorkloadError as ``write_checked`` does, and when no sample is left to the first.
    """
    samples = iterate_samples(iterable, inputs, set_name="training", needs_target=needs_target)
    staying = {bytes(digest) for item in used for digest in item.digests}
    sides = [_Side(out), _Side(held_out)]
    with ExitStack() as stack:
        for sample in samples:
            digest = input_digest(sample)
            is_chosen = int.from_bytes(digest[:4], "little") % one_in == 0
            is_held_out = is_chosen and digest not in staying
            sides[is_held_out].append(sample, digest, stack)
    kept, held = (side.count for side in sides)
    if not kept:
        raise WorkloadError(
            f"training data: {held} samples are too few to hold some back for choices; give "
            "more, or give selection data of their own"
        )
    return open_checked(out), open_checked(held_out) if held else None


class _Side:
    """One of two datasets; its files are there from its first sample on."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._writer: DatasetWriter | None = None
        self._digests: IO[bytes] | None = None

    def append(self, sample: Sample, digest: bytes, stack: ExitStack) -> None:
        if self._writer is None or self._digests is None:
            self._writer = stack.enter_context(DatasetWriter(self._path))
            self._digests = stack.enter_context((self._path / DIGESTS).open("wb"))
        self._writer.append(sample)
        self._digests.write(digest)
        self.count += 1


def open_checked(path: Path) -> CheckedSet:
    """A dataset that ``write_checked`` has written.

    Raises: WorkloadError when the folder is no such dataset.
    """
    dataset = open_dataset(path)
    return CheckedSet(dataset=dataset, digests=_read_digests(dataset))


def input_digest(sample: Sample) -> bytes:
    """16 bytes that stand for the inputs of a sample; its target has no part in them."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    hash_sample(digest, {name: value for name, value in sample.items() if name != TARGET})
    return digest.digest()


def check_disjoint(
    sets: Mapping[str, CheckedSet], *, may_share: frozenset[frozenset[str]] = frozenset()
) -> None:
    """Refuse sets that share a sample: a model must be judged on samples it has not seen.

    may_share: pairs of set names that may have samples in common.
    Raises: WorkloadError naming the two sets, how many samples they share, and the first one.
    """
    for (first, one), (second, other) in combinations(sets.items(), 2):
        if {first, second} in may_share:
            continue
        ours, theirs = one.digests, other.digests
        is_shared = np.isin(theirs, ours)
        shared = int(is_shared.sum())
        if shared:
            there = int(np.argmax(is_shared))
            here = int(np.argmax(ours == theirs[there]))
            raise WorkloadError(
                f"{first} and {second} data share {shared} of {len(theirs)} samples; the first is "
                f"sample {here} of {first} and sample {there} of {second}. Keep the sets apart, "
                "or the verdict would be on samples that the build has used"
            )


def _read_digests(dataset: Dataset) -> Digests:
    file = dataset.path / DIGESTS
    content = file.read_bytes() if file.is_file() else b""
    if len(content) != dataset.count * DIGEST_BYTES:
        raise WorkloadError(
            f"{file}: {len(content)} bytes for {dataset.count} samples of {DIGEST_BYTES}; "
            "write the dataset again"
        )
    return np.frombuffer(content, dtype=f"V{DIGEST_BYTES}")
