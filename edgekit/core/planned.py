"""What became of a strategy's steps: all that a bundle's manifest keeps of it.

Apart from ``strategy``, which names the same classes: a device that opens a bundle needs these two
and none of the settings.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """One step after planning: whether it runs, why, and its full settings as plain values.

    is_unneeded: True for a step that does not run because it would buy this model nothing here;
    None, which manifests leave out, for all others.
    """

    name: str
    is_run: bool
    reason: str
    settings: dict[str, Any] = field(default_factory=dict)
    is_unneeded: bool | None = None

    @property
    def is_needed(self) -> bool:
        """Whether the step runs, or would where what it lacks were there."""
        return not self.is_unneeded


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """All planned steps in order, skipped ones among them."""

    steps: tuple[PlannedStep, ...]

    @property
    def skipped(self) -> tuple[PlannedStep, ...]:
        """The steps that will not run, and could where what they lack were there."""
        return tuple(step for step in self.steps if not step.is_run and step.is_needed)

    @property
    def unneeded(self) -> tuple[PlannedStep, ...]:
        """The steps that will not run because they would buy this model nothing."""
        return tuple(step for step in self.steps if not step.is_needed)
