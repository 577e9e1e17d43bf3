"""The table of the results, as docs/results.md shows it."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from benchmarks.quantization.models import SUBJECTS
from benchmarks.quantization.rows import Row

Record = Mapping[str, Any]


def markdown(rows: Sequence[Row], records: Mapping[str, Record]) -> str:
    """One table for each model, target and kind."""
    parts = []
    for (subject, target, kind), group in groupby(
        rows, key=lambda row: (row.subject, row.target, row.kind)
    ):
        sets = list(SUBJECTS[subject].sets)
        head = ["tool, recipe", *(_heading(subject, name) for name in sets), "bytes", "share"]
        head += ["speed-up (median)"]
        lines = [f"**{subject}, {target}, {kind}**", "", _line(head), _line(["---"] * len(head))]
        lines += [_line(_cells(row, records.get(row.name), sets)) for row in group]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _heading(subject: str, name: str) -> str:
    score = SUBJECTS[subject].score
    if score == "top-1":
        return f"points lost, {name} (lost/won)"
    if score == "tokens":
        return f"nll added, KL, agreement, {name}"
    return f"cosine, {name} (least)"


def _cells(row: Row, record: Record | None, sets: Sequence[str]) -> list[str]:
    if record is None:
        return [row.title, "not run"]
    if "fault" in record:
        return [row.title, f"not made: {record['fault'][:100]}"]
    speed = record["speed_up"]
    return [
        row.title,
        *(_score(record[name]) for name in sets),
        f"{record['stripped_bytes']:,}",
        f"{record['share']:.1%}",
        f"{speed['minimum']:.2f} ({speed['median']:.2f})",
    ]


def _score(found: Record) -> str:
    if "points" in found:
        changed = f"({found['lost']}/{found['won']})"
        return f"{found['points']:.2f} ± {found['half_width']:.2f} {changed}"
    if "nll" in found:
        return f"{found['nll']:+.4f}, {found['kl']:.4f}, {found['agreement']:.1%}"
    return f"{found['cosine']:.4f} ({found['least']:.4f})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
