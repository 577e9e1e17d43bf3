"""Converters talk: on both streams, through logging, and from native code. None of it is a result.

Output of a stage is what it returns and what its reporter says; stdout belongs to the CLI's JSON.
"""

import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

_lock = threading.RLock()


@contextmanager
def silence() -> Iterator[None]:
    """Drop what Python, logging and native code write to stdout and stderr meanwhile.

    One thread at a time: the descriptors belong to the process.
    """
    with _lock, ExitStack() as stack:
        stack.enter_context(_no_logging())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_no_descriptor(1))
        stack.enter_context(_no_descriptor(2))
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        yield


@contextmanager
def _no_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, disabled = list(root.handlers), root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
        # logging.warning() and absl install handlers of their own on the way.
        root.handlers[:] = handlers


@contextmanager
def _no_descriptor(number: int) -> Iterator[None]:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    try:
        original = os.dup(number)
    except OSError:  # the process has no such stream
        yield
        return
    with tempfile.TemporaryFile() as dropped:
        os.dup2(dropped.fileno(), number)
        try:
            yield
        finally:
            os.dup2(original, number)
            os.close(original)
