"""The stages that measure what layers cost at fewer bits, and the verb ``sensitivity``.

They run in this process, as steps on the module do: the user's model and metric live here. A result
is kept under the model, the data, the forms and the metric; the second call answers from the cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.compress.quantization.layer_forms import Form
from edgekit.compress.quantization.sensitivity import Probe, measure_sensitivity, plan_error
from edgekit.core.codec import from_plain, to_plain
from edgekit.core.errors import StepError
from edgekit.core.facts import LayerFact
from edgekit.core.progress import Listener, Reporter
from edgekit.core.sensitivity import PlanError, Sensitivity
from edgekit.core.stage import StageRequest
from edgekit.core.workload import Workload
from edgekit.evaluate.metrics import Metric
from edgekit.flow.planning import Plan, find_place, has_module, make_plan
from edgekit.flow.prepare import DataSets, Model, capture_model, write_data
from edgekit.flow.results import BuildOptions, SensitivityResult
from edgekit.flow.sources import NOTHING, SourceOptions, resolve_source
from edgekit.flow.stages import Runner
from edgekit.flow.workbench import Standing, Workbench
from edgekit.flow.workspace import workspace
from edgekit.plan.recipe import choose_quantize
from edgekit.store import Store

SENSITIVITY = "sensitivity"
_MEASURE = "edgekit.compress.quantization.sensitivity:measure_sensitivity"
_OWN_WEIGHTS = "what holds this weight is no layer that can be measured alone"
_CHECK = "edgekit.compress.quantization.sensitivity:plan_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a model stands that is measured. inputs: its folders and digests by role."""

    standing: Standing
    model: Model
    inputs: Mapping[str, tuple[Path, str]]


class Sensor:
    """Measures the layers of one build's model."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        runner: Runner,
        data: DataSets,
        metric: Metric,
        listener: Listener,
    ) -> None:
        self._model = model
        self._runner = runner
        self._listener = listener
        self._data = data
        self._bench = Workbench(model, plan, data, metric, seed=runner.seed)

    def sensitivity(self, place: Place, probe: Probe) -> Sensitivity:
        """Every layer at every precision. Raises: StepError for a model without such layers."""
        reporter = Reporter(stage=SENSITIVITY, listener=self._listener)
        if self._data.selection is None:
            reporter.note(
                f"no selection data: {self._bench.judged_by.name} is taken on the calibration data"
            )

        def live(_: Path, reporter: Reporter, checkpoints: Path) -> Mapping[str, Any]:
            bench = self._bench.make(place.standing, checkpoints)
            found: Mapping[str, Any] = to_plain(measure_sensitivity(probe, bench, reporter))
            return found

        request = self._request(SENSITIVITY, _MEASURE, place, {"probe": to_plain(probe)})
        outcome = self._runner.run(request, live=live, is_cached=self._is_known)
        found = from_plain(Sensitivity, outcome.values, where=SENSITIVITY)
        macs = {layer.module_path: layer.macs for layer in place.model.facts.layers}
        layers = tuple(replace(layer, macs=macs.get(layer.path, 0)) for layer in found.layers)
        return replace(found, layers=layers, left=_left(found, place.model.facts.layers))

    def check(
        self, place: Place, probe: Probe, forms: Mapping[str, str], *, is_judged: bool
    ) -> PlanError:
        """A whole plan at once: a form's name by layer path."""

        def live(_: Path, reporter: Reporter, checkpoints: Path) -> Mapping[str, Any]:
            bench = self._bench.make(place.standing, checkpoints)
            found = plan_error(forms, probe, bench, reporter, is_judged=is_judged)
            plain: Mapping[str, Any] = to_plain(found)
            return plain

        settings = {"probe": to_plain(probe), "forms": dict(forms), "is_judged": is_judged}
        request = self._request("check mixed precision", _CHECK, place, settings)
        outcome = self._runner.run(request, live=live, is_cached=self._is_known)
        return from_plain(PlanError, outcome.values, where=request.name)

    @property
    def judged_by(self) -> str:
        """The metric of choices."""
        return self._bench.judged_by.name

    @property
    def _is_known(self) -> bool:
        functions = self._bench.functions
        return "metric" not in functions or functions["metric"] is not None

    def _request(
        self, name: str, handler: str, place: Place, settings: Mapping[str, Any]
    ) -> StageRequest:
        data = self._data
        sets = {"calibration": data.calibration, "selection": data.selection}
        inputs = {
            "model": (self._model.folder, self._model.facts.digest),
            **place.inputs,
            **{role: (item.path, item.digest) for role, item in sets.items() if item is not None},
        }
        return StageRequest(
            name=name,
            handler=handler,
            settings={
                "contract": to_plain(self._model.contract),
                "metric": self._bench.judged_by.name,
                "functions": {"metric": self._bench.functions.get("metric")},
                "device": self._bench.device.type,
                **settings,
            },
            inputs={role: str(folder) for role, (folder, _) in inputs.items()},
            digests={role: digest for role, (_, digest) in inputs.items()},
        )


