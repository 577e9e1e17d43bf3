"""Peak memory of writing and checking a calibration set, at 100 and at 10,000 samples.

Each size runs in a process of its own. Memory must not grow with the number of samples: the exit
code is 1 when the larger set's peak is above ``BOUND`` times the smaller one's.

    python benchmarks/calibration_memory/run.py [--json]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgekit.core.contract import Image
from edgekit.data.checks import check_disjoint, write_checked

COUNTS = (100, 10_000)
# 16 bytes of digest a sample, and what the allocator rounds up: far below a tenth.
BOUND = 1.10
SIDE = 32


def pictures(count: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """Random pictures with labels, made as they are asked for."""
    generator = np.random.default_rng(seed)
    for index in range(count):
        yield generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8), index % 10


def write_sets(count: int, folder: Path) -> None:
    """A calibration set and an evaluation set of ``count`` samples, held against each other."""
    inputs = {"image": Image(height=SIDE, width=SIDE)}
    sets = {
        name: write_checked(
            pictures(count, seed), inputs, folder / name, set_name=name, needs_target=True
        )
        for seed, name in enumerate(("calibration", "evaluation"))
    }
    check_disjoint(sets)
    for _ in sets["calibration"].dataset.batches(16):
        pass


def peak_bytes() -> int:
    """Peak resident memory of this process (VmHWM; ru_maxrss would keep the parent's)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024


def measure(count: int) -> int:
    """Peak bytes of a fresh process that writes ``count`` samples."""
    done = subprocess.run(
        [sys.executable, __file__, "--count", str(count)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(done.stdout)


def main() -> int:
    """Measure both sizes and say whether memory is flat."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        with tempfile.TemporaryDirectory() as folder:
            write_sets(options.count, Path(folder))
        print(peak_bytes())
        return 0
    peaks = {count: measure(count) for count in COUNTS}
    ratio = peaks[COUNTS[1]] / peaks[COUNTS[0]]
    written = COUNTS[1] * SIDE * SIDE * 3 * 4 * 2
    if options.json:
        print(json.dumps({"peak_bytes": peaks, "ratio": ratio, "bound": BOUND}))
    else:
        for count, peak in peaks.items():
            print(f"{count:6d} samples a set: peak {peak / 1e6:.1f} MB")
        print(f"ratio {ratio:.3f} (bound {BOUND}); the large run writes {written / 1e6:.0f} MB")
    return 0 if ratio <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
