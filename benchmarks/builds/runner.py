"""Builds the cells of a benchmark one after the other and keeps what each gave.

What is done is written to the results file after each cell, so that a run that was stopped goes on
where it was.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import edgekit
from benchmarks.builds.cell import Cell
from benchmarks.builds.record import (
    Record,
    add_latency,
    now,
    read_records,
    record_of,
    write_records,
)
from benchmarks.builds.table import is_met, markdown, plain
from edgekit.core.errors import BudgetError, EdgekitError
from edgekit.core.progress import Event

# Waived so that a cell that misses its bar still is a row with all its figures.
WAIVABLE = ("metric_drop", "latency_ratio")
PROGRESS_EVERY_S = 30.0


def main(description: str | None, cells: tuple[Cell, ...], results: Path) -> int:
    """Run, then show the table of the cells that were asked for; 1 where one misses a bar."""
    options = _options(description, results)
    asked = _chosen(cells, options.cell)
    if not options.show:
        _run(asked, options.results, is_again=options.again, is_latency_only=options.latency_only)
    records = read_records(options.results)
    if options.json:
        print(json.dumps(plain(asked, records), indent=1, ensure_ascii=False))
    else:
        print(markdown(asked, records))
    met = [cell.name in records and is_met(cell, records[cell.name]) for cell in asked]
    return 0 if all(met) else 1


def _options(description: str | None, results: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cell", action="append", default=[], help="run this one (repeatable)")
    parser.add_argument("--again", action="store_true", help="also cells that have a result")
    parser.add_argument("--latency-only", action="store_true", help="measure times once more")
    parser.add_argument("--show", action="store_true", help="run nothing, show the table")
    parser.add_argument("--results", type=Path, default=results, help="the results file")
    parser.add_argument("--json", action="store_true", help="every figure, not the table")
    return parser.parse_args()


def _chosen(cells: tuple[Cell, ...], names: Sequence[str]) -> tuple[Cell, ...]:
    """The cells of these names; all for none."""
    unknown = sorted(set(names) - {cell.name for cell in cells})
    if unknown:
        known = ", ".join(cell.name for cell in cells)
        sys.exit(f"no cell is called {', '.join(unknown)}; there are: {known}")
    return tuple(cell for cell in cells if not names or cell.name in names)


def _run(cells: Sequence[Cell], path: Path, *, is_again: bool, is_latency_only: bool) -> None:
    """Build what has no record yet (or all, or for times alone), writing after each cell."""
    for cell in cells:
        old = read_records(path).get(cell.name)
        is_measured = old is not None and old.outcome != "not built"
        if is_measured != is_latency_only and not is_again:
            continue
        print(f"{cell.name} ...", file=sys.stderr, flush=True)
        new = _build(cell)
        if is_latency_only and old is not None and new.latency:
            new = add_latency(old, new)
        # Read again: another run may have written other cells meanwhile.
        write_records(path, {**read_records(path), cell.name: new})


def _build(cell: Cell) -> Record:
    """Build one cell and keep what it gave, whatever the verdict."""
    bounds = {limit.figure: limit.bound for limit in (*cell.watched, *cell.bars)}
    waived = tuple(name for name in WAIVABLE if name in bounds)
    with tempfile.TemporaryDirectory(prefix="edgekit-benchmark-") as folder:
        try:
            result = edgekit.build(
                cell.workload,
                device=cell.device,
                target=cell.target,
                out=Path(folder) / "bundle",
                effort=cell.effort,
                settings=cell.settings,
                limits={name: bounds[name] for name in waived},
                allow=() if cell.is_refusal_wanted else waived,
                arguments=cell.arguments,
                listener=_Said(),
            )
        except BudgetError as refused:
            return record_of(refused.result, str(refused))
        except EdgekitError as error:
            return Record(outcome="not built", message=str(error), date=now())
        return record_of(result, "")


class _Said:
    """Prints notes as they come, and how far a stage is about twice a minute."""

    def __init__(self) -> None:
        self._last_s = 0.0

    def __call__(self, event: Event) -> None:
        now_s = time.monotonic()
        if event.kind == "progress" and now_s - self._last_s < PROGRESS_EVERY_S:
            return
        self._last_s = now_s
        print(f"  {event.stage}: {event.message}", file=sys.stderr, flush=True)
