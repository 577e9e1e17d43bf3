"""Artifacts that a mixed plan is weighed by: how many bytes they take, and how long they run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import cpu_count
from pathlib import Path

from edgekit.core.codec import from_plain, to_plain
from edgekit.core.errors import StepError
from edgekit.core.figure import Figure
from edgekit.core.planned import PlannedStep, Strategy
from edgekit.core.progress import Reporter, ignore
from edgekit.core.sensitivity import LayerSensitivity
from edgekit.core.strategy import Override, Quantize
from edgekit.flow.making import Made, Maker, Products
from edgekit.flow.planning import Plan
from edgekit.flow.prepare import DataSets, Model
from edgekit.flow.stages import Runner
from edgekit.flow.toolchain import resolve
from edgekit.graph.weights import weight_layers
from edgekit.measure.host import describe_host
from edgekit.measure.size import artifact_bytes
from edgekit.plan.mixed import Plan as MixedPlan
from edgekit.plan.mixed import layer_pattern

QUANTIZE = "quantize"


class PlanBuilder:
    """Builds the artifact of any plan of one model, as a build would, for a look at it."""

    def __init__(self, model: Model, plan: Plan, runner: Runner, data: DataSets) -> None:
        self._model, self._plan, self._data = model, plan, data
        self._runner, self._toolchain = runner.apart(), resolve(plan.target)
        self.exported = self._maker(plan).export(model)

    def paths(self) -> frozenset[str]:
        """The module paths of the layers with weights in the exported model."""
        names = self.exported.tensor_map()
        return frozenset(
            names[layer.tensor.name]
            for layer in weight_layers(self.exported.graph())
            if layer.tensor.name in names
        )

    def file_bytes(self, plan: MixedPlan, layers: Sequence[LayerSensitivity]) -> int:
        """Bytes of the file that would ship with this plan."""
        products = self._products(plan, layers)
        return int(artifact_bytes([products.final.file]).value or 0)

    def time_ratio(self, plan: MixedPlan, layers: Sequence[LayerSensitivity]) -> float:
        """How long the artifact of this plan takes, over the float artifact. Measured here."""
        products = self._products(plan, layers)
        outcome = self._maker(self._plan).call(
            "latency of a precision",
            "edgekit.measure.latency:measure",
            {
                "float_artifact": to_plain(products.baseline.artifact),
                "artifact": to_plain(products.final.artifact),
                "threads": min(self._plan.profile.threads, cpu_count() or 1),
                "host": to_plain(describe_host()),
            },
            {
                "float": _folder(products.baseline),
                "artifact": _folder(products.final),
                "data": (self._data.evaluation.path, self._data.evaluation.digest),
            },
        )
        figures = [
            from_plain(Figure, plain, where="latency") for plain in outcome.values["figures"]
        ]
        return next(item.value or 0.0 for item in figures if item.name == "latency_ratio")

    def _products(self, plan: MixedPlan, layers: Sequence[LayerSensitivity]) -> Products:
        settled = with_overrides(self._plan, plan, layers)
        return self._maker(settled).make(self.exported, self.exported, self._data)

    def _maker(self, plan: Plan) -> Maker:
        reporter = Reporter(stage="mixed precision", listener=ignore)
        return Maker(self._model, plan, self._runner, self._toolchain, reporter)


def with_overrides(plan: Plan, chosen: MixedPlan, layers: Sequence[LayerSensitivity]) -> Plan:
    """A build's plan whose quantize step has this mixed plan written out by layer."""
    by_path = {layer.path: layer for layer in layers}
    ours = tuple(
        Override(
            pattern=layer_pattern(by_path[path]),
            precision=choice.precision,  # type: ignore[arg-type]  # one of the candidates
            reason=STAGE_REASON,
        )
        for path, choice in chosen.items()
    )
    steps = tuple(
        _settled(step, ours) if step.name == QUANTIZE and step.is_run else step
        for step in plan.strategy.steps
    )
    return replace(plan, strategy=Strategy(steps=steps))


STAGE_REASON = "mixed precision"


def _settled(step: PlannedStep, ours: tuple[Override, ...]) -> PlannedStep:
    settings = from_plain(Quantize, step.settings, where=QUANTIZE, error=StepError)
    # What was set by hand comes last, and of several that match a layer the last one counts.
    settings = replace(settings, mixed=None, overrides=(*ours, *settings.overrides))
    plain: Mapping[str, object] = to_plain(settings)
    return replace(step, settings=dict(plain))


def _folder(made: Made) -> tuple[Path, str]:
    return made.outcome.folder, made.outcome.digest
