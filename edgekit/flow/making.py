"""From a captured model to the artifact that ships: export, steps, audit, strip."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.core.artifact import Artifact
from edgekit.core.codec import from_plain, to_plain
from edgekit.core.errors import StepError
from edgekit.core.figure import Figure
from edgekit.core.strategy import PlannedStep, Quantize
from edgekit.flow.calls import Inputs, StageCaller
from edgekit.flow.prepare import DataSets
from edgekit.flow.results import LayerSize
from edgekit.flow.stages import StageOutcome
from edgekit.graph import Graph, read_graph
from edgekit.measure.audit import AuditReport, audit_quantization
from edgekit.measure.size import artifact_bytes
from edgekit.plan.recipe import X86_NAMES

TENSOR_MAP = "tensor_map.json"
LARGEST_LAYERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One artifact and the stage that made it."""

    artifact: Artifact
    outcome: StageOutcome

    @property
    def file(self) -> Path:
        """The file that the engine opens."""
        return self.outcome.folder / self.artifact.entry

    def graph(self) -> Graph:
        """The artifact, opened by our own reader."""
        return read_graph(self.file.read_bytes(), name=self.artifact.entry)

    def tensor_map(self) -> Mapping[str, str]:
        """Module path by tensor name, where the stage kept it."""
        path = self.outcome.folder / TENSOR_MAP
        found: Mapping[str, str] = json.loads(path.read_bytes()) if path.is_file() else {}
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """What was made: both artifacts as they ship, and what the audit found on the way.

    exported: the float artifact with its names. steps: after each step, with names. baseline,
    final: float and last artifact as they ship. step_bytes: file size after each step by name.
    """

    exported: Made
    steps: tuple[Made, ...]
    baseline: Made
    final: Made
    audits: tuple[AuditReport, ...]
    step_bytes: dict[str, Figure]

    @property
    def named(self) -> Made:
        """The last artifact while it still had its names."""
        return self.steps[-1] if self.steps else self.exported


class Maker(StageCaller):
    """Runs the compile stages of one build in the target's toolchain."""

    def export(self) -> Made:
        """The float artifact, names and all.

        Raises: CompileError when the target cannot take the model.
        """
        return self._run(
            "export",
            self.plan.compiler.export,
            {},
            {"model": (self.model.folder, self.model.facts.digest)},
        )

    def make(self, exported: Made, data: DataSets) -> Products:
        """Apply every planned step to the float artifact, audit each, strip.

        Raises: CompileError or StepError; an audit that is not accepted is a StepError.
        """
        current, steps, audits = exported, [], []
        step_bytes = {"export": artifact_bytes([exported.file])}
        for step in self.plan.strategy.steps:
            if step.is_run:
                before, current = current, self._apply(step, current, data)
                steps.append(current)
                _require_change(step, before, current)
                if step.name == "quantize":
                    audits.append(self._audit(step, before, current))
                step_bytes[step.name] = artifact_bytes([current.file])
        baseline = self._finish("strip float", exported)
        return Products(
            exported=exported,
            steps=tuple(steps),
            baseline=baseline,
            final=self._finish("strip", current) if steps else baseline,
            audits=tuple(audits),
            step_bytes=step_bytes,
        )

    def _apply(self, step: PlannedStep, made: Made, data: DataSets) -> Made:
        return self._run(
            step.name,
            self.plan.compiler.steps[step.name],
            {"artifact": to_plain(made.artifact), step.name: step.settings},
            {
                "float": (made.outcome.folder, made.outcome.digest),
                "calibration": (data.calibration.path, data.calibration.digest),
            },
        )

    def _audit(self, step: PlannedStep, before: Made, after: Made) -> AuditReport:
        settings = from_plain(Quantize, step.settings, where=step.name, error=StepError)
        report = audit_quantization(
            before.graph(),
            after.graph(),
            settings=settings,
            tensor_map={**before.tensor_map(), **after.tensor_map()},
            tolerance=self.plan.profile.float_share_tolerance,
        )
        for finding in report.findings:
            self.reporter.note(f"audit: {finding.message}")
        if not report.is_accepted:
            lines = "\n".join(f"  {finding.message}" for finding in report.findings)
            raise StepError(
                f"step '{step.name}' did not do what the strategy asks (audit of the artifact):\n"
                f"{lines}\nleave these layers out by name (--layer PATTERN=float), choose another "
                "precision or target, or raise the profile's float_share_tolerance"
            )
        return report

    def _finish(self, name: str, made: Made) -> Made:
        compiler = self.plan.compiler
        finished = self._run(
            name,
            compiler.strip,
            {"artifact": to_plain(made.artifact)},
            {"artifact": (made.outcome.folder, made.outcome.digest)},
        )
        if not compiler.mobile or self.plan.profile.family != "phone":
            return finished
        return self._run(
            name.replace("strip", "mobile"),
            compiler.mobile,
            {"artifact": to_plain(finished.artifact), "platform": self._platform()},
            {"artifact": (finished.outcome.folder, finished.outcome.digest)},
        )

    def _platform(self) -> str:
        """The processor family that a mobile format is optimized for."""
        is_x86 = self.plan.profile.hardware.architecture.value.lower() in X86_NAMES
        return "amd64" if is_x86 else "arm"

    def _run(self, name: str, handler: str, settings: Mapping[str, Any], inputs: Inputs) -> Made:
        outcome = self.call(name, handler, settings, inputs)
        artifact = from_plain(Artifact, outcome.values["artifact"], where=f"stage {name}")
        return Made(artifact=artifact, outcome=outcome)


def _require_change(step: PlannedStep, before: Made, after: Made) -> None:
    if before.file.read_bytes() == after.file.read_bytes():
        raise StepError(
            f"step '{step.name}' changed nothing: the artifact is the same, byte for byte; look at "
            "its settings, or take it out of the strategy"
        )


def largest_layers(made: Made) -> tuple[LayerSize, ...]:
    """The layers whose weights take the most bytes in an artifact."""
    names = made.tensor_map()
    sizes = [
        LayerSize(
            layer=names.get(tensor.name, tensor.name), bytes=tensor.stored_bytes, dtype=tensor.dtype
        )
        for subgraph in made.graph().subgraphs
        for tensor in subgraph.tensors
        if tensor.is_constant
    ]
    return tuple(sorted(sizes, key=lambda item: -item.bytes)[:LARGEST_LAYERS])
