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
from edgekit.core.strategy import ActsOn, PlannedStep, Quantize
from edgekit.flow.calls import Inputs, StageCaller
from edgekit.flow.prepare import DataSets, Model
from edgekit.flow.results import LayerSize
from edgekit.flow.stages import StageOutcome
from edgekit.graph import Graph, read_graph
from edgekit.measure.audit import AuditReport, audit_quantization
from edgekit.measure.audit_loaded import floats_when_loaded, why_unseen
from edgekit.measure.size import artifact_bytes
from edgekit.measure.weight_errors import WeightError, weight_errors
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

    exported: the float artifact of the model that the steps left, with its names; of the user's own
    where no step changed the model. steps: after each graph step, with names. baseline: the user's
    model in float, final: the last artifact, both as they ship. step_bytes: by graph step, the size
    of its file as it would ship, without names.
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

    def weight_errors(self) -> tuple[WeightError, ...]:
        """What the graph steps did to the weights of each layer."""
        names = {**self.exported.tensor_map(), **self.named.tensor_map()}
        return weight_errors(self.exported.graph(), self.named.graph(), names)


class Maker(StageCaller):
    """Runs the compile stages of one build in the target's toolchain."""

    def export(self, model: Model | None = None) -> Made:
        """The float artifact, names and all, of the user's model or of what steps made of it.

        Raises: CompileError when the target cannot take the model.
        """
        chosen = model or self.model
        return self._run(
            "export" if chosen is self.model else "export compressed",
            self.plan.compiler.export,
            {},
            {"model": (chosen.folder, chosen.facts.digest)},
        )

    def make(
        self,
        original: Made,
        exported: Made,
        data: DataSets,
        *,
        ranges: tuple[Path, str] | None = None,
    ) -> Products:
        """Apply every planned graph step to a float artifact, audit each, strip.

        original: the user's model in float, which everything is compared with. ranges: a folder
        with those that activations were trained with, and its digest.
        Raises: CompileError or StepError; an audit that is not accepted is a StepError.
        """
        current, steps, audits = exported, [], []
        stripped: dict[Path, Made] = {}
        planned = self.plan.steps_on(ActsOn.GRAPH)
        for step in planned:
            before, current = current, self._apply(step, current, data, ranges)
            steps.append(current)
            _require_change(step, before, current)
            if step.name == "quantize":
                # The engine loads the stripped file, whose shared constants it may join otherwise.
                stripped[current.file] = self._strip("strip", current)
                audits.append(self._audit(step, before, current, stripped[current.file]))
        baseline = self._finish("strip float", original)
        names = ("export", *(step.name for step in planned))
        shipped = {original.file: baseline}
        for name, made in zip(names, (exported, *steps), strict=True):
            if made.file not in shipped:
                label = "strip" if made is current else f"strip after {name}"
                shipped[made.file] = self._finish(label, made, stripped.get(made.file))
        return Products(
            exported=exported,
            steps=tuple(steps),
            baseline=baseline,
            final=shipped[current.file],
            audits=tuple(audits),
            step_bytes={
                name: artifact_bytes([shipped[made.file].file])
                for name, made in zip(names, (exported, *steps), strict=True)
            },
        )

    def _apply(
        self, step: PlannedStep, made: Made, data: DataSets, ranges: tuple[Path, str] | None
    ) -> Made:
        return self._run(
            step.name,
            self.plan.compiler.steps[step.name],
            {"artifact": to_plain(made.artifact), step.name: step.settings},
            {
                "float": (made.outcome.folder, made.outcome.digest),
                "calibration": (data.calibration.path, data.calibration.digest),
                **({} if ranges is None else {"ranges": ranges}),
            },
        )

    def _audit(self, step: PlannedStep, before: Made, after: Made, stripped: Made) -> AuditReport:
        settings = from_plain(Quantize, step.settings, where=step.name, error=StepError)
        shipped = stripped.file.read_bytes()
        report = audit_quantization(
            before.graph(),
            after.graph(),
            settings=settings,
            tensor_map={**before.tensor_map(), **after.tensor_map()},
            tolerance=self.plan.profile.float_share_tolerance,
            floats_when_loaded=floats_when_loaded(
                shipped, settings, is_x86=self._platform() == "amd64"
            ),
        )
        if unseen := why_unseen(shipped, settings):
            self.reporter.note(f"audit: {unseen}")
        for finding in report.findings:
            self.reporter.note(f"audit: {finding.message}")
        if not report.is_accepted:
            raise _refusal(step, report)
        return report

    def _strip(self, name: str, made: Made) -> Made:
        return self._run(
            name,
            self.plan.compiler.strip,
            {"artifact": to_plain(made.artifact)},
            {"artifact": (made.outcome.folder, made.outcome.digest)},
        )

    def _finish(self, name: str, made: Made, stripped: Made | None = None) -> Made:
        compiler, finished = self.plan.compiler, stripped or self._strip(name, made)
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


def _refusal(step: PlannedStep, report: AuditReport) -> StepError:
    """What an audit did not accept, and what to do."""
    wrong = [finding for finding in report.findings if finding.severity != "note"]
    lines = "\n".join(f"  {finding.message}" for finding in wrong)
    return StepError(
        f"step '{step.name}' did not do what the strategy asks (audit of the artifact):\n{lines}\n"
        "give these layers what the target has for them, or leave them in float (--layer "
        "PATTERN=int8, PATTERN=float), choose another precision or target, or raise the profile's "
        "float_share_tolerance"
    )
