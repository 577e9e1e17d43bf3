"""pip, run as a child: its lines become progress, its failure an error with its last words."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from edgekit.core.errors import Interrupted, MissingDependencyError
from edgekit.core.progress import Reporter
from edgekit.flow.lock_file import constraints, files_in, hashed_requirements
from edgekit.flow.pins import Pins
from edgekit.store.locks import FileLock

TAIL_LINES = 20

_PIP = ("-s", "-P", "-m", "pip", "--no-input", "--disable-pip-version-check")
_PROGRESS = re.compile(
    r"^\s*(Collecting|Processing|Downloading|Using cached|Building|Installing)\b"
)
# What would send the packages elsewhere than into the environment, or only pretend to, or install
# more or less than is asked.
_UNWANTED = (
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_ROOT",
    "PIP_USER",
    "PIP_CONSTRAINT",
    "PIP_REQUIREMENT",
    "PIP_NO_DEPS",
    "PIP_DRY_RUN",
)
_ADVICE = "check the network and pip's index, and that the pins exist for this Python"


def make_environment(folder: Path, reporter: Reporter, lock: FileLock) -> None:
    """Make an empty virtual environment of this Python, with pip."""
    reporter.progress("making a virtual environment", 0.0)
    command = [sys.executable, "-m", "venv", str(folder)]
    _run(command, reporter, lock, "on Debian and Ubuntu the package python3-venv is needed for it")


def install(python: Path, pins: Pins, reporter: Reporter, lock: FileLock) -> None:
    """Install from the lock, every file checked by hash, or the pins where there is no lock.

    Raises: MissingDependencyError, before anything is installed, when pip takes a file that the
    lock does not hold.
    """
    command = [str(python), *_PIP, "install", "--progress-bar=off"]
    if not pins.lock:
        _run([*command, *pins.requirements], reporter, lock, _ADVICE)
        return
    folder = python.parent.parent
    downloads, locked = folder / "downloads", folder / "lock.txt"
    locked.write_text(_download(python, downloads, pins, reporter, lock), encoding="utf-8")
    options = ["--no-index", "--find-links", str(downloads), "--no-deps", "--require-hashes"]
    _run([*command, *options, "--requirement", str(locked)], reporter, lock, _ADVICE)
    shutil.rmtree(downloads)


def _download(python: Path, to: Path, pins: Pins, reporter: Reporter, lock: FileLock) -> str:
    """Let pip take what it needs at the lock's versions; the lines of the lock for those files."""
    to.mkdir()
    packages = pins.locked
    versions = python.parent.parent / "constraints.txt"
    versions.write_text(constraints(packages), encoding="utf-8")
    # Wheels only: a source package is built by tools that no lock holds.
    options = ["--dest", str(to), "--only-binary=:all:", "--constraint", str(versions)]
    command = [str(python), *_PIP, "download", "--progress-bar=off", *options, *pins.requirements]
    # Who lets pip take nothing without a hash has it from the lock, after the download.
    advice = "check the network and pip's index: pip must find wheels of the locked versions there"
    _run(command, reporter, lock, advice, {"PIP_REQUIRE_HASHES": "0"})
    chosen = files_in(to)
    versions.unlink()
    lines = hashed_requirements(chosen, packages, where=reporter.stage)
    for item in chosen:
        if len(packages[item.name].sha256) > 1:
            reporter.note(f"{item.name} is locked in several builds; pip took {item.version}")
    return lines


def check_imports(python: Path, pins: Pins, reporter: Reporter, lock: FileLock) -> None:
    """Import every module that the toolchain promises, in its own environment."""
    for module in pins.modules:
        reporter.progress(f"importing {module}")
        command = [str(python), "-s", "-P", "-c", f"import {module}"]
        _run(command, reporter, lock, f"the pins must bring a module '{module}' that imports")


def _run(
    command: list[str],
    reporter: Reporter,
    lock: FileLock,
    advice: str,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run a command to its end. settings: added to its environment.

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
        env={**_environment(), **settings},
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
