"""The one place that joins the rooms: a workload and a device in, a sealed bundle out.

In order: output path, source, plan, operator support, data, float reference, export, steps with
audits, strip, measurements, verdict, bundle. Whatever can be refused is refused as early as it
can be, and nothing is written to the output before the verdict allows it.
"""

import time
from dataclasses import replace
from pathlib import Path

from edgekit.bundle.beside import fault_beside, zip_path
from edgekit.bundle.seal import check_output, check_zip_output, seal_bundle
from edgekit.core.errors import BudgetError
from edgekit.core.progress import Event, Listener, Reporter, ignore
from edgekit.core.strategy import ActsOn
from edgekit.core.verdict import Standing, Status, Verdict, deliver_verdict
from edgekit.core.workload import Workload
from edgekit.evaluate.metrics import Metric
from edgekit.flow.advice import advise
from edgekit.flow.antipatterns import find_anti_patterns
from edgekit.flow.compressed import Compressed
from edgekit.flow.making import Maker, largest_layers
from edgekit.flow.measuring import Measurer
from edgekit.flow.planning import Plan, find_place, make_plan
from edgekit.flow.prepare import DataSets, Model, capture_model, write_data
from edgekit.flow.report_folder import check_report, write_report
from edgekit.flow.results import BuildOptions, BuildResult, StageLine, StepDetail
from edgekit.flow.sealing import Build, make_evidence, make_manifest
from edgekit.flow.sources import NOTHING, SourceOptions, resolve_source
from edgekit.flow.stages import REUSED, Runner
from edgekit.flow.toolchain import resolve
from edgekit.flow.workspace import workspace
from edgekit.plan.support import require_support
from edgekit.store import Store

# What the cache is cut down to after a build, the longest unused results first.
CACHE_BYTES = 20 * 10**9
PLAN = "plan"


def build(
    source: str | Path | Workload,
    options: BuildOptions,
    *,
    listener: Listener = ignore,
    source_options: SourceOptions = NOTHING,
) -> BuildResult:
    """Build a bundle and prove it, or say why not.

    Raises: BudgetError, with the result in its attribute ``result``, when the verdict refuses the
    artifact or does not reach ``options.require``; other EdgekitErrors for what stops the build.
    """
    started = time.monotonic()
    heard = _Notes(listener)
    if options.out is not None:
        _check_place(options.out, options)
    profile, _ = find_place(options)
    with workspace() as work, Store() as store:
        resolved = resolve_source(source, work, source_options)
        out = options.out or Path(f"{resolved.workload.name}-{profile.name}.edgekit")
        _check_place(out, options)
        model = capture_model(resolved, work, heard)
        plan = make_plan(model, options)
        require_support(model.facts, plan.target)
        runner = Runner(store, heard, seed=options.seed, refresh=options.is_refreshed)
        result = _Build(model, plan, runner, heard, options, started).run(work, out)
        store.close()
        store.bound(CACHE_BYTES)
    return result


