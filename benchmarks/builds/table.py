"""Records held against their bars, as Markdown and as plain values."""

from collections.abc import Iterable
from typing import Any

from benchmarks.builds.cell import Cell
from benchmarks.builds.record import Record
from edgekit.core.codec import to_plain
from edgekit.core.figure import Figure
from edgekit.core.verdict import Limit, Status, judge

HEADER = (
    "| cell | bytes | share of float | metric, float → compressed | drop, points [95%] "
    "| times as fast [95%]; of the minima | bars |"
)
CERTAINTY = {
    Status.PASS: "",
    Status.FAIL: "",
    Status.INCONCLUSIVE: " (the interval straddles the bar)",
}


def is_met(cell: Cell, record: Record) -> bool:
    """Whether a cell does all that is asked of it, by the figures' values."""
    if cell.is_refusal_wanted:
        return record.outcome == "refused" and "metric_drop" in record.failed
    figures = _figures(record)
    return record.outcome != "not built" and all(
        _is_inside(bar, figures.get(bar.figure)) for bar in cell.bars
    )


def markdown(cells: Iterable[Cell], records: dict[str, Record]) -> str:
    """One row a cell; a cell without a record says so."""
    lines = [HEADER, "|---" * HEADER.count(" |") + "|"]
    for cell in cells:
        record = records.get(cell.name)
        lines.append(_row(cell, record) if record else f"| {cell.name} | not run | | | | | |")
    return "\n".join(lines)


def plain(cells: Iterable[Cell], records: dict[str, Record]) -> list[dict[str, Any]]:
    """The same for ``--json``, with every figure and every bar."""
    return [
        {
            "cell": cell.name,
            "is_met": is_met(cell, records[cell.name]),
            "bars": _bars(cell, records[cell.name]),
            **to_plain(records[cell.name]),
        }
        for cell in cells
        if cell.name in records
    ]


def _row(cell: Cell, record: Record) -> str:
    if record.outcome == "not built":
        first_line = record.message.splitlines()[0].replace("|", "\\|")
        return f"| {cell.name} | not built: {first_line} | | | | | missed |"
    figures = _figures(record)
    columns = (
        cell.name,
        f"{figures['artifact_bytes'].value:,.0f}",
        f"{100 * figures['share'].value:.1f}%",
        f"{_level(figures['metric_float'])} → {_level(figures['metric_compressed'])}",
        _drop(figures["metric_drop"]),
        _speed_up(record),
        "; ".join(_bars(cell, record)),
    )
    return "| " + " | ".join(columns) + " |"


def _bars(cell: Cell, record: Record) -> list[str]:
    if cell.is_refusal_wanted:
        said = "met" if is_met(cell, record) else "missed"
        return [f"refused for its drop: {said} ({record.outcome})"]
    figures = _figures(record)
    asked = [_bar(bar, figures.get(bar.figure)) for bar in cell.bars]
    seen = [
        f"no bar; against {_bound(limit)}: {judge(limit, figures[limit.figure]).status}"
        for limit in cell.watched
        if limit.figure in figures
    ]
    return asked + seen


def _bar(limit: Limit, figure: Figure | None) -> str:
    if figure is None:
        return f"{_bound(limit)}: missed (not measured)"
    said = "met" if _is_inside(limit, figure) else "missed"
    return f"{_bound(limit)}: {said}{CERTAINTY.get(judge(limit, figure).status, '')}"


def _bound(limit: Limit) -> str:
    if limit.figure == "share":
        return f"≤ {100 * limit.bound:.3g}% of the bytes"
    if limit.figure == "latency_ratio":
        return f"≥ {1 / limit.bound:.3g}x as fast"
    return f"drop ≤ {limit.bound:.3g} points"


def _is_inside(limit: Limit, figure: Figure | None) -> bool:
    """By the value alone: with 2,000 images no interval can be inside 0.1 point."""
    return figure is not None and figure.value is not None and figure.value <= limit.bound


def _figures(record: Record) -> dict[str, Figure]:
    run = record.quietest()
    return {**record.figures, **(run.figures if run else {})}


def _level(figure: Figure) -> str:
    return f"{figure.value:.2f}%" if figure.unit == "%" else f"{figure.value:.4f}"


def _drop(figure: Figure) -> str:
    return f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def _speed_up(record: Record) -> str:
    run = record.quietest()
    if run is None:
        return "not measured"
    ratio = run.figures["latency_ratio"]
    low, high = 1 / ratio.high, 1 / ratio.low
    count = len(record.latency)
    times = f"{count} run{'s' if count > 1 else ''}, load {run.load:.1f}"
    return f"{1 / ratio.value:.2f} [{low:.2f}, {high:.2f}]; {1 / run.minimum_ratio:.2f} ({times})"
