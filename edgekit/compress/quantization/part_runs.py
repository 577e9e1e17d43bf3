"""Runs of a model over the calibration data that go as far as one layer and no further."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.moments import fast_path_off

# What is done with a layer's input and output, and the number of the call in this batch.
See = Callable[[Tensor, Tensor], None]


class _ReachedError(Exception):
    """The layer was called for the last time: the rest of the model is not needed."""


@torch.no_grad()
def run_to(
    bench: Bench, model: nn.Module, path: str, inputs: Mapping[str, Tensor], see: See, *, calls: int
) -> None:
    """Run a model in eval mode on one batch up to a layer. calls: of the layer; 0 runs it whole."""
    seen = 0

    def hook(_: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any], out: Tensor) -> None:
        nonlocal seen
        seen += 1
        see(args[0] if args else next(iter(named.values())), out)
        if seen == calls:
            raise _ReachedError

    handle = model.get_submodule(path).register_forward_hook(hook, with_kwargs=True)
    try:
        with fast_path_off():
            bench.call(model, inputs)
    except _ReachedError:
        return
    finally:
        handle.remove()
