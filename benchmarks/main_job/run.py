"""The main job on real models: every cell built through ``edgekit.build``, held against its bar.

ResNet-20 and ResNet-56 (the 2,000 JPEG images of CIFAR-10) and all-MiniLM-L6-v2 (64 tokens), both
targets, one thread. What is done is kept in a results file after each cell, so that a run that was
stopped goes on where it was.

    python benchmarks/main_job/run.py [--cell NAME]... [--again] [--latency-only] [--show] [--json]

--latency-only builds cells that have a result once more, with every stage but timing and memory
from the store, and keeps the new times beside the old: the table shows those of the lowest load.
The exit code is 1 when a cell that was asked for misses a bar. Data: EDGEKIT_DATA, a folder as
``examples/cifar10`` describes it, with ``wikitext2_valid.txt``.
"""

import os
import sys
from pathlib import Path

# Threads of a maths library would make a millisecond's work jump.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.builds.runner import main
from benchmarks.main_job.cells import all_cells

if __name__ == "__main__":
    sys.exit(main(__doc__, all_cells(), Path(__file__).with_name("results.json")))
