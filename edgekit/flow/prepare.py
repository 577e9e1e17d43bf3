"""From a source to what stages work on: the captured model, and checked data on disk."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.bundle.paths import file_name_for
from edgekit.core.contract import Contract, InputKind, Text
from edgekit.core.errors import OutputError, WorkloadError
from edgekit.core.facts import ModelFacts
from edgekit.core.progress import Listener, Reporter
from edgekit.core.workload import Workload
from edgekit.data.checks import CheckedSet, check_disjoint, write_checked
from edgekit.data.dataset import Dataset
from edgekit.evaluate.metrics import Metric, resolve_metric
from edgekit.flow.graph_source import capture_graph
from edgekit.flow.sources import Source

ASSETS = "assets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A captured model: its folder, facts and contract.

    side_files: files of the user that ship with the artifact, by their path in the bundle.
    """

    source: Source
    folder: Path
    facts: ModelFacts
    contract: Contract
    side_files: dict[str, Path]

    @property
    def workload(self) -> Workload:
        """What the user handed over."""
        return self.source.workload


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSets:
    """The workload's data on disk, checked and disjoint."""

    calibration: Dataset
    evaluation: Dataset
    selection: Dataset | None


def capture_model(source: Source, work: Path, listener: Listener) -> Model:
    """Capture the model of a source into ``work/captured``."""
    reporter = Reporter(stage="capture", listener=listener)
    reporter.progress("capturing the model")
    folder = work / "captured"
    folder.mkdir()
    _check_workload(source.workload)
    if source.format == "torch":
        # Only a torch model needs torch; a graph source must plan without it.
        from edgekit.compile.capture import capture  # noqa: PLC0415

        captured = capture(source.workload, folder, reporter)
        facts, contract = captured.facts, captured.contract
    else:
        graph = capture_graph(source, folder, reporter)
        facts, contract = graph.facts, graph.contract
    _check_labels(contract)
    contract, side_files = _localize(contract)
    return Model(
        source=source,
        folder=folder,
        facts=facts,
        contract=contract,
        side_files=side_files,
    )


def write_data(model: Model, work: Path, listener: Listener) -> tuple[DataSets, Metric]:
    """Read every set of the workload once, check it and write it below ``work``.

    Raises: WorkloadError for bad samples, sets that share samples, or a metric without targets.
    """
    workload = model.workload
    reporter = Reporter(stage="data", listener=listener)
    metric = resolve_metric(workload.metric)
    calibration = _write(
        "calibration", workload.calibration, workload, work, reporter, needs_target=False
    )
    evaluation = _write(
        "evaluation",
        workload.evaluation,
        workload,
        work,
        reporter,
        needs_target=metric.needs_target,
    )
    sets = {"calibration": calibration, "evaluation": evaluation}
    selection = None
    if workload.selection is not None:
        selection = _write(
            "selection",
            workload.selection,
            workload,
            work,
            reporter,
            needs_target=metric.needs_target,
        )
        sets["selection"] = selection
    check_disjoint(sets)
    return DataSets(
        calibration=calibration.dataset,
        evaluation=evaluation.dataset,
        selection=None if selection is None else selection.dataset,
    ), metric


def _write(
    name: str,
    samples: Iterable[Any],
    workload: Workload,
    work: Path,
    reporter: Reporter,
    *,
    needs_target: bool,
) -> CheckedSet:
    reporter.progress(f"reading the {name} set")
    try:
        return write_checked(
            samples,
            workload.inputs,
            out=work / name,
            set_name=name,
            needs_target=needs_target,
        )
    except OSError as refusal:
        raise OutputError(
            f"{work}: the {name} set cannot be written ({refusal.strerror}); set TMPDIR to a "
            "folder with room"
        ) from refusal


def _check_workload(workload: Workload) -> None:
    if not workload.name or "/" in workload.name:
        raise WorkloadError(f"workload name {workload.name!r}: give it a name without a slash")
    for kind, named in (("inputs", workload.inputs), ("outputs", workload.outputs)):
        if not named:
            raise WorkloadError(f"{workload.name}: it names no {kind}; at least one is needed")
    for kind, samples in (
        ("calibration", workload.calibration),
        ("evaluation", workload.evaluation),
    ):
        if samples is None:
            raise WorkloadError(
                f"{workload.name}: it has no {kind} data; give an iterable of samples"
            )


def _check_labels(contract: Contract) -> None:
    for item in contract.outputs:
        labels, scores = len(item.meaning.labels), item.shape[-1]
        if labels and labels != scores:
            raise WorkloadError(
                f"output '{item.name}' has shape {list(item.shape)} and {labels} labels; give one "
                f"label for each of its {scores} scores, or none"
            )


def _localize(contract: Contract) -> tuple[Contract, dict[str, Path]]:
    """The contract with its side files at their places in a bundle, and where they are now."""
    side_files: dict[str, Path] = {}
    inputs = []
    for item in contract.inputs:
        source: InputKind = item.source
        if isinstance(source, Text):
            path = Path(source.tokenizer)
            if not path.is_file():
                raise WorkloadError(f"input '{item.name}': tokenizer {path}: no such file")
            place = f"{ASSETS}/{file_name_for(path.name)}"
            if side_files.setdefault(place, path) != path:
                raise WorkloadError(
                    f"input '{item.name}': two side files are both called {path.name}; rename one"
                )
            source = replace(source, tokenizer=place)
        inputs.append(replace(item, source=source))
    return replace(contract, inputs=tuple(inputs)), side_files
