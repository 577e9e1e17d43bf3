"""Channels last while training: convolutions run faster so, and compute the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from edgekit.compress.judge import restore_modes, training_modes
from edgekit.core.errors import StepError


@contextmanager
def channels_last(model: nn.Module, trial: Callable[[], object]) -> Iterator[bool]:
    """Weights of convolutions in channels-last order within the block, where the model takes it.

    trial: runs the model once; it is tried in eval mode, so it changes no statistics. A model, or
    a loss, that views its tensors as if they were in the usual order fails it, and keeps that
    order. Yields whether channels come last.
    """
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        yield False
        return
    try:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        is_taken = _passes(model, trial)
        if not is_taken:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        yield is_taken
    finally:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _passes(model: nn.Module, trial: Callable[[], object]) -> bool:
    modes = training_modes(model)
    model.eval()
    try:
        trial()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, StepError):
        # What is wrong in either order comes up again at once, in the usual one.
        return False
    finally:
        restore_modes(modes)
    return True
