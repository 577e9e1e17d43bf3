"""What the cells of the CIFAR-10 pair gave, in a JSON file that each is added to as it is done."""

import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.builds.record import now
from edgekit.core.codec import from_plain, to_plain
from edgekit.measure.host import describe_host


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """When and where a cell was run. load: the one-minute load average when it ended."""

    date: str
    processor: str
    cores: int
    load: float
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a cell gave.

    jpeg_percent, lossless_percent: top-1 on the dev images; None for a trial, which only the
    selection images judge. macs: of one sample. cost_macs: of the whole training. cpu_seconds: of
    the command that ended the cell. sha256: of the weights. training_percent, confidences: of a
    teacher, what it makes of the images that it was adapted to, and how sure it is of its answers
    on these and on the JPEG dev images (the mean of the largest probability); None for others.
    """

    label: str
    seed: int
    epochs: int
    selection_percent: float | None
    jpeg_percent: float | None
    lossless_percent: float | None
    parameters: int
    macs: int
    cost_macs: int
    cpu_seconds: float
    sha256: str
    place: Place
    training_percent: float | None = None
    training_confidence: float | None = None
    jpeg_confidence: float | None = None


def this_place(*packages: str) -> Place:
    """The machine that this runs on, now, with the versions of these packages."""
    host = describe_host()
    return Place(
        date=now(),
        processor=host.processor,
        cores=host.cores,
        load=round(os.getloadavg()[0], 2),
        versions={name: version(name) for name in packages},
    )


def read_records(path: Path) -> dict[str, Record]:
    """All records by cell; none where there is no file yet."""
    if not path.is_file():
        return {}
    plain = json.loads(path.read_text(encoding="utf-8"))
    return {name: from_plain(Record, item, where=f"{path}: {name}") for name, item in plain.items()}


def add_record(path: Path, name: str, record: Record) -> None:
    """Add a cell's record; a kill at any moment leaves the file as it was or as it is to be."""
    # Read again: another run may have written other cells meanwhile.
    records = {**read_records(path), name: record}
    partial = path.with_suffix(".partial")
    text = json.dumps(to_plain(records), indent=1, sort_keys=True)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