class _Notes:
    """A listener that keeps what was said aloud, for the evidence."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.lines: list[str] = []

    def __call__(self, event: Event) -> None:
        # What the cache held is no property of the bundle; what the plan says is in its strategy.
        is_told = event.kind == "progress" or event.message == REUSED or event.stage == PLAN
        if not is_told:
            self.lines.append(f"{event.stage}: {event.message}")
        self._listener(event)


class _Build:
    """One build after planning: what its parts share."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        runner: Runner,
        heard: _Notes,
        options: BuildOptions,
        started: float,
    ) -> None:
        self.started = started
        self.model = model
        self.plan = plan
        self.runner = runner
        self.heard = heard
        self.options = options
        self.toolchain = resolve(plan.target)

    def run(self, work: Path, out: Path) -> BuildResult:
        reporter = Reporter(stage="build", listener=self.heard)
        planner = Reporter(stage=PLAN, listener=self.heard)
        for step in self.plan.strategy.skipped:
            planner.note(f"step '{step.name}' is skipped: {step.reason}")
        module_steps = self.plan.steps_on(ActsOn.MODULE)
        data, metric = write_data(self.model, work, self.heard, has_training=bool(module_steps))
        maker = Maker(self.model, self.plan, self.runner, self.toolchain, reporter)
        measurer = Measurer(self.model, self.plan, self.runner, self.toolchain, reporter)
        reference = measurer.torch_reference(data)
        if reference is not None:
            measurer.check_metric(metric, reference, data)
        exported = maker.export()
        if reference is None:
            # A graph source is its own reference: the float file in its own runtime.
            reference = measurer.predict("reference", exported, data)
            measurer.check_metric(metric, reference, data)
        compressed = self._compress(data, metric, work)
        self.plan = compressed.plan
        maker = Maker(self.model, self.plan, self.runner, self.toolchain, reporter)
        start = maker.export(compressed.model) if compressed.steps else exported
        products = maker.make(exported, start, data, ranges=compressed.ranges)
        measured = measurer.measure(products, metric, reference, data)
        verdict = deliver_verdict(self.plan.limits, measured.figures, waived=self.options.allow)
        made = Build(
            model=self.model,
            plan=self.plan,
            options=self.options,
            data=data,
            metric=metric,
            products=products,
            module_steps=compressed.steps,
            settled=compressed.settled,
            measured=measured,
            anti_patterns=find_anti_patterns(
                self.plan.profile,
                self.plan.strategy,
                measured.drift,
                products.weight_errors() if self.plan.quantize else (),
            ),
            toolchain=self.toolchain,
        )
        return self._conclude(out, made, verdict)

    def _compress(self, data: DataSets, metric: Metric, work: Path) -> Compressed:
        is_mixed = self.plan.quantize is not None and self.plan.quantize.mixed is not None
        if not (self.plan.steps_on(ActsOn.MODULE) or is_mixed):
            return Compressed(model=self.model, plan=self.plan)
        # Only a strategy that changes the module or measures its layers needs the room that trains.
        from edgekit.flow.compressing import Compressor  # noqa: PLC0415

        compressor = Compressor(
            self.model,
            self.plan,
            self.runner,
            data,
            metric,
            work=work,
            listener=self.heard,
        )
        return compressor.compress()

    def _conclude(self, out: Path, made: Build, verdict: Verdict) -> BuildResult:
        manifest, files = make_manifest(made)
        evidence = make_evidence(made, verdict, tuple(self.heard.lines))
        result = BuildResult(
            verdict=verdict,
            manifest=manifest,
            evidence=evidence,
            bundle=None,
            bundle_id="",
            report=None,
            stages=self._stages(),
            largest_layers=largest_layers(made.products.named),
            steps=tuple(
                StepDetail(name=step.name, points=step.points, values=step.values)
                for step in made.module_steps
            )
            + (() if made.settled is None else (made.settled.detail,)),
            advice=advise(
                self.plan, verdict, made.measured.figures, made.products, made.module_steps
            ),
            seconds=time.monotonic() - self.started,
        )
        self._require(result)
        sealed = seal_bundle(
            out,
            manifest,
            files,
            lambda bundle_id: replace(evidence, bundle_id=bundle_id),
            force=self.options.is_forced,
            zip_out=zip_path(out) if self.options.is_packed else None,
        )
        self._warn_of_zip(out, sealed.bundle_id)
        result = replace(
            result,
            bundle=out,
            bundle_id=sealed.bundle_id,
            manifest=sealed.manifest,
            evidence=sealed.evidence,
        )
        return replace(result, report=write_report(out, result, made.products))

    def _warn_of_zip(self, out: Path, bundle_id: str) -> None:
        """Name an older build's zip that this one leaves beside its folder."""
        fault = "" if self.options.is_packed else fault_beside(out, bundle_id)
        if fault:
            Reporter(stage="build", listener=self.heard).warn(f"{out}: {fault}")

    def _require(self, result: BuildResult) -> None:
        standing = result.verdict.standing
        if standing is Standing.PROVEN:
            return
        if standing is Standing.CANDIDATE and self.options.require == "candidate":
            return
        missed = result.verdict.of(Status.FAIL, Status.INCONCLUSIVE, Status.PENDING, Status.WAIVED)
        lines = "; ".join(f"{item.limit.figure}: {item.status} ({item.reason})" for item in missed)
        wanted = f"{self.plan.profile.name}: " + (
            "refused" if standing is Standing.REFUSED else "a candidate, and proven was required"
        )
        raise BudgetError(f"{wanted}; {lines}", result=result)

    def _stages(self) -> tuple[StageLine, ...]:
        return tuple(
            StageLine(name=item.name, is_reused=item.is_reused, seconds=item.seconds)
            for item in self.runner.outcomes
        )


def _check_place(out: Path, options: BuildOptions) -> None:
    check_output(out, force=options.is_forced)
    check_report(out)
    if options.is_packed:
        check_zip_output(zip_path(out), force=options.is_forced)
