"""From a source to what stages work on: the captured model, and checked data on disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle.paths import file_name_for
from edgekit.core.contract import NO_ADAPTER, Contract, InputKind, Text
from edgekit.core.errors import OutputError, WorkloadError
from edgekit.core.facts import ModelFacts
from edgekit.core.progress import Listener, Reporter
from edgekit.core.workload import Workload
from edgekit.data.checks import CheckedSet, check_disjoint, write_checked, write_split
from edgekit.data.dataset import Dataset, add_choices
from edgekit.evaluate.metrics import Metric, resolve_metric
from edgekit.flow.graph_source import capture_graph
from edgekit.flow.sources import Source

if TYPE_CHECKING:
    from edgekit.flow.adapting import Adapted

ASSETS = "assets"
# Without selection data of their own, choices are made on about this share of the training data.
HELD_OUT_ONE_IN = 10
HELD_BACK = "selection (held back from the training data)"
FEW_HELD_OUT = 20
# What is in these sets is not held back: choices are made on samples that nothing else has seen.
USED = ("calibration", "unlabelled")
# What a model learns from may also tell its ranges; what judges it may do neither.
MAY_SHARE = frozenset(
    frozenset(pair)
    for pair in (
        ("calibration", "training"),
        ("calibration", "unlabelled"),
        ("training", "unlabelled"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A captured model: its folder, facts and contract.

    side_files: files of the user that ship with the artifact, by their path in the bundle.
    adapters: what can be chosen at run time, a row each, of which the first is no adapter; None
    where there is nothing to choose.
    """

    source: Source
    folder: Path
    facts: ModelFacts
    contract: Contract
    side_files: dict[str, Path]
    adapters: NDArray[np.float32] | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """The names of what can be chosen at run time, "none" first."""
        return (NO_ADAPTER[-1], *sorted(self.contract.adapters))

    @property
    def workload(self) -> Workload:
        """What the user handed over."""
        return self.source.workload


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSets:
    """The workload's data on disk, checked and disjoint.

    training, unlabelled: only where a step learns from them. is_held_out: the selection data were
    taken out of the training data.
    """

    calibration: Dataset
    evaluation: Dataset
    selection: Dataset | None
    training: Dataset | None = None
    unlabelled: Dataset | None = None
    is_held_out: bool = False


def capture_model(source: Source, work: Path, listener: Listener) -> Model:
    """Capture the model of a source into ``work/captured``."""
    reporter = Reporter(stage="capture", listener=listener)
    reporter.progress("capturing the model")
    folder = work / "captured"
    folder.mkdir()
    _check_workload(source.workload)
    adapted = _adapt(source, work)
    if source.format == "torch":
        # Only a torch model needs torch; a graph source must plan without it.
        from edgekit.compile.capture import capture  # noqa: PLC0415

        workload = source.workload if adapted is None else adapted.workload
        captured = capture(_unmasked(workload), folder, reporter)
        facts, contract = captured.facts, captured.contract
    else:
        graph = capture_graph(source, folder, reporter)
        facts, contract = graph.facts, graph.contract
    _check_labels(contract)
    contract, side_files = _localize(contract)
    if adapted is not None:
        adapted.check()
        side_files.update(adapted.files)
    return Model(
        source=source,
        folder=folder,
        facts=facts,
        contract=contract,
        side_files=side_files,
        adapters=None if adapted is None else adapted.rows,
    )


def _adapt(source: Source, work: Path) -> "Adapted | None":
    if not source.workload.adapters:
        return None
    if source.format != "torch":
        raise WorkloadError(
            f"{source.origin}: adapters are put into the layers of a torch.nn.Module, and this is "
            f"a .{source.format} file, which has none; hand over the torch model"
        )
    # Only a workload with adapters needs the room that trains.
    from edgekit.flow.adapting import adapt  # noqa: PLC0415

    return adapt(source.workload, work)


def _unmasked(workload: Workload) -> Workload:
    """The same, where masks of ``torch.nn.utils.prune`` are zeros in plain weights.

    With masks each call would compute its weights, in the artifact and in every count of it.
    """
    from torch import nn  # noqa: PLC0415

    from edgekit.compress.masks import bake_masks, copy_model, has_masks  # noqa: PLC0415

    if not (isinstance(workload.model, nn.Module) and has_masks(workload.model)):
        return workload
    plain = copy_model(workload.model)
    bake_masks(plain)
    return replace(workload, model=plain)


