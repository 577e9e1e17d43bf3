"""The pairs of a model whose channels can be rescaled, each tried on real inputs.

Nothing is guessed: a pair that changes the outputs is left out, and says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Call
from edgekit.compress.quantization.rescale import Pair
from edgekit.compress.quantization.rescale_trace import RescaleTrace

# Of the largest output: float32 rounds otherwise when weights are scaled.
_SAME = 1e-3
_CHANGED = "the outputs change with it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found.

    left: by path, layers whose channels cannot be rescaled, and why. unscaled: by name, weights
    that read what some layer or norm gives, and why that cannot be rescaled.
    """

    pairs: tuple[Pair, ...]
    left: Mapping[str, str]
    unscaled: Mapping[str, str]


def find_pairs(model: nn.Module, call: Call, example: Mapping[str, Tensor]) -> Found:
    """The pairs of a model in eval mode, each tried on the example."""
    trace = RescaleTrace(model)
    with torch.no_grad(), trace:
        outputs = call(model, example)
    found = trace.pairs(outputs)
    is_kept = [_keeps_outputs(pair, model, call, example, outputs) for pair in found]
    # A batch norm comes after the layer that it is folded into, and stands for it.
    reasons = {
        item.path: item.why_not if item.is_blocked else ""
        for item in trace.givers
        if item.weight is not None
    }
    left = {path: why for path, why in reasons.items() if why}
    changing = [pair for pair, kept in zip(found, is_kept, strict=True) if not kept]
    unscaled = {
        reader.name: f"{giver.path}: {giver.why_not}"
        for giver in trace.givers
        if giver.is_blocked
        for reader in giver.readers
    }
    changed = {
        reader.name: f"{pair.path}: {_CHANGED}" for pair in changing for reader in pair.readers
    }
    return Found(
        pairs=tuple(pair for pair, kept in zip(found, is_kept, strict=True) if kept),
        left=left | {pair.path: _CHANGED for pair in changing},
        unscaled=unscaled | changed,
    )


def are_same(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    """Whether outputs are the same within what float32 rounds otherwise when weights are scaled."""
    return all(
        bool((after[name] - value).abs().max() <= _SAME * value.abs().max())
        for name, value in before.items()
        if value.is_floating_point() and value.numel()
    )


@torch.no_grad()
def _keeps_outputs(
    pair: Pair,
    model: nn.Module,
    call: Call,
    example: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
) -> bool:
    kept = [value.clone() for value in pair.values]
    draws = torch.Generator().manual_seed(0)
    pair.scale_(2.0 ** (2 * torch.rand(pair.channels, generator=draws) - 1))
    after = call(model, example)
    for value, old in zip(pair.values, kept, strict=True):
        value.copy_(old)
    return are_same(before, after)
