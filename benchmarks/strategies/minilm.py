"""MiniLM pruned and taught again: 30% of heads, 40% of FFN widths and 2 of 6 layers go.

    EDGEKIT_DATA=FOLDER python benchmarks/strategies/minilm.py [--cell NAME]... [--show] [--json]

Each cell is a build for ``device_profiles/minilm.toml``, in float: "cut" at the effort quick, which
prunes and trains nothing, "recovered" at the effort standard, which teaches what is left. Both
targets share the training through edgekit's cache, and a run that was stopped goes on at its last
checkpoint. The exit code is 1 when a cell that was asked for misses a bar. About 40 minutes of one
idle core.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.builds.cell import Cell, at_most
from benchmarks.builds.runner import main

HERE = Path(__file__).parent
PROFILE = HERE / "device_profiles" / "minilm.toml"
WORKLOAD = f"{HERE / 'minilm_workload.py'}:workload"
TARGETS = ("litert", "onnx")
SPEED_UP = 2.0
# In points of a hundredth: what a mean cosine of 0.90 has lost.
DROP_POINTS = 100 * (1 - 0.90)


def all_cells(workload: str = WORKLOAD, epochs: int = 0) -> tuple[Cell, ...]:
    """Every cell in the order of the table. epochs: of the teaching; 0 for the profile's own."""
    settings = {"distil": {"train": {"epochs": epochs}}} if epochs else {}
    bars = (
        at_most("latency_ratio", 1 / SPEED_UP, "ratio"),
        at_most("metric_drop", DROP_POINTS, "points"),
    )
    return tuple(
        Cell(
            name=f"minilm-{target}-{stage}",
            workload=workload,
            device=str(PROFILE),
            target=target,
            effort="standard" if stage == "recovered" else "quick",
            settings=settings,
            bars=bars if stage == "recovered" else (),
            watched=() if stage == "recovered" else bars,
        )
        for target in TARGETS
        for stage in ("cut", "recovered")
    )


if __name__ == "__main__":
    sys.exit(main(__doc__, all_cells(), Path(__file__).with_name("minilm.json")))
