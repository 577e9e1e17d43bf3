"""The worker's side of a stage: runs the handler and streams what happens, one JSON a line.

Lines are ``{"event": ...}`` any number of times, then one of ``{"values": ...}``,
``{"error": {"type", "message", "traceback"}}`` for edgekit's own errors, and
``{"defect": {"type", "traceback", "errno"}}`` for anything else (errno: the operating system's
number, or null). Runs in a toolchain's environment, so it
imports ``core`` only.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

from edgekit.core import errors
from edgekit.core.codec import canonical_json, from_plain, to_plain
from edgekit.core.progress import Event, Reporter
from edgekit.core.stage import StageRequest, resolve_handler

Send = Callable[[Mapping[str, Any]], None]


def answer(job: Mapping[str, Any], descriptor: int) -> None:
    """Run the job's stage and send its values, or what went wrong, down the descriptor."""
    send = partial(write_line, descriptor, Lock())
    sys.excepthook = partial(send_failure, send)
    request = from_plain(StageRequest, job["request"], where="stage request")
    reporter = Reporter(stage=request.name, listener=lambda event: send_event(send, event))
    values = resolve_handler(request.handler)(request, Path(job["out"]), reporter)
    send({"values": json.loads(canonical_json(values))})


def send_event(send: Send, event: Event) -> None:
    """Send one event."""
    send({"event": to_plain(event)})


def send_failure(
    send: Send,
    kind: type[BaseException],
    error: BaseException,
    at: TracebackType | None,
) -> None:
    """Send an exception that ended the stage; the hook of last resort of this process."""
    text = "".join(traceback.format_exception(kind, error, at))
    if isinstance(error, errors.EdgekitError):
        content = {"type": known_class(kind), "message": str(error), "traceback": text}
        send({"error": content})
    else:
        number = error.errno if isinstance(error, OSError) else None
        send({"defect": {"type": kind.__name__, "traceback": text, "errno": number}})


def known_class(kind: type[BaseException]) -> str:
    """The nearest class in ``core.errors`` of an error: a plug-in may have its own subclasses."""
    return next(cls.__name__ for cls in kind.__mro__ if cls.__module__ == errors.__name__)


def write_line(descriptor: int, lock: Lock, message: Mapping[str, Any]) -> None:
    """Write one message whole: a pipe takes less than it was given at times, from any thread."""
    line = memoryview(canonical_json(message))
    with lock:
        while line:
            line = line[os.write(descriptor, line) :]
