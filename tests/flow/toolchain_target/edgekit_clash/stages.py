"""Stages that do everything that a stage may do, well and badly."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import edgekit
from edgekit.core.errors import CompileError
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest


class ClashError(CompileError):
    """A plug-in's own kind of error."""


def compile_(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Copies the input upside down, says so, and tells which packaging it ran with."""
    from packaging.version import Version

    reporter.progress("halfway", 0.5)
    content = (request.folder("model") / "model.txt").read_bytes()
    print("a library's stray print")
    os.write(2, b"native noise\n")
    (out / "model.clash").write_bytes(content[::-1])
    reporter.note("compiled")
    reporter.warn("look at this")
    return {
        "packaging": version("packaging"),
        "order": Version("1.10") > Version("1.9"),
        "settings": request.settings,
        "seen": repr(request.settings),
        "seed": request.seed,
        "bytes": len(content),
    }


def surroundings(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """What the process is and sees."""
    modules = {}
    for name in request.settings.get("modules", []):
        try:
            modules[name] = str(__import__(name).__name__)
        except ModuleNotFoundError:
            modules[name] = "missing"
    return {
        "pid": os.getpid(),
        "prefix": sys.prefix,
        "hash": hash("edgekit"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "user_site": "PYTHONNOUSERSITE" in os.environ,
        "pythonpath": os.environ.get("PYTHONPATH"),
        "edgekit": edgekit.__file__,
        "path": sys.path,
        "compilers": sorted(point.name for point in entry_points(group="edgekit.compilers")),
        "modules": modules,
    }


def engine(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Finds a runtime plug-in by its name."""
    import numpy as np

    from edgekit.runtime.engines import load_engine

    found = load_engine(request.settings["runtime"])
    return {"module": found.__module__, "numpy": np.__version__}


def pseudo_random(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Is not deterministic, in one file and one value."""
    (out / "same").write_bytes(b"same")
    (out / "drawn").write_bytes(os.urandom(8))
    return {"clock": time.time_ns(), "same": 1}


def refuse(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Raises one of edgekit's own errors."""
    (out / "half").write_bytes(b"x")
    raise CompileError("layer 'a.b': aten.sort is not supported; é, 🙂")


def refuse_by_subclass(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Raises an error class that the parent does not know."""
    raise ClashError("own kind")


def fail(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Has a defect."""
    raise ZeroDivisionError("never foreseen")


def give_set(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Returns what JSON cannot hold."""
    return {"set": {1, 2}}


def take_all_memory(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Gets no memory."""
    return {"size": len(bytearray(1 << 60))}


def fill_disk(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Writes where there is no room."""
    Path("/dev/full").write_bytes(b"x" * 4096)
    return {}


def kill(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Dies by a signal, after a good deal of printing."""
    print("x" * 1000, "last words", sep="\n", flush=True)
    number = getattr(signal, request.settings["signal"])
    if number == signal.SIGSEGV:
        ctypes.string_at(0)
    os.kill(os.getpid(), number)
    time.sleep(60)
    return {}


def leave(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Ends the process without a word to edgekit."""
    print("\n" * 200_000 + "going", flush=True)
    sys.exit(7)


def interrupt(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Is interrupted itself."""
    raise KeyboardInterrupt


def sleep(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Says who it is and its child is, and sleeps: natively, where Python cannot be reached."""
    child = subprocess.Popen(["sleep", "600"])
    (out / "half").write_bytes(b"x")
    reporter.note(f"{os.getpid()} {child.pid}")
    ctypes.CDLL(None).sleep(600)
    return {}


def linger(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Leaves a thread and a child behind that never end."""
    child = subprocess.Popen(["sleep", "600"])
    threading.Thread(target=time.sleep, args=(600,)).start()
    return {"pids": [os.getpid(), child.pid]}


def orphan(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Dies while a child of its own holds the pipes open."""
    subprocess.Popen(["sleep", "600"], close_fds=False)
    os._exit(3)


def talk(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Sends many events from several threads, long ones among them."""

    def say(number: int) -> None:
        for index in range(50):
            reporter.note(f"{number}/{index}/" + "y" * (number * 30_000))

    threads = [threading.Thread(target=say, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"big": "z" * 300_000}


def append(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Notes each run in a file of the caller's, so that runs can be counted."""
    with Path(request.settings["log"]).open("a") as log:
        log.write("run\n")
    (out / "out.bin").write_bytes(bytes([request.seed]) * 1000)
    reporter.warn("layer x stayed float")
    reporter.progress("done", 1.0)
    return {"n": 1, "tuple": (1, 2)}