def _left(found: Sensitivity, layers: Sequence[LayerFact]) -> dict[str, str]:
    """Every layer with weights that was not measured, and why."""
    known = {path for layer in found.layers for path in (layer.path, *layer.others)}
    left = dict(found.left)
    for layer in layers:
        if layer.module_path not in known:
            is_cell = layer.kind == "recurrent"
            why = "recurrent weights are not measured" if is_cell else _OWN_WEIGHTS
            left.setdefault(layer.module_path, why)
    return left


def forms_of(precisions: Sequence[str], block_size: int) -> tuple[Form, ...]:
    """The forms of these precisions; INT4 without blocks, and with such blocks where there are any.

    Float is none: it costs nothing.
    """
    found = []
    for precision in precisions:
        if precision == "float":
            continue
        found.append(Form(precision=precision))
        if precision == "int4" and block_size:
            found.append(Form(precision=precision, block_size=block_size))
    return tuple(found)


def sensitivity(
    source: str | Path | Workload,
    options: BuildOptions,
    *,
    samples: int = 128,
    metric_layers: int = 3,
    listener: Listener,
    source_options: SourceOptions = NOTHING,
) -> SensitivityResult:
    """What each layer of the float model, as it was given, costs at INT8, INT4 and FP16.

    Raises: StepError for a model that is no torch module, or has no layers to quantize.
    """
    profile, target = find_place(options)
    with workspace() as work, Store() as store:
        model = capture_model(resolve_source(source, work, source_options), work, listener)
        plan = make_plan(model, options)
        if not has_module(model):
            raise StepError(
                f"{model.source.origin}: sensitivity is measured on the layers of a "
                f"torch.nn.Module, and this is a .{model.source.format} model; hand over the torch "
                "model"
            )
        if model.contract.adapters:
            raise StepError(
                f"{model.source.origin}: sensitivity is measured without adapters to choose from; "
                "take them out of the workload"
            )
        data, metric = write_data(model, work, listener)
        runner = Runner(store, listener, seed=options.seed, refresh=options.is_refreshed)
        # What 4 bits would be on this device, whatever its strategy stores.
        four, _ = choose_quantize("int4", model.facts, profile, target)
        stated = plan.quantize.block_size if plan.quantize else 0
        probe = Probe(
            forms=forms_of(("int8", "int4", "fp16"), stated or four.block_size),
            samples=samples,
            metric_layers=metric_layers,
        )
        sensor = Sensor(model, plan, runner, data, metric, listener)
        place = Place(standing=Standing(), model=model, inputs={})
        found = sensor.sensitivity(place, probe)
        return SensitivityResult(
            name=model.workload.name,
            device=profile.name,
            target=target.name,
            sensitivity=found,
            has_selection=data.selection is not None,
            is_reused=runner.outcomes[-1].is_reused,
        )
