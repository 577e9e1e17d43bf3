"""The two streams: results on stdout, everything else on stderr, and nothing of a library's.

Colour comes from rich, which leaves it out where the stream is no terminal or NO_COLOR is set; no
meaning hangs on it. Values are wrapped, never cut.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, NoReturn, TextIO

import click
from rich.console import Console, RenderableType

from edgekit.report.plain import plain_json


class _Console(Console):
    """A console that lets the caller handle a reader that went away."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def console_for(stream: TextIO) -> Console:
    """A console that prints text as it is: no markup, no emoji, no guessed colours."""
    return _Console(file=stream, markup=False, emoji=False, highlight=False)


def say(*renderables: RenderableType) -> None:
    """Print results on stdout; a plain string is one line, however long it is."""
    console = console_for(sys.stdout)
    if console.is_terminal:
        _print(console, renderables)
        return
    with console.capture() as captured:
        _print(console, renderables)
    # Tables are padded to their width, which only gets in the way of grep and diff.
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _print(console: Console, renderables: Iterable[RenderableType]) -> None:
    for item in renderables:
        console.print(item, soft_wrap=isinstance(item, str))


def say_json(value: Any) -> None:
    """Print the one JSON document of this command on stdout."""
    click.echo(plain_json(value), nl=False)


def remark(kind: str, message: str) -> None:
    """Print one line that is not a result: ``note``, ``warning``, ... and what it says."""
    click.echo(f"{kind}: {message}", err=True)


@contextmanager
def guarded_stdout() -> Iterator[None]:
    """Send whatever libraries print on stdout, native ones too, to stderr while this is open."""
    sys.stdout.flush()
    if not _is_process_stdout():
        with redirect_stdout(sys.stderr):
            yield
        return
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _is_process_stdout() -> bool:
    try:
        return sys.stdout.fileno() == 1
    except OSError:
        # A buffer in a test has no file descriptor.
        return False
