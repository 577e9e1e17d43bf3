"""The CIFAR-10 pair: distillation against plain fine-tuning, and half of a network pruned.

    EDGEKIT_DATA=FOLDER python benchmarks/strategies/cifar_pair.py [--cell NAME]... [--show]

ResNet-56 is first adapted to 4,500 JPEG images (the cell "teacher"). Then, for three seeds each,
ResNet-20 learns from the labels, from labels and teacher, and from the labels for as long as the
teacher costs; and ResNet-56 loses half of its channels, shortcuts included, and is trained again.
About 45 minutes of one core. A run that was stopped goes on where it was: a cell that is done has a
record in the results file, one that was killed has checkpoints in the folder ``--work``.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# One thread, as the recorded run: sums of several threads round otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.strategies.cifar_cells import Cell, all_cells, run_cell
from benchmarks.strategies.cifar_record import add_record, read_records
from benchmarks.strategies.cifar_table import markdown
from edgekit.core.progress import Event, Reporter

RESULTS = Path(__file__).with_suffix(".json")
WORK = Path(tempfile.gettempdir()) / "edgekit-cifar-pair"


def run(cells: Sequence[Cell], options: argparse.Namespace) -> None:
    """Train what has no record yet, or all, writing after each cell."""
    options.work.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        if cell.name in read_records(options.results) and not options.again:
            continue
        print(f"{cell.name} ...", file=sys.stderr, flush=True)
        record = run_cell(cell, options.work, Reporter(stage=cell.name, listener=_say))
        add_record(options.results, cell.name, record)


def _say(event: Event) -> None:
    if event.kind != "progress":
        print(f"  {event.message}", file=sys.stderr, flush=True)


def main() -> int:
    """Run, then show the table of the cells that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cell", action="append", default=[], help="run this one (repeatable)")
    parser.add_argument("--again", action="store_true", help="also cells that have a result")
    parser.add_argument("--show", action="store_true", help="run nothing, show the table")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the results file")
    parser.add_argument("--work", type=Path, default=WORK, help="checkpoints, and the teacher")
    parser.add_argument("--tiny", action="store_true", help="one epoch, to see that all of it runs")
    options = parser.parse_args()
    if options.tiny and options.results == RESULTS:
        parser.error("--tiny gives no results worth keeping; name another file with --results")
    cells = all_cells(is_tiny=options.tiny)
    unknown = sorted(set(options.cell) - {cell.name for cell in cells})
    if unknown:
        known = ", ".join(cell.name for cell in cells)
        parser.error(f"no cell is called {', '.join(unknown)}; there are: {known}")
    chosen = [cell for cell in cells if not options.cell or cell.name in options.cell]
    if not options.show:
        run(chosen, options)
    records = read_records(options.results)
    print(markdown(chosen, records))
    return 0 if all(cell.name in records for cell in chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
