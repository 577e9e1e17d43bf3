"""Quantization by edgekit and by the best existing tools, on the same models and data.

    EDGEKIT_DATA=FOLDER python benchmarks/quantization/run.py [--row TEXT]... [--again] [--show]

--row runs the rows whose name contains TEXT (``--list`` names them). Each tool runs in an
environment of its own, which is made when it is first needed; every artifact is judged by the same
code, in the runtime that it was made for, one thread. What is done is kept in a results file after
each row, so that a run that was stopped goes on where it was.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Threads of a maths library would make a millisecond's work jump.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

import edgekit
from benchmarks.quantization.environments import TOOLS, quantized
from benchmarks.quantization.judge import (
    cosines,
    outputs,
    sizes,
    speed_ups,
    token_change,
    top_1_change,
)
from benchmarks.quantization.models import SUBJECTS, Ready, prepare
from benchmarks.quantization.rows import PROFILES, Row, all_rows
from benchmarks.quantization.table import markdown
from edgekit.compile.onnx_model import RUNTIME_ERRORS, first_line
from edgekit.core.errors import EdgekitError

HERE = Path(__file__).parent
WORK = Path(os.environ.get("EDGEKIT_BENCHMARK_WORK", HERE / ".work"))
Record = dict[str, Any]


def main() -> int:
    """Run what has no result yet, then show the table; 1 where a row could not be made."""
    options = _options()
    rows = [
        row
        for row in all_rows()
        if not options.row or any(text in row.name for text in options.row)
    ]
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    if not options.show:
        _run(rows, options.results, is_again=options.again)
    records = _read(options.results)
    print(json.dumps(records, indent=1) if options.json else markdown(rows, records))
    return int(any("fault" in records.get(row.name, {"fault": ""}) for row in rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", action="append", default=[], help="part of a name (repeatable)")
    parser.add_argument("--again", action="store_true", help="also rows that have a result")
    parser.add_argument("--show", action="store_true", help="run nothing, show the table")
    parser.add_argument("--list", action="store_true", help="name the rows")
    parser.add_argument("--json", action="store_true", help="every figure, not the table")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    return parser.parse_args()


def _run(rows: Sequence[Row], path: Path, *, is_again: bool) -> None:
    for row in rows:
        if row.name in _read(path) and not is_again:
            continue
        print(f"{row.name} ...", file=sys.stderr, flush=True)
        ready = prepare(SUBJECTS[row.subject], WORK / row.subject)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="edgekit-benchmark-") as folder:
            try:
                artifact = _made(row, ready, Path(folder))
                record = _judged(row, ready, artifact)
            except (EdgekitError, RuntimeError, ValueError, *RUNTIME_ERRORS) as error:
                record = {"fault": first_line(error)}
        record |= {
            "seconds": round(time.monotonic() - started, 1),
            "date": datetime.now(UTC).date().isoformat(),
            "host": platform.machine(),
        }
        # Read again: another run may have written other rows meanwhile.
        path.write_text(json.dumps({**_read(path), row.name: record}, indent=1) + "\n")


def _made(row: Row, ready: Ready, folder: Path) -> Path:
    source = ready.floats[row.target]
    if row.tool in TOOLS:
        out = folder / f"out{source.suffix}"
        return quantized(TOOLS[row.tool], row.recipe, source, ready.calibration, out)
    subject = SUBJECTS[row.subject]
    result = edgekit.build(
        subject.workload,
        device=str(PROFILES / f"{row.recipe}.toml"),
        target=row.target,
        out=folder / "bundle",
        effort=row.effort,
        settings=row.settings,
        arguments=subject.arguments,
    )
    return folder / "bundle" / result.manifest.components[0].artifact.entry


def _judged(row: Row, ready: Ready, artifact: Path) -> Record:
    """Every figure of one artifact."""
    source = ready.floats[row.target]
    score, is_wrapped = SUBJECTS[row.subject].score, row.tool == "edgekit"
    record: Record = {}
    for name, (inputs, labels) in ready.sets.items():
        found, place = outputs(artifact, inputs, is_wrapped=is_wrapped), _place(row.name, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, found)
        if row.baseline:
            floats = np.load(_place(row.baseline, name))
        else:
            floats = _floats(source, name, inputs)
        if score == "top-1" and labels is not None:
            record[name] = asdict(top_1_change(found, floats, labels))
        elif score == "tokens":
            record[name] = asdict(token_change(found, floats, next(iter(inputs.values()))))
        else:
            values = cosines(found, floats)
            record[name] = {"cosine": float(values.mean()), "least": float(values.min())}
    (written, stripped), (_, float_bytes) = sizes(artifact), sizes(source)
    first = next(iter(ready.sets.values()))[0]
    least, median = speed_ups(artifact, source, first, is_wrapped=is_wrapped)
    return record | {
        "bytes": written,
        "stripped_bytes": stripped,
        "share": stripped / float_bytes,
        "speed_up": {"minimum": least, "median": median},
    }


def _place(row: str, name: str) -> Path:
    """Where a row's answers are kept."""
    return WORK / "answers" / f"{row.replace('/', '-')}-{name}.npy"


_FLOATS: dict[tuple[Path, str], Any] = {}


def _floats(source: Path, name: str, inputs: Any) -> Any:
    """What the float artifact gives; once a run."""
    key = source, name
    if key not in _FLOATS:
        _FLOATS[key] = outputs(source, inputs)
    return _FLOATS[key]


def _read(path: Path) -> dict[str, Record]:
    found: dict[str, Record] = json.loads(path.read_text()) if path.exists() else {}
    return found


if __name__ == "__main__":
    sys.exit(main())
