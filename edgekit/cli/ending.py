"""How a command line ends that did not end well: what is said, where, and the exit code.

Every command imports this, and hardly one ends badly: what only a bad end needs is imported there.
"""

import os
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from edgekit import __version__
from edgekit.core.errors import EdgekitError, Interrupted

if TYPE_CHECKING:
    from pathlib import Path

EXPECTED = (EdgekitError, click.ClickException, click.Abort, KeyboardInterrupt)
STAGES_STAY = "finished stages stay in the cache, so the same command goes on from there"
# 128 + SIGPIPE, what a shell reports of any program whose reader went away.
READER_LOST = 141

ExceptHook = Callable[[type[BaseException], BaseException, TracebackType | None], None]


def prepare_streams() -> None:
    """Let a stream that cannot write a character write its escape instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, read without parsing: it may not parse."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def report_failure(error: BaseException, arguments: Sequence[str]) -> int:
    """Say an expected error in the form that was asked for; gives the exit code."""
    error = _as_interrupted(error)
    code = _exit_code(error)
    if wants_json(arguments):
        click.echo(_json({"error": error_plain(error)}))
        return code
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
        click.echo(f"Try '{error.ctx.command_path} --help'.", err=True)
    word = "interrupted" if code == Interrupted.exit_code else "error"
    click.echo(f"{word}: {message_of(error)}", err=True)
    return code


def _json(document: dict[str, Any]) -> str:
    import json

    return json.dumps(document, indent=2, ensure_ascii=False)


def error_plain(error: BaseException) -> dict[str, str | int]:
    """An error as the value of ``"error"`` in JSON."""
    return {
        "type": type(error).__name__,
        "message": message_of(error),
        "exit_code": _exit_code(error),
    }


def message_of(error: BaseException) -> str:
    """The message of an error, as its class words it."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    return str(error) or type(error).__name__


def _as_interrupted(error: BaseException) -> BaseException:
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return Interrupted(STAGES_STAY)
    if isinstance(error, Interrupted) and "stay in the cache" not in str(error):
        return Interrupted(f"{error}; {STAGES_STAY}")
    return error


def _exit_code(error: BaseException) -> int:
    if isinstance(error, click.ClickException):
        # click gives 1 to what is not a UsageError; here 1 means a defect of ours.
        return 2
    if isinstance(error, EdgekitError):
        return error.exit_code
    return 1


def lose_reader() -> int:
    """Whoever read stdout has gone: nothing more to say, and no complaint at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except OSError:
        # stdout is not a file of this process (a test's buffer): then nothing flushes it at exit.
        pass
    finally:
        os.close(nowhere)
    return READER_LOST


def defect_hook(arguments: Sequence[str]) -> ExceptHook:
    """A ``sys.excepthook`` for errors that nobody expected: our own defects.

    Python leaves with exit code 1 after it, which is what 1 means here.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        import traceback

        if issubclass(kind, KeyboardInterrupt):
            report_failure(error, arguments)
            return
        path = _keep_trace(kind, error, trace)
        lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
        # What failed in a worker brings its traceback along: that is in the file.
        summary = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
        if wants_json(arguments):
            plain = {"type": kind.__name__, "message": summary, "exit_code": 1}
            plain["traceback"] = path
            sys.stdout.write(_json({"error": plain}) + "\n")
        sys.stderr.write(_defect_text(summary, path, arguments))

    return hook


def _keep_trace(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> str:
    """Where the traceback is: in a file, or on stderr where no file can be written."""
    try:
        return str(_save_trace(kind, error, trace))
    except OSError:
        import traceback

        traceback.print_exception(kind, error, trace)
        return "above: it could not be saved"


def _save_trace(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> "Path":
    import tempfile
    import traceback
    from pathlib import Path

    handle, name = tempfile.mkstemp(prefix="edgekit-defect-", suffix=".txt")
    with os.fdopen(handle, "w", errors="backslashreplace") as file:
        file.write("".join(traceback.format_exception(kind, error, trace)))
    return Path(name)


def _defect_text(summary: str, path: str, arguments: Sequence[str]) -> str:
    import platform
    import shlex

    return (
        f"error: {summary}\n"
        "This is a defect of edgekit, not of your input. Please report it with these lines and "
        "the file:\n"
        f"  edgekit   {__version__}\n"
        f"  python    {platform.python_version()} on {platform.system()} {platform.machine()}\n"
        f"  command   edgekit {shlex.join(arguments)}\n"
        f"  traceback {path}\n"
    )
