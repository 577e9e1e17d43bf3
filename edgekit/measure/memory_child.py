"""A process that loads and runs one artifact, and reports its own peak memory.

Takes the job that ``memory`` sends and writes one line of JSON to standard output. With
``is_baseline`` it does everything but load the artifact: the difference is what the artifact costs.
"""

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from edgekit.core.errors import EdgekitError
from edgekit.data.dataset import open_dataset
from edgekit.measure.runner import open_runner
from edgekit.runtime.engine import Engine

RUNS = 3


def main(job: dict[str, Any]) -> int:
    """Do the job; the exit code is 0, or 1 with the reason on stderr."""
    try:
        report = measure_self(job)
    except EdgekitError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


def measure_self(job: dict[str, Any]) -> dict[str, float]:
    """``peak_bytes`` of this process since the engine was loaded, and ``load_ms``."""
    names = [item["name"] for item in job["contract"]["inputs"]]
    arrays = next(open_dataset(Path(job["data"])).batches(job["artifact"]["batch"] or 1, names))
    engine = _engine_class(job["engine"])
    _forget_peak()
    load_ms = 0.0
    if not job["is_baseline"]:
        start = time.perf_counter_ns()
        with open_runner(
            Path(job["folder"]),
            job["artifact"],
            job["contract"],
            threads=job["threads"],
            engine=engine,
        ) as runner:
            load_ms = (time.perf_counter_ns() - start) / 1e6
            for _ in range(RUNS):
                runner.run(arrays)
    return {"peak_bytes": peak_bytes(), "load_ms": load_ms}


def peak_bytes() -> int:
    """The most resident memory that this process has had.

    Not ``ru_maxrss``: that one keeps the peak of the parent across fork and exec.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise EdgekitError("this system does not tell a process its peak memory (VmHWM)")


def _engine_class(name: str) -> type[Engine]:
    module, _, qualname = name.partition(":")
    found: type[Engine] = getattr(import_module(module), qualname)
    return found


def _forget_peak() -> None:
    # Importing an engine peaks higher than it stays; without this a small model would hide below.
    Path("/proc/self/clear_refs").write_text("5")
