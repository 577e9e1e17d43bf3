"""What long work is doing, on stderr: live bars on a terminal, plain lines anywhere else."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from edgekit.cli.output import console_for, remark
from edgekit.core.progress import Event, Listener

# A log stays readable at a line every so many seconds for one stage that keeps saying things.
PLAIN_INTERVAL_S = 5.0


@contextmanager
def listening() -> Iterator[Listener]:
    """A listener for the length of one piece of work."""
    console = console_for(sys.stderr)
    if not console.is_terminal:
        yield _PlainLines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[stage]}", style="bold", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _LiveBars(progress)


class _PlainLines:
    """One line when a stage starts to say something new, and at intervals after that."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, float]] = {}

    def __call__(self, event: Event) -> None:
        if event.kind != "progress":
            remark(event.kind, f"{event.stage}: {event.message}")
            return
        message, said_at = self._last.get(event.stage, ("", float("-inf")))
        now = time.monotonic()
        is_new = event.message != message and event.fraction in (None, 0.0)
        if is_new or now - said_at >= PLAIN_INTERVAL_S:
            self._last[event.stage] = (event.message, now)
            share = "" if event.fraction is None else f" ({event.fraction:.0%})"
            remark(event.stage, f"{event.message}{share}")


class _LiveBars:
    """One bar a stage; notes and warnings scroll past above them."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        if event.kind != "progress":
            self._progress.console.print(f"{event.kind}: {event.stage}: {event.message}")
            return
        if event.stage not in self._tasks:
            self._tasks[event.stage] = self._progress.add_task("", total=None, stage=event.stage)
        total = None if event.fraction is None else 1.0
        self._progress.update(
            self._tasks[event.stage],
            description=event.message,
            total=total,
            completed=event.fraction or 0.0,
        )
