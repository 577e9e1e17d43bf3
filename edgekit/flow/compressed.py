"""What the module steps of a strategy made, for those parts of a build that need no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.core.facts import ModelFacts
from edgekit.core.figure import Figure
from edgekit.flow.mixed_results import Settled
from edgekit.flow.planning import Plan
from edgekit.flow.prepare import Model
from edgekit.flow.stages import StageOutcome
from edgekit.graph.ranges import FILE as RANGES


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleStep:
    """One module step that ran.

    facts: of the model after it. figures: metric, drop, parameters, multiply-accumulates, bytes of
    the float weights and seconds. points: every point on the way, as plain values.
    """

    name: str
    outcome: StageOutcome
    facts: ModelFacts
    figures: tuple[Figure, ...]
    points: tuple[Mapping[str, Any], ...]
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """The model after all module steps; the user's own where there are none.

    plan: with what became of the steps: those that bought nothing did not run. settled: mixed
    precision, which the plan has solved then; None where it was not asked.
    """

    model: Model
    plan: Plan
    steps: tuple[ModuleStep, ...] = ()
    settled: Settled | None = None

    @property
    def ranges(self) -> tuple[Path, str] | None:
        """The last step's folder that holds trained ranges of activations, with its digest."""
        folders = ((step.outcome.folder, step.outcome.digest) for step in reversed(self.steps))
        return next((item for item in folders if (item[0] / RANGES).is_file()), None)
