"""How a model is run to be traced, counted and compared: on a few real inputs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from edgekit.compress.bench import Bench

# Gives a model's outputs, nested as it likes.
Run = Callable[[nn.Module], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A way to run a model. samples: in one run."""

    run: Run
    samples: int = 1


def as_example(inputs: Any) -> Example:
    """An example from inputs: a tensor, a tuple of arguments, or a dict of them by name.

    Two samples tell more than one: with one, a batch axis looks like any axis of size 1.
    """
    if isinstance(inputs, Example):
        return inputs
    leaves = [item for item in tree_leaves(inputs) if isinstance(item, Tensor) and item.ndim]
    return Example(run=_run_of(inputs), samples=len(leaves[0]) if leaves else 1)


@contextmanager
def slow_attention() -> Iterator[None]:
    """Torch's fused transformer layer is one opaque operator: within the block its parts run."""
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)


def _run_of(inputs: Any) -> Run:
    if isinstance(inputs, Mapping):
        return lambda model: model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return lambda model: model(*inputs)
    return lambda model: model(inputs)


def bench_example(bench: Bench, samples: int = 2) -> Example:
    """The first calibration inputs of a bench, one where its model takes no more at a time."""
    return _called(bench, bench.example(samples if bench.contract.has_dynamic_batch else 1))


def calibration_examples(bench: Bench, batches: int, samples: int) -> list[Example]:
    """The first batches of a bench's calibration data."""
    names = [item.name for item in bench.contract.inputs]
    size = samples if bench.contract.has_dynamic_batch else 1
    return [
        _called(bench, {name: torch.from_numpy(value) for name, value in rows.items()})
        for rows in islice(bench.calibration.batches(size, names), batches)
    ]


def _called(bench: Bench, inputs: Mapping[str, Tensor]) -> Example:
    placed = {name: value.to(bench.device) for name, value in inputs.items()}
    samples = len(next(iter(placed.values())))
    return Example(run=lambda model: bench.call(model, placed), samples=samples)
