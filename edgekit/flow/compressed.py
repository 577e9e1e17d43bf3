"""What the module steps of a strategy made, for those parts of a build that need no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.core.facts import ModelFacts
from edgekit.core.figure import Figure
from edgekit.flow.prepare import Model
from edgekit.flow.stages import StageOutcome


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
    """The model after all module steps; the user's own where there are none."""

    model: Model
    steps: tuple[ModuleStep, ...] = ()
