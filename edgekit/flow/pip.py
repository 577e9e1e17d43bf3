"""pip, run as a child: its lines become progress, its failure an error with its last words."""

import os
import re
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path

from edgekit.core.errors import Interrupted, MissingDependencyError
from edgekit.core.progress import Reporter
from edgekit.flow.pins import Pins
from edgekit.store.locks import FileLock

TAIL_LINES = 20

_PIP = ("-s", "-P", "-m", "pip", "--no-input", "--disable-pip-version-check")
_PROGRESS = re.compile(r"^\s*(Collecting|Downloading|Using cached|Building|Installing)\b")
# What would send the packages elsewhere than into the environment, or only pretend to.
_UNWANTED = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_CONSTRAINT", "PIP_DRY_RUN")


def make_environment(folder: Path, reporter: Reporter, lock: FileLock) -> None:
    """Make an empty virtual environment of this Python, with pip."""
    reporter.progress("making a virtual environment", 0.0)
    command = [sys.executable, "-m", "venv", str(folder)]
    _run(command, reporter, lock, "on Debian and Ubuntu the package python3-venv is needed for it")


def install(python: Path, pins: Pins, reporter: Reporter, lock: FileLock) -> None:
    """Install the lock, every file checked by hash, or the pins where there is no lock."""
    wanted = list(pins.requirements)
    if pins.lock:
        locked = python.parent.parent / "lock.txt"
        locked.write_text(pins.lock, encoding="utf-8")
        wanted = ["--require-hashes", "--requirement", str(locked)]
    command = [str(python), *_PIP, "install", "--progress-bar=off", *wanted]
    advice = "check the network and pip's index, and that the pins exist for this Python"
    _run(command, reporter, lock, advice)


def check_imports(python: Path, pins: Pins, reporter: Reporter, lock: FileLock) -> None:
    """Import every module that the toolchain promises, in its own environment."""
    for module in pins.modules:
        reporter.progress(f"importing {module}")
        command = [str(python), "-s", "-P", "-c", f"import {module}"]
        _run(command, reporter, lock, f"the pins must bring a module '{module}' that imports")


def _run(command: list[str], reporter: Reporter, lock: FileLock, advice: str) -> None:
    """Run a command to its end.

    The command inherits the lock: if this process is killed, nobody else starts on the same
    folder before the command has ended too.
    Raises: MissingDependencyError with the end of what it printed; Interrupted on Ctrl-C.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(),
        pass_fds=[lock.fileno()],
        start_new_session=True,
    )
    with process:
        try:
            for line in process.stdout or ():
                tail.append(line.rstrip())
                if _PROGRESS.match(line):
                    reporter.progress(line.strip())
            status = process.wait()
        except KeyboardInterrupt:
            raise Interrupted(f"{reporter.stage}: the install was stopped") from None
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if status != 0:
        said = "\n".join(tail)
        raise MissingDependencyError(
            f"{reporter.stage}: `{' '.join(command[1:])}` failed with status {status}; {advice}. "
            f"It said:\n{said}"
        )


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    kept["PYTHONUTF8"] = "1"
    return {key: value for key, value in kept.items() if key not in _UNWANTED}
