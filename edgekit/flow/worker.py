"""Runs a stage in a process of its own, here or in a toolchain, as if it ran in this one.

The job goes in on standard input; events and the result come back on a pipe of their own, where
no print of a library can reach them. What the process prints is kept, the end of it, for the
report of a failure. ``worker_main`` is the other end.
"""

import errno
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.core import errors
from edgekit.core.codec import canonical_json, from_plain
from edgekit.core.errors import (
    CompileError,
    EdgekitError,
    Interrupted,
    MissingDependencyError,
    StepError,
)
from edgekit.core.progress import Event, Listener
from edgekit.core.stage import StageRequest
from edgekit.flow.borrow import borrowed_for, import_path

POLL_SECONDS = 0.2
EXIT_SECONDS = 10.0  # what a process gets to end after it has sent its result
TAIL_BYTES = 64 * 1024
TAIL_LINES = 30

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_FULL_BYTES = 64 * 1024  # less is no room for any file that a stage writes
_MAIN = Path(__file__).with_name("worker_main.py")
_MEMORY_ADVICE = (
    "most often the machine ran out of memory: close other programs, take fewer calibration "
    "samples or a smaller batch, or use a machine with more memory"
)


class StageDefectError(RuntimeError):
    """A stage failed in a way that edgekit did not foresee; holds the traceback to report."""


class WorkerTraceback(Exception):
    """The traceback of an error in a worker process, as the cause of the same error here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(slots=True, kw_only=True)
class _Answer:
    """What has come from the worker so far."""

    listener: Listener
    line: bytearray = field(default_factory=bytearray)
    printed: bytearray = field(default_factory=bytearray)
    final: dict[str, Any] | None = None

    def take_events_(self, data: bytes) -> None:
        *lines, rest = (self.line + data).split(b"\n")
        self.line = bytearray(rest)
        for line in lines:
            message = json.loads(line)
            if "event" in message:
                self.listener(from_plain(Event, message["event"], where="worker event"))
            else:
                self.final = message

    def take_print_(self, data: bytes) -> None:
        self.printed += data
        del self.printed[:-TAIL_BYTES]

    @property
    def tail(self) -> str:
        lines = self.printed.decode(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])


def run_in_worker(
    request: StageRequest, out: Path, listener: Listener, *, python: Path | None = None
) -> dict[str, Any]:
    """The values of a stage that writes into ``out``, run by ``python`` (None: this interpreter).

    An error that the listener raises ends the worker at once and is passed on.
    Raises: the same EdgekitError that the handler raised, with the worker's traceback as its
    cause; StepError when the process was killed; OSError when a disk is full or read-only;
    StageDefectError for anything else; Interrupted on Ctrl-C.
    """
    job = canonical_json(_job(request, out, python))
    answer = _Answer(listener=listener)
    try:
        status = _converse(_command(python), _environment(request, python), job, answer)
    except KeyboardInterrupt:
        raise Interrupted(f"stage '{request.name}' was stopped") from None
    try:
        return _settle(request.name, answer, status)
    except (CompileError, StepError, StageDefectError) as failure:
        # A tool that could not write a file may tell of anything but the disk.
        if shutil.disk_usage(out).free >= _FULL_BYTES:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from failure


def _job(request: StageRequest, out: Path, python: Path | None) -> dict[str, Any]:
    common = {"request": request, "out": str(out.absolute()), "parent": os.getpid()}
    if python is None:
        return common | {"path": import_path(), "packages": {}, "distributions": ()}
    borrowed = borrowed_for(request.handler)
    return common | {
        "path": None,
        "packages": borrowed.packages,
        "distributions": borrowed.distributions,
    }


def _command(python: Path | None) -> list[str]:
    # -P: the folder of worker_main.py must not be on the path; its neighbours are named as the
    # packages of others. -s: what a user installed for himself is in no lock.
    return [str(python or sys.executable), "-s", "-P", str(_MAIN)]


def _environment(request: StageRequest, python: Path | None) -> dict[str, str]:
    """The parent's environment without Python's own variables, and with fixed hashing."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    kept |= {"PYTHONHASHSEED": "0", "PYTHONNOUSERSITE": "1", "PYTHONUTF8": "1"}
    threads = request.settings.get("threads")
    if isinstance(threads, int) and threads > 0:
        kept["OMP_NUM_THREADS"] = str(threads)
    if python is not None:
        kept["VIRTUAL_ENV"] = str(python.parent.parent)
        kept["PATH"] = os.pathsep.join((str(python.parent), kept.get("PATH", os.defpath)))
    return kept


