"""Errors of the user's own functions, told apart from errors of edgekit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgekit.core.errors import EdgekitError

# What a function raises of itself when it is wrong, or was given what it did not expect.
_FAULTS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)


@contextmanager
def faults_of(what: str, kind: type[EdgekitError], given: str = "") -> Iterator[None]:
    """Within the block a function of the user's runs: what it raises becomes an error of ours.

    what: whose function it is, for the message. given: what it was called with. Memory that ran
    out is nobody's fault and passes through.
    Raises: ``kind``.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _FAULTS as error:
        hint = f"; it was given {given}" if given else ""
        raise kind(f"{what} raised {type(error).__name__}: {error}{hint}") from error
