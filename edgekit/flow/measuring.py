"""From two finished artifacts to figures, each got by running the artifact in its own runtime."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from os import cpu_count
from pathlib import Path
from platform import machine

from edgekit.core.codec import from_plain, to_plain
from edgekit.core.figure import Figure, not_evaluated
from edgekit.core.progress import Reporter
from edgekit.data.dataset import Dataset, open_dataset
from edgekit.evaluate.discriminate import check_metric_discriminates
from edgekit.evaluate.drift import Drift, drift
from edgekit.evaluate.metrics import Metric
from edgekit.evaluate.paired import Batches, paired_drop
from edgekit.evaluate.worst import worst_figures
from edgekit.flow.activation_ranges import range_figures
from edgekit.flow.calls import StageCaller
from edgekit.flow.making import Made, Products
from edgekit.flow.planning import Plan
from edgekit.flow.prepare import DataSets, Model
from edgekit.flow.stages import Runner, StageOutcome
from edgekit.flow.toolchain import UsableToolchain
from edgekit.measure.accuracy import of_choice, paired_batches
from edgekit.measure.host import describe_host
from edgekit.measure.parity import parity_figures
from edgekit.measure.size import artifact_bytes, compressed_bytes, footprint_bytes
from edgekit.plan.recipe import is_for_other_processor

OUTPUTS = "outputs"
DRIFT_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All figures of a build by name, and the artifact's own outputs on the evaluation set.

    drift: of the calibration inputs from those of the evaluation set.
    """

    figures: dict[str, Figure]
    outputs: Dataset
    drift: Drift


