"""Peak memory of loading and running an artifact, in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.core.codec import to_plain
from edgekit.core.errors import SessionError
from edgekit.core.figure import Figure, Place, Provenance
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.runtime.engines import load_engine

REPEATS = 3
TIMEOUT_S = 600
# A stage may run in a toolchain's environment that borrows edgekit from another: the process is
# told where the packages lie that this one has imported, and takes those before any other.
START = """
import json, sys
from importlib.util import spec_from_file_location

job = json.loads(sys.stdin.read())

class Places:
    def find_spec(name, path=None, target=None):
        if name in job["places"]:
            origin, locations = job["places"][name]
            return spec_from_file_location(name, origin, submodule_search_locations=locations)

sys.meta_path.insert(0, Places)
from edgekit.core.process import die_with_parent
die_with_parent(job["parent"])
from edgekit.measure.memory_child import main
sys.exit(main(job))
"""


def measure(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:  # noqa: ARG001
    """Stage: peak memory of an artifact, less that of the same process with the engine alone.

    Inputs: artifact, data (its first sample is what runs). Settings: artifact, contract (plain),
    threads. Returns: figures (plain).
    Raises: SessionError when the process cannot load or run the artifact.
    """
    job = {
        "artifact": request.settings["artifact"],
        "contract": request.settings["contract"],
        "threads": request.settings.get("threads", 1),
        "folder": str(request.folder("artifact")),
        "data": str(request.folder("data")),
        **engine_place(request.settings["artifact"]["runtime"]),
    }
    peaks, loads = [], []
    for repeat in range(REPEATS):
        baseline = run_child({**job, "is_baseline": True})
        loaded = run_child({**job, "is_baseline": False})
        peaks.append(loaded["peak_bytes"] - baseline["peak_bytes"])
        loads.append(loaded["load_ms"])
        reporter.progress("memory", (repeat + 1) / REPEATS)
    entry = request.folder("artifact") / request.settings["artifact"]["entry"]
    figures = memory_figures(peaks, loads, model_bytes=entry.stat().st_size, threads=job["threads"])
    return {"figures": [to_plain(figure) for figure in figures]}


def engine_place(runtime: str) -> dict[str, Any]:
    """How another process finds the engine of a runtime: its class, and where packages lie.

    Raises: SessionError, MissingDependencyError as ``load_engine`` does.
    """
    engine = load_engine(runtime)
    packages = {"edgekit", engine.__module__.partition(".")[0]}
    return {
        "engine": f"{engine.__module__}:{engine.__qualname__}",
        "places": {
            name: [module.__file__, list(module.__path__) if hasattr(module, "__path__") else None]
            for name, module in ((name, sys.modules[name]) for name in sorted(packages))
        },
    }


def run_child(job: Mapping[str, Any]) -> dict[str, float]:
    """What one measuring process reports.

    Raises: SessionError with the process's own last words when it fails or hangs.
    """
    entry = job["artifact"]["entry"]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", START],
            input=json.dumps({**job, "parent": os.getpid()}),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SessionError(f"{entry}: loading and running took over {TIMEOUT_S} s") from error
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        words = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        reason = f"signal {-done.returncode}" if done.returncode < 0 else words[0]
        raise SessionError(f"{entry}: the process that loads and runs it ended badly: {reason}")
    # An engine may write to stdout while it loads: the report is the last line.
    report: dict[str, float] = json.loads(lines[-1])
    return report


def memory_figures(
    peaks: list[float], loads: list[float], *, model_bytes: int, threads: int
) -> tuple[Figure, Figure]:
    """``peak_memory_bytes`` (the highest of the repeats) and ``load_ms`` (their median)."""
    # The model's own bytes are in memory when it is loaded: less than them is noise.
    held = sorted(max(peak, float(model_bytes)) for peak in peaks)
    ordered = sorted(loads)
    peak = Figure(
        name="peak_memory_bytes",
        value=held[-1],
        unit="bytes",
        provenance=Provenance.MEASURED,
        place=Place.HOST,
        how=(
            f"highest of {len(held)} processes that load and run it, less the same process with "
            f"the engine alone; {threads} thread(s); the interval is all of them"
        ),
        low=held[0],
        high=held[-1],
        samples=len(held),
    )
    load = Figure(
        name="load_ms",
        value=ordered[len(ordered) // 2],
        unit="ms",
        provenance=Provenance.MEASURED,
        place=Place.HOST,
        how=f"median of {len(ordered)} fresh processes, file cached; the interval is all of them",
        low=ordered[0],
        high=ordered[-1],
        samples=len(ordered),
    )
    return peak, load
