"""The list of faults: each names what was sabotaged, who must notice, and how it is tried."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Catcher = Literal["audit", "verdict", "verification", "input check", "measurement", "store"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One seeded fault. attempt: tries it on a kit and asserts on the message that catches it."""

    name: str
    what: str
    caught_by: Catcher
    attempt: Callable[[Any], None]


FAULTS: list[Fault] = []


def fault(caught_by: Catcher) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Put a function on the list; its name says what the fault is, its docstring in words."""

    def enlist(attempt: Callable[[Any], None]) -> Callable[[Any], None]:
        FAULTS.append(
            Fault(
                name=attempt.__name__,
                what=(attempt.__doc__ or "").strip(),
                caught_by=caught_by,
                attempt=attempt,
            )
        )
        return attempt

    return enlist