def _converse(command: list[str], environment: dict[str, str], job: bytes, answer: _Answer) -> int:
    """Start the process, hear it to its end, and give its exit status; negative is a signal."""
    events, sending = os.pipe()
    try:
        # A session of its own: Ctrl-C on a terminal comes here alone, and one kill reaches
        # everything that the stage has started.
        process = subprocess.Popen(
            [*command, str(sending)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[sending],
            start_new_session=True,
        )
    except OSError as refusal:
        os.close(events)
        raise MissingDependencyError(
            f"{command[0]}: this Python cannot be started ({refusal.strerror}); "
            "`edgekit toolchain list` shows which environments are whole"
        ) from refusal
    finally:
        os.close(sending)
    with os.fdopen(events, "rb", buffering=0), process:
        try:
            _hand_over(process, job)
            _listen(process, events, answer)
            _await_end(process)
        finally:
            _kill_group(process)
        return process.wait()


def _hand_over(process: "subprocess.Popen[bytes]", job: bytes) -> None:
    if process.stdin is None:
        raise RuntimeError("the worker was started without standard input")
    try:
        process.stdin.write(job)
        process.stdin.close()
    except BrokenPipeError:
        return  # it died at once; its last words say why


def _listen(process: "subprocess.Popen[bytes]", events: int, answer: _Answer) -> None:
    """Take what the process says until its result is here, or it has ended without one."""
    if process.stdout is None:
        raise RuntimeError("the worker was started without standard output")
    with selectors.DefaultSelector() as waiting:
        waiting.register(events, selectors.EVENT_READ, answer.take_events_)
        waiting.register(process.stdout.fileno(), selectors.EVENT_READ, answer.take_print_)
        while waiting.get_map() and answer.final is None:
            # Asked before reading: all that an ended process wrote is then in the pipes.
            is_over = _has_ended(process)
            if is_over:
                _kill_group(process)  # what it started may hold the pipes open
            ready = waiting.select(0 if is_over else POLL_SECONDS)
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    waiting.unregister(key.fd)
                key.data(data)
            if is_over and not ready:
                return


def _await_end(process: "subprocess.Popen[bytes]") -> None:
    """Wait until the process has ended, but no longer than is decent after a result."""
    deadline = time.monotonic() + EXIT_SECONDS
    while not _has_ended(process) and time.monotonic() < deadline:
        time.sleep(0.005)


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Whether the process has ended, without reaping it: its id must stay ours for the kill."""
    found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found is not None


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process and all that it started; some may be gone already."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _settle(stage: str, answer: _Answer, status: int) -> dict[str, Any]:
    """The values, or the error that the answer amounts to."""
    final: Mapping[str, Any] = answer.final or {}
    if "values" in final:
        values: dict[str, Any] = final["values"]
        return values
    if "error" in final:
        raised = _error_classes()[final["error"]["type"]](final["error"]["message"])
        raise raised from WorkerTraceback(final["error"]["traceback"])
    if "defect" in final:
        _raise_defect(stage, final["defect"])
    if status in (-signal.SIGKILL, -signal.SIGTERM):
        name = signal.Signals(-status).name
        raise StepError(f"stage '{stage}' was killed from outside ({name}): {_MEMORY_ADVICE}")
    how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    raise StageDefectError(f"stage '{stage}' ended {how} without a result:\n{answer.tail}")


def _raise_defect(stage: str, defect: Mapping[str, Any]) -> None:
    if defect["type"] == "KeyboardInterrupt":
        raise Interrupted(f"stage '{stage}' was stopped")
    cause = WorkerTraceback(defect["traceback"])
    if defect["type"] == "MemoryError":
        raise StepError(f"stage '{stage}' got no memory: {_MEMORY_ADVICE}") from cause
    if defect["errno"] in _NO_ROOM:
        # As it would come from a stage that ran here: the store knows the place.
        raise OSError(defect["errno"], os.strerror(defect["errno"])) from cause
    raise StageDefectError(f"stage '{stage}' failed:\n{defect['traceback']}")


def _error_classes() -> dict[str, type[EdgekitError]]:
    def tree(cls: type[EdgekitError]) -> Iterator[type[EdgekitError]]:
        yield cls
        for child in cls.__subclasses__():
            yield from tree(child)

    return {cls.__name__: cls for cls in tree(EdgekitError) if cls.__module__ == errors.__name__}
