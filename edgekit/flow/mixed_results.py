"""What report, evidence and plan say of a mixed precision that was solved for."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.core.codec import to_plain
from edgekit.core.figure import Figure, Place, Provenance, exact
from edgekit.core.mixed import Mixed
from edgekit.core.sensitivity import LayerSensitivity, PlanError, Sensitivity
from edgekit.core.units import format_bytes
from edgekit.flow.planning import Plan
from edgekit.flow.results import StepDetail
from edgekit.plan.mixed import TIME, WEIGHT_BYTES, layer_pattern, predicted_error, used
from edgekit.plan.mixed import Plan as MixedPlan

STAGE = "mixed precision"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A plan after mixed precision was solved for, with what report and evidence say of it."""

    plan: Plan
    detail: StepDetail
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One plan, measured whole. how: where it comes from."""

    how: str
    plan: MixedPlan
    measured: PlanError

    @property
    def forms(self) -> dict[str, str]:
        """The form of each layer's weight, by path."""
        return {path: choice.form for path, choice in self.plan.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """The plan that is kept, and what it was chosen by.

    tried: all plans that were measured, the kept one among them. found: what each layer costs.
    layers: those that were solved for. measured: the kept plan, judged by the metric too.
    file_bytes, file_bound: of the artifact; the bound is 0 where none was asked.
    """

    mixed: Mixed
    best: Tried
    tried: tuple[Tried, ...]
    found: Sensitivity
    layers: tuple[LayerSensitivity, ...]
    measured: PlanError
    file_bytes: int
    file_bound: int

    def counts(self) -> str:
        """How many layers have which precision: ``3 int4, 2 int8``."""
        counts = Counter(choice.precision for choice in self.best.plan.values())
        names = self.mixed.ordered()
        return ", ".join(f"{counts[name]} {name}" for name in names if counts[name])

    def figures(self) -> Iterator[Figure]:
        """What the evidence has of it."""
        plan, found, measured = self.best.plan, self.found, self.measured
        samples = f"{found.samples} calibration samples, weights alone, in torch"
        yield Figure(
            name="mixed_predicted_error",
            value=predicted_error(plan),
            unit="share",
            provenance=Provenance.ESTIMATED,
            place=Place.NOWHERE,
            how=f"sum of what each layer alone does to the outputs, as if it added up; {samples}",
        )
        how = f"squared error of the outputs over their squares, all layers at once; {samples}"
        yield exact("mixed_output_error", measured.error, "share", how)
        if measured.metric_drop is not None:
            how = f"{found.metric} on the data that choices are made on, weights alone, in torch"
            yield exact("mixed_metric_drop", measured.metric_drop, found.unit, how)
        how = "weights of the planned layers with the scales of their blocks"
        yield exact("mixed_weight_bytes", used(plan, WEIGHT_BYTES), "bytes", how)
        if self.mixed.max_latency_ratio:
            yield Figure(
                name="mixed_latency_ratio",
                value=used(plan, TIME),
                unit="ratio",
                provenance=Provenance.ESTIMATED,
                place=Place.NOWHERE,
                how="times of whole precisions, measured here, by multiply-accumulates",
            )

    def text(self) -> str:
        """The same in one sentence, for who waits."""
        plan, found, measured = self.best.plan, self.found, self.measured
        text = (
            f"{self.best.how} plan: {self.counts()}; error of the outputs {measured.error:.3g} "
            f"(predicted {predicted_error(plan):.3g}) on {found.samples} samples"
        )
        if measured.metric_drop is not None:
            text += f", {found.metric} drops {measured.metric_drop:.3g} {found.unit}"
        text += f"; weights take {format_bytes(used(plan, WEIGHT_BYTES))}"
        if self.file_bytes:
            bound = format_bytes(self.file_bound)
            text += f", the artifact {format_bytes(self.file_bytes)} of {bound}"
        return text

    def detail(self) -> StepDetail:
        """Every layer's figures and every plan that was compared, for the report."""
        points: tuple[Mapping[str, Any], ...] = tuple(
            {
                "name": item.how,
                "predicted_error": predicted_error(item.plan),
                "measured_error": item.measured.error,
                "weight_bytes": int(used(item.plan, WEIGHT_BYTES)),
                "is_kept": item is self.best,
            }
            for item in self.tried
        )
        values: dict[str, Any] = {
            "precisions": {path: choice.precision for path, choice in self.best.plan.items()},
            "patterns": {layer.path: layer_pattern(layer) for layer in self.layers},
            "measured": to_plain(self.measured),
            "sensitivity": to_plain(self.found),
        }
        return StepDetail(name=STAGE, points=points, values=values)
