"""How long work tells what it is doing: a callable that takes events, and a way to stop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something a stage wants known.

    kind: "progress" (fraction 0..1 of the stage, or None), "note" (for the report and stderr) or
    "warning".
    """

    stage: str
    kind: Literal["progress", "note", "warning"]
    message: str
    fraction: float | None = None


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener for those who do not want to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """One stage's handle on a listener."""

    stage: str
    listener: Listener = ignore

    def progress(self, message: str, fraction: float | None = None) -> None:
        """Say how far the stage is."""
        self.listener(Event(stage=self.stage, kind="progress", message=message, fraction=fraction))

    def note(self, message: str) -> None:
        """Say something that belongs in the report."""
        self.listener(Event(stage=self.stage, kind="note", message=message))

    def warn(self, message: str) -> None:
        """Say something that the user should look at."""
        self.listener(Event(stage=self.stage, kind="warning", message=message))