class Measurer(StageCaller):
    """Runs the measuring stages of one build."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        runner: Runner,
        toolchain: UsableToolchain,
        reporter: Reporter,
    ) -> None:
        super().__init__(model, plan, runner, toolchain, reporter)
        self.threads = min(plan.profile.threads, cpu_count() or 1)
        if self.threads < plan.profile.threads:
            reporter.warn(
                f"this host has {self.threads} cores: measured at {self.threads} thread(s), not "
                f"the profile's {plan.profile.threads}"
            )

    def torch_reference(self, data: DataSets) -> Dataset | None:
        """The torch model's own outputs on the evaluation set; None for a graph source."""
        if self.model.source.format != "torch":
            return None
        outcome = self.call(
            "reference",
            "edgekit.compile.reference:predict",
            {},
            {"model": (self.model.folder, self.model.facts.digest), "data": _part(data.evaluation)},
            is_here=True,
        )
        return open_dataset(outcome.folder / OUTPUTS)

    def predict(self, name: str, made: Made, data: DataSets) -> Dataset:
        """An artifact's outputs on the evaluation set, from its own runtime."""
        outcome = self.call(
            name,
            "edgekit.measure.accuracy:predict",
            {
                "artifact": to_plain(made.artifact),
                "threads": self.threads,
                # Kernels differ by processor, and so may the last bits that they give.
                "host": to_plain(describe_host()),
            },
            {"artifact": _made(made), "data": _part(data.evaluation)},
        )
        return open_dataset(outcome.folder / OUTPUTS)

    def check_metric(self, metric: Metric, reference: Dataset, data: DataSets) -> None:
        """Refuse a metric that cannot tell outputs apart, before any long work."""
        batches = paired_batches(reference, reference, data.evaluation)
        for part in self._by_adapter(batches).values():
            check_metric_discriminates(metric, part, seed=self.runner.seed)

    def measure(
        self, products: Products, metric: Metric, reference: Dataset, data: DataSets
    ) -> Measured:
        """Every figure that this host can give, of the very files that would ship."""
        floats = self.predict("predict float", products.baseline, data)
        outputs = self.predict("predict", products.final, data)
        batches = paired_batches(reference, outputs, data.evaluation)
        found = self._drift(data)
        figures = [
            *self._metric(metric, batches),
            *parity_figures(reference, floats, subject="export", seed=self.runner.seed),
            *parity_figures(reference, outputs, subject="compression", seed=self.runner.seed),
            *self._sizes(products),
            *self._latency(products, data),
            *self._memory(products, data),
            found.figure(),
            *range_figures(self, products, _part(data.evaluation)),
        ]
        named = {item.name: item for item in figures}
        return Measured(figures=named, outputs=outputs, drift=found)

    def _metric(self, metric: Metric, batches: Batches) -> tuple[Figure, ...]:
        """The metric and its drop; of adapters to choose from, those of the worst."""
        seed = self.runner.seed
        found = {
            name: paired_drop(metric, part, seed=seed)
            for name, part in self._by_adapter(batches).items()
        }
        if len(found) == 1:
            return next(iter(found.values())).figures
        return worst_figures(metric, found)

    def _by_adapter(self, batches: Batches) -> dict[str, Batches]:
        """The evaluation samples apart by the adapter that they were run with."""
        names = self.model.choices
        if len(names) == 1:
            return {names[0]: batches}
        return {name: of_choice(batches, i, len(names)) for i, name in enumerate(names)}

    def _drift(self, data: DataSets) -> Drift:
        # The adapters are the same ones in both.
        names = [item.name for item in self.model.contract.given_inputs]
        ours, theirs = (
            part.without_choices().batches(DRIFT_BATCH, names)
            for part in (data.calibration, data.evaluation)
        )
        return drift(ours, theirs, seed=self.runner.seed)

    def _sizes(self, products: Products) -> Iterable[Figure]:
        files, float_files = [products.final.file], [products.baseline.file]
        abi = self.plan.profile.hardware.abi
        yield artifact_bytes(files)
        yield compressed_bytes(files)
        yield replace(
            artifact_bytes(float_files),
            name="artifact_float_bytes",
            how="size of the equally stripped float artifact",
        )
        yield footprint_bytes(
            files,
            self.model.side_files.values(),
            self.plan.target.runtime_library(abi),
            abi=abi,
        )

    def _latency(self, products: Products, data: DataSets) -> Iterable[Figure]:
        bounds = {limit.figure: limit.bound for limit in self.plan.limits}
        settings = {
            "float_artifact": to_plain(products.baseline.artifact),
            "artifact": to_plain(products.final.artifact),
            "threads": self.threads,
            "bound": bounds.get("latency_ratio"),
        }
        outcome = self.call(
            "latency",
            "edgekit.measure.latency:measure",
            {key: value for key, value in settings.items() if value is not None},
            {
                "float": _made(products.baseline),
                "artifact": _made(products.final),
                "data": _part(data.evaluation),
            },
            is_cached=False,
        )
        for figure in _figures(outcome):
            if figure.name == "latency_ratio" and self._is_for_other_processor():
                yield replace(figure, name="latency_ratio_host")
                yield self._pending_latency(figure)
            else:
                yield figure

    def _is_for_other_processor(self) -> bool:
        return is_for_other_processor(
            self.plan.quantize, self.plan.profile, self.plan.target, machine()
        )

    def _pending_latency(self, figure: Figure) -> Figure:
        wanted = self.plan.profile.hardware.architecture.value
        return not_evaluated(
            figure.name,
            figure.unit,
            f"its integers are laid out for {wanted}, and this host is {machine()}, where the "
            f"same artifact takes {figure.value:.3g} of float's time; measure it on the device",
        )

    def _memory(self, products: Products, data: DataSets) -> Iterable[Figure]:
        outcome = self.call(
            "memory",
            "edgekit.measure.memory:measure",
            {"artifact": to_plain(products.final.artifact), "threads": self.threads},
            {"artifact": _made(products.final), "data": _part(data.evaluation)},
            is_cached=False,
        )
        return _figures(outcome)


def _part(dataset: Dataset) -> tuple[Path, str]:
    return dataset.path, dataset.digest


def _made(made: Made) -> tuple[Path, str]:
    return made.outcome.folder, made.outcome.digest


def _figures(outcome: StageOutcome) -> tuple[Figure, ...]:
    return tuple(
        from_plain(Figure, plain, where=f"stage {outcome.name}")
        for plain in outcome.values["figures"]
    )
