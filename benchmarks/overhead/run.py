"""What edgekit costs on top of what it stands on, as one JSON table on standard output.

- ``session_run``: ``Session.run`` against the raw LiteRT interpreter that does the same scaling,
  on a model of about a millisecond, float and INT8. Limit 1.05.
- ``import_runtime``: ``import edgekit.runtime`` against importing numpy plus the engine. 1.3.
- ``import_all``: ``import edgekit.runtime``, numpy and the engine against the latter two. 1.3.
- ``import_litert``, ``import_onnx``: all that ``edgekit.open`` of a bundle imports (as an open was
  seen to do), engine included, against importing numpy plus that engine. 1.3.
- ``help``: ``edgekit --help`` against importing click and rich. 1.3.

Both sides of a ratio take turns, so that a busy machine disturbs them alike; the ratio is of the
fastest runs, and of the medians. Run: ``python benchmarks/overhead/run.py [--quick]``.
"""

# ruff: noqa: PLC0415 -- the measured process imports what it measures, when it does
import argparse
import compileall
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

# Threads of a maths library would make a millisecond's work jump.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

Work = Callable[[], object]
ENGINES = {
    "litert": "from ai_edge_litert.interpreter import Interpreter",
    "onnx": "import onnxruntime",
}
LIMITS = {
    "session_run_float": 1.05,
    "session_run_int8": 1.05,
    "import_runtime": 1.3,
    "import_all": 1.3,
    "import_litert": 1.3,
    "import_onnx": 1.3,
    "help": 1.3,
}


def in_turns(ours: Work, theirs: Work, repeats: int) -> dict[str, float]:
    """Milliseconds of both, taking turns, and their ratios."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats):
        order = (0, 1) if repeat % 2 else (1, 0)
        for side in order:
            start = time.perf_counter_ns()
            (ours, theirs)[side]()
            times[side].append((time.perf_counter_ns() - start) / 1e6)
    return {
        "ours_min_ms": min(times[0]),
        "theirs_min_ms": min(times[1]),
        "min_ratio": min(times[0]) / min(times[1]),
        "median_ratio": median(times[0]) / median(times[1]),
        "repeats": repeats,
    }


def python(code: str) -> Work:
    """A run of an interpreter of its own."""
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def raw_run(content: bytes, rows: object) -> Work:
    """The interpreter with its scaling written out, as a careful user would write it."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (inner,), (outer,) = interpreter.get_input_details(), interpreter.get_output_details()
    is_quantized = inner["dtype"] == np.int8
    scale, zero_point = (np.float32(item) for item in inner["quantization"])
    out_scale, out_zero_point = (np.float32(item) for item in outer["quantization"])

    def run() -> object:
        stored = rows
        if is_quantized:
            levels = np.rint(rows / scale) + zero_point
            stored = np.clip(levels, -128, 127).astype(np.int8)
        interpreter.set_tensor(inner["index"], stored)
        interpreter.invoke()
        found = interpreter.get_tensor(outer["index"])
        if is_quantized:
            found = (found.astype(np.float32) - out_zero_point) * out_scale
        return found

    return run


def session_runs(folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """``Session.run`` against the raw interpreter, float and INT8."""
    import numpy as np

    import edgekit.runtime
    from benchmarks.overhead.model import SIZES, make_model, seal_model

    results = {}
    for name in ("float", "int8"):
        content, size = make_model(folder, name), SIZES[name]
        rows = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
        with edgekit.runtime.open(seal_model(folder / name, content, name)) as session:
            raw = raw_run(content, rows)
            np.testing.assert_allclose(session.run(rows)["scores"], raw(), rtol=1e-5, atol=1e-6)
            inputs = {"image": rows}
            results[f"session_run_{name}"] = in_turns(lambda: session.run(inputs), raw, repeats)  # noqa: B023
    return results


def modules_of(code: str) -> list[str]:
    """What is imported when ``code`` has run, in the order in which it was begun."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(); print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()[-1].split()


def open_imports(folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """The imports of opening a bundle against those of its engine, for both engines."""
    from benchmarks.overhead.model import make_model, seal_model

    seal_model(folder / "onnx", make_model(folder, "onnx"), "onnx")
    results = {}
    for name, bundle in (("litert", "float"), ("onnx", "onnx")):
        alone = f"import numpy; {ENGINES[name]}"
        seen = modules_of(f"import edgekit; edgekit.open({str(folder / bundle)!r})")
        ours = " ".join(sorted(set(seen) - set(modules_of(alone)), key=seen.index))
        code = f"{alone}\nfrom importlib import import_module\n"
        code += f"for name in {ours!r}.split(): import_module(name)"
        results[f"import_{name}"] = in_turns(python(code), python(alone), repeats)
    return results


def main() -> int:
    """Print the table; the exit code is 1 where a ratio is past its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the repeats")
    share = 10 if parser.parse_args().quick else 1
    starts = 100 // share
    # As pip leaves an installed package, also where this environment writes no bytecode.
    compileall.compile_dir(Path(__file__).parents[2] / "edgekit", quiet=1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(sys.stderr):
            table = session_runs(Path(folder), 2000 // share)
            table |= open_imports(Path(folder), starts)
    alone = f"import numpy; {ENGINES['litert']}"
    table["import_runtime"] = in_turns(python("import edgekit.runtime"), python(alone), starts)
    table["import_all"] = in_turns(
        python(f"import edgekit.runtime; {alone}"), python(alone), starts
    )
    table["help"] = in_turns(
        python(
            "import sys; sys.argv = ['edgekit', '--help']; import edgekit.cli.main as m; m.run()"
        ),
        python("import click, rich.console, rich.table"),
        starts,
    )
    for name, limit in LIMITS.items():
        table[name]["limit"] = limit
    print(json.dumps(table, indent=2))
    return int(any(table[name]["min_ratio"] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
