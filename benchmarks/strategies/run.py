"""What the strategies buy: a ResNet-20 for Fashion-MNIST, built for every profile and in arms.

    EDGEKIT_DATA=FOLDER python benchmarks/strategies/run.py [--cell NAME]... [--show] [--json]

Cells named after a profile build its own strategy at the effort "standard". The others are arms of
one comparison: one technique alone against the mix, at about the same bytes, with the same epochs
and augmentation. A cell that was stopped goes on at its last checkpoint, a run at its last cell.
The exit code is 1 when a cell that was asked for misses a bar. About two hours on two idle cores.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.builds.runner import main
from benchmarks.strategies.cells import all_cells

if __name__ == "__main__":
    sys.exit(main(__doc__, all_cells(), Path(__file__).with_name("results.json")))
