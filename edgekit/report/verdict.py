"""The verdict: a row for every limit, and what they add up to in one loud line."""

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from edgekit.core.units import format_quantity
from edgekit.core.verdict import Judgement, Limit, Standing, Status, Verdict
from edgekit.report.figures import figure_evidence, figure_value
from edgekit.report.parts import bullets, table

STATUS_STYLES = {
    Status.PASS: "green",
    Status.FAIL: "bold red",
    Status.INCONCLUSIVE: "yellow",
    Status.PENDING: "cyan",
    Status.WAIVED: "magenta",
}
STANDING_STYLES = {
    Standing.PROVEN: "bold green",
    Standing.CANDIDATE: "bold yellow",
    Standing.REFUSED: "bold red",
}
# Six columns with reasons are readable from here on; below it the reasons stand underneath.
WIDE_COLUMNS = 120


@dataclass(frozen=True, slots=True)
class VerdictTable:
    """A row for every limit.

    Reasons are a column where there is room; else those that did not pass have theirs below.
    """

    verdict: Verdict

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        headings = ("limit", "figure", "bound", "verdict", "evidence")
        rows = [_cells(item) for item in self.verdict.judgements]
        if options.max_width >= WIDE_COLUMNS:
            reasons = [item.reason for item in self.verdict.judgements]
            wide = [(*row, why) for row, why in zip(rows, reasons, strict=True)]
            yield table((*headings, "reason"), wide)
            return
        yield table(headings, rows)
        unpassed = (item for item in self.verdict.judgements if item.status is not Status.PASS)
        yield bullets("Reasons", (f"{item.limit.figure}: {item.reason}" for item in unpassed))


def _cells(item: Judgement) -> tuple[str, str, str, Text, str]:
    return (
        item.limit.figure,
        figure_value(item.figure),
        bound_text(item.limit),
        Text(item.status.value.upper(), style=STATUS_STYLES[item.status]),
        figure_evidence(item.figure),
    )


def bound_text(limit: Limit) -> str:
    """``at most 100 MB``."""
    sense = limit.sense.value.replace("_", " ")
    return f"{sense} {format_quantity(limit.bound, limit.unit)}"


def accepted_text(limit: Limit) -> str:
    """The kinds of evidence that may settle a limit: ``emulator or device``."""
    return " or ".join(kind.value for kind in limit.accepts)


def standing_line(verdict: Verdict) -> Text:
    """The standing, and every limit that keeps it from being proven, by name."""
    opening = verdict.standing.value.upper()
    return Text(f"{opening}: {standing_reason(verdict)}", style=STANDING_STYLES[verdict.standing])


def standing_reason(verdict: Verdict) -> str:
    """What a standing rests on, in one sentence without colour."""
    if not verdict.judgements:
        return "the profile sets no limit, and nothing proves nothing"
    words = (
        (Status.FAIL, "missed"),
        (Status.INCONCLUSIVE, "inconclusive"),
        (Status.PENDING, "pending"),
        (Status.WAIVED, "waived by --allow"),
    )
    parts = [_counted(verdict.of(status), word) for status, word in words if verdict.of(status)]
    passed = len(verdict.of(Status.PASS))
    parts.append(f"{passed} of {len(verdict.judgements)} limits hold")
    return "; ".join(parts)


def _counted(items: tuple[Judgement, ...], word: str) -> str:
    count = f"{len(items)} limit{'s' if len(items) > 1 else ''} {word}"
    return f"{count}: {', '.join(_named(item) for item in items)}"


def _named(item: Judgement) -> str:
    if item.status is Status.PENDING:
        return f"{item.limit.figure} (needs {accepted_text(item.limit)})"
    return item.limit.figure
