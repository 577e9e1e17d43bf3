"""Parameters and multiply-accumulates of a model."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from edgekit.compress.bench import Bench
from edgekit.compress.example import Example, bench_example, slow_attention
from edgekit.compress.judge import restore_modes, training_modes
from edgekit.plan.container import STUDENT_FILE_BYTES, STUDENT_LAYER_BYTES

aten = torch.ops.aten


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """The size of a model and the work of one sample.

    parameters: each once, tied ones too. macs: multiply-accumulates of matrix products,
    convolutions and attention, for one sample; additions and activations are not counted. bytes:
    of the parameters as they are (4 each in float32). layers: modules with a weight matrix.
    """

    parameters: int
    macs: int
    bytes: int = 0
    layers: int = 0

    def artifact_bytes(self, bits: int = 32) -> int:
        """About how large a file is whose weights have so many bits each. Estimated."""
        return self.parameters * bits // 8 + STUDENT_FILE_BYTES + STUDENT_LAYER_BYTES * self.layers


def count(model: nn.Module, bench: Bench) -> Count:
    """Count a model on the bench's first calibration sample."""
    return count_run(model, bench_example(bench, samples=1))


def count_run(model: nn.Module, example: Example) -> Count:
    """Count a model on one run.

    Source of the counts: torch.utils.flop_counter, two operations a multiply-accumulate.
    """
    modes = training_modes(model)
    counter = FlopCounterMode(display=False, custom_mapping=_MISSING)
    try:
        model.eval()
        with torch.no_grad(), _without_gradients(model), slow_attention(), counter:
            example.run(model)
    finally:
        restore_modes(modes)
    parameters = list(model.parameters())
    return Count(
        parameters=sum(item.numel() for item in parameters),
        macs=counter.get_total_flops() // 2 // example.samples,
        bytes=sum(item.numel() * item.element_size() for item in parameters),
        layers=sum(_has_matrix(module) for module in model.modules()),
    )


@contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """Within the block no parameter asks for a gradient.

    The counter hangs hooks on the gradients of what a module is given. A view of a parameter that
    asks for one has none under ``no_grad``, and the hook fails (torch 2.13).
    """
    asking = [value for value in model.parameters() if value.requires_grad]
    for value in asking:
        value.requires_grad = False
    try:
        yield
    finally:
        for value in asking:
            value.requires_grad = True


def _has_matrix(module: nn.Module) -> bool:
    own = module.parameters(recurse=False)
    return not isinstance(module, nn.Embedding) and any(item.ndim > 1 for item in own)


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Attention on a CPU, which torch's own table leaves out; each query head has its keys."""
    heads = query[1]
    keys, values = (key[0], heads, *key[2:]), (value[0], heads, *value[2:])
    return int(sdpa_flop_count(query, keys, values))  # type: ignore[no-untyped-call]


def _lstm(steps: Any, from_input: Any, from_state: Any, *_: Any, **__: Any) -> int:
    """One direction of one layer of an LSTM on a CPU: two products at every step.

    Shapes: steps (time, batch, inputs), from_input (4 hidden, inputs), from_state (4 hidden,
    hidden).
    """
    weights = math.prod(from_input) + math.prod(from_state)
    return int(2 * steps[0] * steps[1] * weights)


_MISSING: dict[Any, Any] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,  # noqa: SLF001
    aten.mkldnn_rnn_layer: _lstm,
}
