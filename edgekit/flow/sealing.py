"""From a judged build to the files of a bundle: golden vectors, manifest, evidence, model card."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgekit
from edgekit.bundle.manifest import (
    SCHEMA,
    Component,
    Evidence,
    Golden,
    Lineage,
    Manifest,
    StageRecord,
    StepFigures,
    StepRecord,
)
from edgekit.bundle.paths import file_name_for
from edgekit.core.artifact import Artifact
from edgekit.core.facts import ModelFacts
from edgekit.core.figure import Figure, exact
from edgekit.core.verdict import Verdict
from edgekit.data.dataset import Dataset
from edgekit.evaluate.metrics import Metric
from edgekit.flow.compressed import ModuleStep
from edgekit.flow.making import Products
from edgekit.flow.measuring import Measured
from edgekit.flow.mixed_results import Settled
from edgekit.flow.planning import Plan
from edgekit.flow.prepare import DataSets, Model
from edgekit.flow.results import BuildOptions
from edgekit.flow.toolchain import UsableToolchain
from edgekit.measure.host import describe_host
from edgekit.report.card import model_card
from edgekit.runtime.golden import encode_npy

GOLDEN_SAMPLES = 8
# Another processor rounds otherwise: float noise, or a step of 8 bits more or less after a few
# layers, which is about two hundredths of the span of an output.
FLOAT_TOLERANCE = 1e-3
SPAN_TOLERANCE = 0.02
CARD = "MODEL_CARD.md"
FLOAT = "float model"
QUANTIZE = "quantize"
METRIC, DROP = "metric_compressed", "metric_drop"

Files = dict[str, Path | bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """All that a manifest is made of."""

    model: Model
    plan: Plan
    options: BuildOptions
    data: DataSets
    metric: Metric
    products: Products
    module_steps: tuple[ModuleStep, ...]
    settled: Settled | None
    measured: Measured
    anti_patterns: tuple[str, ...]
    toolchain: UsableToolchain


def make_manifest(build: Build) -> tuple[Manifest, Files]:
    """The manifest (its list of files still empty) and every file of the bundle by path."""
    model, plan, options = build.model, build.plan, build.options
    artifact = shipped_artifact(build.products.final.artifact)
    golden, files = _golden(build)
    files[artifact.entry] = build.products.final.file
    files.update(model.side_files)
    manifest = Manifest(
        schema=SCHEMA,
        name=model.workload.name,
        device=plan.profile.name,
        target=plan.target.name,
        components=(Component(name="model", artifact=artifact, contract=model.contract),),
        files=(),
        golden=golden,
        lineage=_lineage(build),
        strategy=plan.strategy,
        limits=plan.limits,
        waived=tuple(limit.figure for limit in plan.limits if limit.figure in options.allow),
        seed=options.seed,
        effort=options.effort,
        metric=build.metric.name,
        steps=_step_records(build),
        anti_patterns=build.anti_patterns,
        versions=_versions(plan),
        toolchain=build.toolchain.digest,
        minimum_runtime=_minimum_runtime(plan),
        license=model.workload.license,
        description=model.workload.description,
    )
    files[CARD] = model_card(manifest).encode()
    return manifest, files


def make_evidence(build: Build, verdict: Verdict, notes: tuple[str, ...]) -> Evidence:
    """The evidence of a build on this machine; its bundle_id is filled in at sealing."""
    return Evidence(
        schema=SCHEMA,
        bundle_id="",
        host=describe_host(),
        figures=tuple(build.measured.figures.values()),
        verdict=verdict,
        audit=tuple(
            finding.message for report in build.products.audits for finding in report.findings
        ),
        notes=notes,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        steps=_step_figures(build),
    )


def _step_figures(build: Build) -> tuple[StepFigures, ...]:
    """By step, in order: what the model was after it. The last one is the artifact that ships."""
    measured, exported = build.measured.figures, _exported_facts(build)
    figures = {
        FLOAT: (
            *(measured[name] for name in ("metric_float", "artifact_float_bytes")),
            *_counts(build.model.facts, "counted in the captured graph"),
        )
    }
    figures |= {step.name: step.figures for step in build.module_steps}
    for name, size in build.products.step_bytes.items():
        how = "counted in the captured graph, of which this step changes none"
        figures[name] = (size, *_counts(exported, how), *_seconds(build, name))
        if name == QUANTIZE and build.settled is not None:
            figures[name] += build.settled.figures
    last = next(reversed(build.products.step_bytes))
    figures[last] += tuple(measured[name] for name in (METRIC, DROP) if name in measured)
    return tuple(StepFigures(name=name, figures=items) for name, items in figures.items())


def _exported_facts(build: Build) -> ModelFacts:
    """Of the model that was exported, as the last step on the module left it."""
    return build.module_steps[-1].facts if build.module_steps else build.model.facts


def _counts(facts: ModelFacts, how: str) -> tuple[Figure, ...]:
    counts = (("parameters", facts.parameters), ("macs", facts.macs))
    return tuple(exact(name, count, "", how) for name, count in counts)


def _seconds(build: Build, step: str) -> tuple[Figure, ...]:
    """How long a graph step took; nothing where the cache answered it."""
    made = (build.products.exported, *build.products.steps)
    names = dict(zip(build.products.step_bytes, made, strict=True))
    outcome = names[step].outcome
    if outcome.is_reused:
        return ()
    return (exact("seconds", round(outcome.seconds, 3), "s", "wall clock of the step"),)


def _step_records(build: Build) -> tuple[StepRecord, ...]:
    modules = [
        StepRecord(
            name=step.name,
            bytes=step.facts.weight_bytes,
            parameters=step.facts.parameters,
            macs=step.facts.macs,
        )
        for step in build.module_steps
    ]
    exported = _exported_facts(build)
    graphs = [
        StepRecord(
            name=name,
            bytes=int(figure.value or 0),
            parameters=exported.parameters,
            macs=exported.macs,
        )
        for name, figure in build.products.step_bytes.items()
    ]
    return (*modules, *graphs)


def shipped_artifact(artifact: Artifact) -> Artifact:
    """The artifact as it lies in the bundle: its file moved under ``model/``."""
    return replace(artifact, entry=f"model/{Path(artifact.entry).name}")


def _golden(build: Build) -> tuple[Golden, Files]:
    evaluation, contract = build.data.evaluation, build.model.contract
    # Every adapter that can be chosen is among them.
    count = min(max(GOLDEN_SAMPLES, evaluation.repeats), evaluation.count)
    given = _first_samples(evaluation, count)
    made = _first_samples(build.measured.outputs, count)
    inputs = {
        item.name: f"golden/inputs/{file_name_for(item.name)}.npy" for item in contract.given_inputs
    }
    outputs = {
        item.name: f"golden/outputs/{file_name_for(item.name)}.npy" for item in contract.outputs
    }
    files: Files = {path: encode_npy(given[name]) for name, path in inputs.items()}
    files.update({path: encode_npy(made[name]) for name, path in outputs.items()})
    tolerance = {name: _tolerance(made[name]) for name in outputs}
    golden = Golden(
        samples=count,
        inputs=inputs,
        outputs=outputs,
        tolerance=tolerance,
        adapters=_golden_adapters(build.model, count),
    )
    return golden, files


def _golden_adapters(model: Model, count: int) -> tuple[str, ...] | None:
    names = model.choices
    if len(names) == 1:
        return None
    return tuple(names[number % len(names)] for number in range(count))


def _first_samples(dataset: Dataset, count: int) -> Mapping[str, NDArray[Any]]:
    return next(dataset.batches(count))


def _tolerance(values: NDArray[Any]) -> float:
    if not np.issubdtype(values.dtype, np.floating):
        return 0.0
    span = float(values.max() - values.min())
    return float(f"{max(FLOAT_TOLERANCE, SPAN_TOLERANCE * span):.3g}")


def _lineage(build: Build) -> Lineage:
    data, plan = build.data, build.plan
    made = (build.products.exported, *build.products.steps, build.products.final)
    outcomes = [*(step.outcome for step in build.module_steps), *(item.outcome for item in made)]
    records = {
        item.name: StageRecord(name=item.name, key=item.key, output=item.digest)
        for item in outcomes
    }
    return Lineage(
        model=build.model.facts.digest,
        source=build.model.source.digest,
        calibration=data.calibration.digest,
        evaluation=data.evaluation.digest,
        selection=_digest(data.selection),
        training=_digest(data.training),
        unlabelled=_digest(data.unlabelled),
        files={**plan.profile.digests, **plan.target.digests},
        stages=tuple(records.values()),
    )


def _digest(dataset: Dataset | None) -> str:
    return "" if dataset is None else dataset.digest


def _versions(plan: Plan) -> dict[str, str]:
    names = [_package(item) for item in plan.target.toolchain.requirements]
    found = {"edgekit": edgekit.__version__}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = _pinned(name, plan)
    return found


def _minimum_runtime(plan: Plan) -> dict[str, str]:
    return {plan.target.runtime_package: plan.target.minimum_runtime_version}


def _package(requirement: str) -> str:
    for sign in ("==", ">=", "<=", "~=", "<", ">"):
        requirement = requirement.split(sign, 1)[0]
    return requirement.split("[", 1)[0].strip()


def _pinned(name: str, plan: Plan) -> str:
    """The version that a toolchain of its own holds: the one that the target pins."""
    for requirement in plan.target.toolchain.requirements:
        if _package(requirement) == name:
            return requirement.removeprefix(name).strip()
    return "unknown"
