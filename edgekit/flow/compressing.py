"""From the user's model to the one that is exported: the strategy's module steps, one by one.

Each step is a stage of its own, so a build that changes only a later step reuses the earlier ones.
It runs in this process, where the user's model and functions live. After each step the model is
captured again: what cannot be exported any more is found here and not hours later.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.compile.capture import capture
from edgekit.compress.bench import StepResult
from edgekit.compress.judge import Judge
from edgekit.compress.sparsity.sparse_report import sparsity_figures
from edgekit.compress.state import save_state
from edgekit.core.codec import from_plain, to_plain
from edgekit.core.errors import NothingGainedError, StepError, WorkloadError
from edgekit.core.figure import Figure, exact
from edgekit.core.progress import Listener, Reporter
from edgekit.core.stage import StageRequest, resolve_handler
from edgekit.core.strategy import ActsOn, PlannedStep
from edgekit.evaluate.metrics import Metric
from edgekit.flow.calls import Inputs
from edgekit.flow.compressed import Compressed, ModuleStep
from edgekit.flow.mixed_builds import PlanBuilder
from edgekit.flow.mixed_results import STAGE, Settled
from edgekit.flow.mixing import Mixer
from edgekit.flow.planning import Plan
from edgekit.flow.prepare import DataSets, Model
from edgekit.flow.sensing import Place, Sensor
from edgekit.flow.stages import Runner, StageOutcome
from edgekit.flow.unchanged import require_change, without_unneeded
from edgekit.flow.workbench import Standing, Workbench
from edgekit.graph.ranges import write_ranges
from edgekit.plan.rounding import is_pending
from edgekit.plan.strategy import settings_type
from edgekit.store import file_digest, folder_digest

# Settings of steps that are paths.
PATH_SETTINGS = ("adapter",)
JUDGE = "edgekit.flow.compressing:Compressor.judge"


class Compressor:
    """Runs the module steps of one build."""

    def __init__(  # what the parts of a build share
        self,
        model: Model,
        plan: Plan,
        runner: Runner,
        data: DataSets,
        metric: Metric,
        *,
        work: Path,
        listener: Listener,
    ) -> None:
        self._model = model
        self._plan = plan
        self._runner = runner
        self._data = data
        self._metric = metric
        self._work = work
        self._listener = listener
        self._bench = Workbench(model, plan, data, metric, seed=runner.seed)

    def compress(self) -> Compressed:
        """Run every module step of the plan.

        Raises: StepError for a step that cannot do what it is asked or that changed nothing.
        """
        current, standing = self._model, Standing()
        steps: list[ModuleStep] = []
        unchanged: dict[int, str] = {}
        settled: Settled | None = None
        for index, (first, name) in enumerate(_named(self._plan.steps_on(ActsOn.MODULE))):
            if is_pending(first) and self._is_mixed:
                settled = self._settle(current, standing, steps)
            # Its settings may have been settled by now.
            planned = self._plan.steps_on(ActsOn.MODULE)[index] if settled else first
            outcome = self._run(planned, name, standing, steps)
            if why := outcome.values["unchanged"]:
                unchanged[index] = f"{why}; the model is bit for bit as it was"
                Reporter(stage=name, listener=self._listener).note(unchanged[index])
                continue
            standing = Standing(folder=outcome.folder, base=outcome.values["base"])
            before, current = current, self._capture(name, standing)
            require_change(name, before.facts, current.facts, outcome.values["points"])
            steps.append(self._finished(name, outcome, current, standing))
        if self._is_mixed:
            settled = self._settle(current, standing, steps)
        plan = without_unneeded(self._plan, unchanged)
        return Compressed(model=current, plan=plan, steps=tuple(steps), settled=settled)

    @property
    def _is_mixed(self) -> bool:
        """Whether the precisions of layers are still to be solved for."""
        quantize = self._plan.quantize
        return quantize is not None and quantize.mixed is not None

    def _settle(self, current: Model, standing: Standing, steps: list[ModuleStep]) -> Settled:
        """Solve for the precisions of the model as it stands; from now on the plan has them."""
        builder = PlanBuilder(current, self._plan, self._runner, self._data)
        sensor = Sensor(
            self._model, self._plan, self._runner, self._data, self._metric, self._listener
        )
        place = Place(standing=standing, model=current, inputs=_before(steps))
        reporter = Reporter(stage=STAGE, listener=self._listener)
        settled = Mixer(self._plan, sensor, builder, place, reporter).settle()
        self._plan = settled.plan
        return settled

    def _run(
        self, planned: PlannedStep, name: str, standing: Standing, steps: list[ModuleStep]
    ) -> StageOutcome:
        functions = self._bench.functions
        unknown = [name for name, digest in functions.items() if digest is None]
        request = self._request(
            name,
            self._plan.specs[planned.name].handler,
            {
                "settings": planned.settings,
                "files": _files_of(planned.settings),
                "metric": self._bench.judged_by.name,
                "functions": functions,
                "drop_limit": self._bench.drop_limit,
                "device": self._bench.device.type,
            },
            {**self._samples(), **_before(steps)},
        )
        reporter = Reporter(stage=name, listener=self._listener)
        if self._bench.judged_by is not self._metric:
            reporter.note(
                f"judged by the {self._bench.judged_by.name} of its outputs to the float model's "
                f"on the calibration data: {self._metric.name} needs targets, and there are no "
                "selection or training data that have some"
            )
        if unknown:
            reporter.note(
                f"not kept for other builds: what the workload's {', '.join(unknown)} holds cannot "
                "be told from outside"
            )

        def live(out: Path, reporter: Reporter, checkpoints: Path) -> Mapping[str, Any]:
            return self._apply(planned, standing, out, reporter, checkpoints)

        return self._runner.run(request, live=live, is_cached=not unknown)

    def _apply(
        self,
        planned: PlannedStep,
        standing: Standing,
        out: Path,
        reporter: Reporter,
        checkpoints: Path,
    ) -> Mapping[str, Any]:
        spec = self._plan.specs[planned.name]
        kind = settings_type(spec)
        settings = from_plain(kind, planned.settings, where=planned.name, error=StepError)
        step: Any = resolve_handler(spec.handler)
        started = time.perf_counter()
        bench = self._bench.make(standing, checkpoints)
        with _named_errors(planned.name):
            try:
                result: StepResult = step(settings, bench, reporter)
            except NothingGainedError as error:
                if not planned.settings.get("may_change_nothing"):
                    raise
                return {"unchanged": error.why}
        seconds = time.perf_counter() - started
        origin = standing.base if result.base == "current" else result.base
        base, _ = self._bench.base(origin)
        save_state(result.model.cpu(), base, out, result.masks)
        write_ranges(out, result.ranges)
        points = [_plain_point(to_plain(point)) for point in result.points]
        return {
            "base": origin,
            "points": points,
            "values": to_plain(result.values),
            "seconds": seconds,
            "unchanged": "",
        }

    def _capture(self, name: str, standing: Standing) -> Model:
        """The model as a step left it, exported, with its facts.

        Raises: StepError when it has another interface than the user's; CompileError when it
        cannot be traced.
        """
        module, _ = self._bench.load(standing)
        folder = self._work / f"captured after {name}"
        folder.mkdir()
        workload = replace(self._model.workload, model=module)
        reporter = Reporter(stage=name, listener=self._listener)
        captured = capture(workload, folder, reporter)
        ours = [(item.name, item.dtype, item.shape) for item in self._model.contract.outputs]
        theirs = [(item.name, item.dtype, item.shape) for item in captured.contract.outputs]
        if ours != theirs:
            raise StepError(
                f"step '{name}': the model's outputs were {_shapes(ours)} and are now "
                f"{_shapes(theirs)}; a student must give what its teacher gives"
            )
        return replace(self._model, folder=folder, facts=captured.facts)

    def _finished(
        self, name: str, outcome: StageOutcome, model: Model, standing: Standing
    ) -> ModuleStep:
        facts = model.facts
        how = "counted in the captured graph"
        judged = self._judge(name, outcome, standing)
        figures = (
            *judged,
            exact("parameters", facts.parameters, "", how),
            exact("macs", facts.macs, "", how),
            exact("weight_bytes", facts.weight_bytes, "bytes", "float weights alone"),
            exact("seconds", round(outcome.values["seconds"], 3), "s", "wall clock of the step"),
            *sparsity_figures(outcome.values["values"]),
        )
        return ModuleStep(
            name=name,
            outcome=outcome,
            facts=facts,
            figures=figures,
            points=tuple(outcome.values["points"]),
            values=outcome.values["values"],
        )

    def _judge(self, name: str, outcome: StageOutcome, standing: Standing) -> tuple[Figure, ...]:
        """Metric and drop on the evaluation data, in torch: told, never used for a choice."""
        evaluation = self._data.evaluation
        functions = self._bench.functions
        request = self._request(
            f"judge {name}",
            JUDGE,
            {"metric": self._metric.name, "functions": {"metric": functions.get("metric")}},
            {
                "step": (outcome.folder, outcome.digest),
                "evaluation": (evaluation.path, evaluation.digest),
            },
        )

        def live(_: Path, reporter: Reporter, checkpoints: Path) -> Mapping[str, Any]:
            bench = self._bench.make(standing, checkpoints)
            reporter.progress("on the evaluation data, in float")
            judge = Judge(replace(bench, metric=self._metric), evaluation)
            paired = judge.paired(bench.model)
            return {"figures": to_plain((paired.candidate, paired.drop))}

        is_cached = functions.get("metric") is not None
        made = self._runner.run(request, live=live, is_cached=is_cached)
        return tuple(
            from_plain(Figure, plain, where=request.name) for plain in made.values["figures"]
        )

    def _samples(self) -> dict[str, tuple[Path, str]]:
        data = self._data
        named = {
            "calibration": data.calibration,
            "selection": data.selection,
            "training": data.training,
            "unlabelled": data.unlabelled,
        }
        return {name: (item.path, item.digest) for name, item in named.items() if item is not None}

    def _request(
        self, name: str, handler: str, settings: Mapping[str, Any], inputs: Inputs
    ) -> StageRequest:
        inputs = {"model": (self._model.folder, self._model.facts.digest), **inputs}
        return StageRequest(
            name=name,
            handler=handler,
            settings={"contract": to_plain(self._model.contract), **settings},
            inputs={role: str(folder) for role, (folder, _) in inputs.items()},
            digests={role: digest for role, (_, digest) in inputs.items()},
        )


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Errors of a step say which one it was, where their own text does not."""
    try:
        yield
    except (StepError, WorkloadError) as error:
        if re.match(rf"(step ')?{re.escape(name)}\b", str(error)):
            raise
        raise type(error)(f"step '{name}': {error}") from error


def _named(steps: tuple[PlannedStep, ...]) -> Iterator[tuple[PlannedStep, str]]:
    """Each step with a name of its own: the second "prune" of a strategy is "prune 2"."""
    for index, step in enumerate(steps):
        earlier = sum(other.name == step.name for other in steps[:index])
        yield step, f"{step.name} {earlier + 1}" if earlier else step.name


def _files_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """Digests of what settings name by path (an adapter's folder): it may change, the name not."""
    paths = {key: Path(value) for key, value in settings.items() if key in PATH_SETTINGS and value}
    return {
        key: folder_digest(path) if path.is_dir() else file_digest(path)
        for key, path in paths.items()
        if path.exists()
    }


def _before(steps: list[ModuleStep]) -> dict[str, tuple[Path, str]]:
    if not steps:
        return {}
    return {"before": (steps[-1].outcome.folder, steps[-1].outcome.digest)}


def _plain_point(point: dict[str, Any]) -> dict[str, Any]:
    """A point without the time that it took: the same work gives the same points."""
    return {name: value for name, value in point.items() if name != "seconds"}


def _shapes(items: list[tuple[str, str, Any]]) -> str:
    return ", ".join(f"{name} {dtype} {list(shape)}" for name, dtype, shape in items)