def write_data(
    model: Model, work: Path, listener: Listener, *, has_training: bool = False
) -> tuple[DataSets, Metric]:
    """Read every set of the workload once, check it and write it below ``work``.

    has_training: whether steps of the strategy learn, so that training data are read too.
    Raises: WorkloadError for bad samples, sets that share samples, or a metric without targets.
    """
    reporter = Reporter(stage="data", listener=listener)
    metric = resolve_metric(model.workload.metric)
    writer = _Writer(model.workload, work, reporter, needs_target=metric.needs_target)
    writer.write("calibration", needs_target=False)
    writer.write("evaluation")
    writer.write("selection")
    if has_training:
        writer.write("unlabelled", needs_target=False)
        writer.write_training()
    named = {
        HELD_BACK if name == "selection" and writer.is_held_out else name: item
        for name, item in writer.sets.items()
    }
    check_disjoint(named, may_share=MAY_SHARE)
    found = {name: item.dataset for name, item in writer.sets.items()}
    if model.adapters is not None and model.contract.adapter is not None:
        # Ranges must hold for every adapter, and every adapter is judged on every sample.
        for name in ("calibration", "evaluation"):
            rows = model.contract.adapter.name, model.adapters
            found[name] = add_choices(found[name].path, *rows)
    return DataSets(
        calibration=found["calibration"],
        evaluation=found["evaluation"],
        selection=found.get("selection"),
        training=found.get("training"),
        unlabelled=found.get("unlabelled"),
        is_held_out=writer.is_held_out,
    ), metric


class _Writer:
    """Writes the sets of one workload, each below its own name."""

    def __init__(
        self, workload: Workload, work: Path, reporter: Reporter, *, needs_target: bool
    ) -> None:
        self.sets: dict[str, CheckedSet] = {}
        self.is_held_out = False
        self._workload = workload
        self._work = work
        self._reporter = reporter
        self._needs_target = needs_target

    def write(self, name: str, *, needs_target: bool | None = None) -> None:
        """Write the set of this name, where the workload has one."""
        samples = getattr(self._workload, name)
        if samples is None:
            return
        with self._telling(name):
            self.sets[name] = write_checked(
                samples,
                self._workload.inputs,
                out=self._work / name,
                set_name=name,
                needs_target=self._needs_target if needs_target is None else needs_target,
            )

    def write_training(self) -> None:
        """Write the training data, and hold some back where there are no selection data."""
        if "selection" in self.sets or self._workload.training is None:
            self.write("training")
            return
        with self._telling("training"):
            kept, held = write_split(
                self._workload.training,
                self._workload.inputs,
                out=self._work / "training",
                held_out=self._work / "selection",
                needs_target=self._needs_target,
                one_in=HELD_OUT_ONE_IN,
                used=[self.sets[name] for name in USED if name in self.sets],
            )
        if held is None:
            raise WorkloadError(
                f"training data: {kept.dataset.count} samples are too few to hold some back for "
                "choices, or the build looks at all of them otherwise (calibration, unlabelled); "
                "give more, or give selection data of their own"
            )
        self._reporter.note(
            f"no selection data: {held.dataset.count} of the training samples are held back, and "
            "choices are made on them"
        )
        if held.dataset.count < FEW_HELD_OUT:
            self._reporter.warn(
                f"choices are made on {held.dataset.count} samples, which is close to chance; give "
                f"more training data, or {FEW_HELD_OUT} or more as selection"
            )
        self.sets |= {"training": kept, "selection": held}
        self.is_held_out = True

    @contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        self._reporter.progress(f"reading the {name} set")
        try:
            yield
        except OSError as refusal:
            raise OutputError(
                f"{self._work}: the {name} set cannot be written ({refusal.strerror}); set TMPDIR "
                "to a folder with room"
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
    _check_learning(workload)


def _check_learning(workload: Workload) -> None:
    """Refuse a student that is no factory, and teachers that are no list of models."""
    student, teachers = workload.student, workload.teachers
    if student is None and isinstance(teachers, (list, tuple)) and not teachers:
        return
    # Only a workload that trains has torch to check these with.
    from torch import nn  # noqa: PLC0415

    if student is not None and (isinstance(student, nn.Module) or not callable(student)):
        raise WorkloadError(
            f"{workload.name}: student is a {type(student).__name__}; give a function that makes "
            "the smaller model, such as lambda: Small(): a build makes it more than once"
        )
    is_list = isinstance(teachers, (list, tuple))
    wrong = [item for item in teachers if not isinstance(item, nn.Module)] if is_list else []
    if wrong or not is_list:
        what = (
            f"hold a {type(wrong[0]).__name__}" if is_list else f"are a {type(teachers).__name__}"
        )
        raise WorkloadError(
            f"{workload.name}: teachers {what}; give a list of torch.nn.Module, the models to "
            "learn from beside this one"
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
