"""One cell's result, and the file that keeps all of them between runs."""

import json
import os
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from edgekit.bundle.manifest import StepFigures
from edgekit.core.codec import from_plain, to_plain
from edgekit.core.figure import Figure, exact
from edgekit.core.verdict import Status
from edgekit.flow.results import BuildResult
from edgekit.graph.reader import read_graph

LATENCY_FIGURES = ("latency_ratio", "latency_float_ms", "latency_ms")
_MINIMUM = re.compile(r"minimum ([0-9.e+-]+) ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRun:
    """One measurement of time. load: the machine's one-minute load average when it ended.

    minimum_ratio: fastest run of the compressed artifact over the fastest of the float one.
    """

    date: str
    load: float
    figures: dict[str, Figure]
    minimum_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What became of one cell. outcome: the standing, or "not built" with the error's message."""

    outcome: str
    message: str
    date: str
    versions: dict[str, str] = field(default_factory=dict)
    processor: str = ""
    cores: int = 0
    figures: dict[str, Figure] = field(default_factory=dict)
    failed: tuple[str, ...] = ()
    steps: tuple[StepFigures, ...] = ()
    latency: tuple[LatencyRun, ...] = ()

    def quietest(self) -> LatencyRun | None:
        """The measurement of time that was taken under the lowest load."""
        return min(self.latency, key=lambda run: run.load, default=None)


def record_of(result: BuildResult, message: str) -> Record:
    """What a build gave, refused or not."""
    figures = {item.name: item for item in result.evidence.figures}
    share = figures["artifact_bytes"].value / figures["artifact_float_bytes"].value
    figures["share"] = exact("share", share, "", "artifact_bytes over artifact_float_bytes")
    if result.bundle is not None:
        weights = weight_bytes(result.bundle / result.manifest.components[0].artifact.entry)
        figures["weight_bytes"] = exact("weight_bytes", weights, "bytes", "constants in the file")
    times = {name: figures.pop(name) for name in LATENCY_FIGURES if name in figures}
    return Record(
        outcome=result.standing.value,
        message=message,
        date=now(),
        versions=result.manifest.versions,
        processor=result.evidence.host.processor,
        cores=result.evidence.host.cores,
        figures=figures,
        failed=tuple(item.limit.figure for item in result.verdict.of(Status.FAIL)),
        steps=result.evidence.steps,
        latency=(_latency_run(times),) if len(times) == len(LATENCY_FIGURES) else (),
    )


def weight_bytes(artifact: Path) -> int:
    """What the constants of an artifact take, without the container around them."""
    return sum(
        tensor.stored_bytes
        for subgraph in read_graph(artifact.read_bytes(), name=artifact.name).subgraphs
        for tensor in subgraph.tensors
    )


def _latency_run(times: dict[str, Figure]) -> LatencyRun:
    return LatencyRun(
        date=now(),
        load=os.getloadavg()[0],
        figures=times,
        minimum_ratio=_minimum(times["latency_ms"]) / _minimum(times["latency_float_ms"]),
    )


def add_latency(old: Record, new: Record) -> Record:
    """A record with the time of a later build of the same cell beside its own."""
    return replace(old, latency=(*old.latency, *new.latency))


def read_records(path: Path) -> dict[str, Record]:
    """All records by cell; none where there is no file yet."""
    if not path.is_file():
        return {}
    plain = json.loads(path.read_text(encoding="utf-8"))
    return {name: from_plain(Record, item, where=f"{path}: {name}") for name, item in plain.items()}


def write_records(path: Path, records: dict[str, Record]) -> None:
    """Replace the file in one step: a benchmark that is killed keeps what it had."""
    partial = path.with_suffix(".partial")
    text = json.dumps(to_plain(records), indent=1, sort_keys=True, ensure_ascii=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _minimum(figure: Figure) -> float:
    found = _MINIMUM.search(figure.how)
    if found is None:
        raise ValueError(f"{figure.name} does not tell its minimum: {figure.how!r}")
    return float(found.group(1))
