"""The main job on real models: every cell built through ``edgekit.build``, held against its bar.

ResNet-20 and ResNet-56 (the 2,000 JPEG images of CIFAR-10) and all-MiniLM-L6-v2 (64 tokens), both
targets, one thread. What is done is kept in a results file after each cell, so that a run that was
stopped goes on where it was.

    python benchmarks/main_job/run.py [--cell NAME]... [--again] [--latency-only] [--json]

--latency-only builds cells that have a result once more, with every stage but timing and memory
from the store, and keeps the new times beside the old: the table shows those of the lowest load.
The exit code is 1 when a cell that was asked for misses a bar. Data: EDGEKIT_DATA, a folder as
``examples/cifar10`` describes it, with ``wikitext2_valid.txt``.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Threads of a maths library would make a millisecond's work jump.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from cells import Cell, all_cells
from record import Record, add_latency, now, read_records, record_of, write_records
from table import is_met, markdown, plain

import edgekit
from edgekit.core.errors import BudgetError, EdgekitError
from edgekit.core.progress import Event

HERE = Path(__file__).parent
PROFILE = HERE / "device_profiles" / "main-job.toml"
RESULTS = HERE / "results.json"
# Waived so that a cell that misses its bar still is a row with all its figures.
WAIVABLE = ("metric_drop", "latency_ratio")


def build(cell: Cell) -> Record:
    """Build one cell and keep what it gave, whatever the verdict."""
    bounds = {limit.figure: limit.bound for limit in (*cell.watched, *cell.bars)}
    with tempfile.TemporaryDirectory(prefix="edgekit-main-job-") as folder:
        try:
            result = edgekit.build(
                cell.workload,
                device=str(PROFILE),
                target=cell.target,
                out=Path(folder) / "bundle",
                settings={"quantize": cell.settings},
                limits={name: bounds[name] for name in WAIVABLE if name in bounds},
                allow=() if cell.is_refusal_wanted else WAIVABLE,
                arguments=cell.arguments,
                listener=_say,
            )
        except BudgetError as refused:
            return record_of(refused.result, str(refused))
        except EdgekitError as error:
            return Record(outcome="not built", message=str(error), date=now())
    return record_of(result, "")


def _say(event: Event) -> None:
    if event.kind != "progress":
        print(f"  {event.stage}: {event.message}", file=sys.stderr)


def run(cells: Sequence[Cell], path: Path, *, is_again: bool, is_latency_only: bool) -> None:
    """Build what has no record yet (or all, or for times alone), writing after each cell."""
    for cell in cells:
        old = read_records(path).get(cell.name)
        is_measured = old is not None and old.outcome != "not built"
        if is_measured != is_latency_only and not is_again:
            continue
        print(f"{cell.name} ...", file=sys.stderr, flush=True)
        new = build(cell)
        if is_latency_only and old is not None and new.latency:
            new = add_latency(old, new)
        # Read again: another run may have written other cells meanwhile.
        write_records(path, {**read_records(path), cell.name: new})


def chosen(names: Sequence[str]) -> tuple[Cell, ...]:
    """The cells of these names; all for none."""
    cells = all_cells()
    unknown = sorted(set(names) - {cell.name for cell in cells})
    if unknown:
        known = ", ".join(cell.name for cell in cells)
        sys.exit(f"no cell is called {', '.join(unknown)}; there are: {known}")
    return tuple(cell for cell in cells if not names or cell.name in names)


def main() -> int:
    """Run, then show the table of the cells that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cell", action="append", default=[], help="run this one (repeatable)")
    parser.add_argument("--again", action="store_true", help="also cells that have a result")
    parser.add_argument("--latency-only", action="store_true", help="measure times once more")
    parser.add_argument("--show", action="store_true", help="run nothing, show the table")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the results file")
    parser.add_argument("--json", action="store_true", help="every figure, not the table")
    options = parser.parse_args()
    cells = chosen(options.cell)
    if not options.show:
        run(cells, options.results, is_again=options.again, is_latency_only=options.latency_only)
    records = read_records(options.results)
    if options.json:
        print(json.dumps(plain(cells, records), indent=1, ensure_ascii=False))
    else:
        print(markdown(cells, records))
    met = [cell.name in records and is_met(cell, records[cell.name]) for cell in cells]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
