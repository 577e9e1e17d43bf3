"""One run of a model that finds which channels may be rotated together, and what stands in the way.

Every function that torch runs is seen. Rotating all of a space's channels by one matrix Q changes
nothing where what writes into it is linear, what reads it is linear, and what stands between is a
sum of such tensors, a factor that is one number for all channels, or a norm: the root of the mean
square of x Q is that of x, and the mean too where Q leaves (1, ..., 1) where it is. Anything else
ends the matter for its space, with the function's name as the reason.
Source: Ashkboos et al. 2024, arXiv:2404.00456 (QuaRot), section 4, stage 1a.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from edgekit.compress.quantization.function_trace import FunctionTrace
from edgekit.compress.quantization.rescale_rules import Given
from edgekit.compress.quantization.rotation_flow import Flow
from edgekit.compress.quantization.rotation_layers import attention, weighed
from edgekit.compress.quantization.rotation_names import (
    ADDED,
    ATTENTION_LAYER,
    CASTS,
    DIVIDED,
    JOINED,
    KEPT,
    MOVED,
    MULTIPLIED,
    NORMS,
    REDUCED,
    ROOTS,
    SHAPED_ALIKE,
    SPREADS,
    SQUARED,
    TAKEN_OUT,
)
from edgekit.compress.quantization.rotation_record import Record
from edgekit.compress.quantization.rotation_rules import (
    cast,
    joined,
    kept,
    moved,
    multiplied,
    normed,
    reduced,
    spread,
    squared,
    summed,
)


class StreamTrace(FunctionTrace):
    """Follows channels while a model runs. record: what was seen."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.record = Record(model)

    def see(self, func: Callable[..., Any], given: Given, result: Any) -> None:
        """What a function does to channels."""
        tensors = [item for item in tree_leaves(result) if isinstance(item, Tensor)]
        if not tensors:
            if given.name in TAKEN_OUT:
                self.record.stop(given)
            return
        flows = _flows(self.record, func, given, result) or [None] * len(tensors)
        for value, flow in zip(tensors, flows, strict=False):
            self.record.place(value, flow)

    def finish(self, outputs: Mapping[str, Tensor]) -> None:
        """Outputs of the model stay as they are."""
        for name, value in outputs.items():
            if (flow := self.record.flow(value)) is not None:
                flow.space.block(f"it gives the model's output '{name}'")


def _flows(
    record: Record, func: Callable[..., Any], given: Given, result: Any
) -> list[Flow | None] | None:
    """What is known of the result's tensors, in order; None for nothing."""
    if given.name in MOVED:
        return moved(record, func, given, result)
    if given.name == ATTENTION_LAYER:
        return attention(record, given)
    if not isinstance(result, Tensor):
        record.stop(given)
        return None
    return [_flow(record, func, given, result)]


def _flow(record: Record, func: Callable[..., Any], given: Given, result: Tensor) -> Flow | None:
    """What is known of the one tensor that a function gives."""
    name = given.name
    if name in SHAPED_ALIKE or (name in CASTS and cast(record, given, result)):
        return None
    if name in REDUCED or name in JOINED:
        rule = reduced if name in REDUCED else joined
        return rule(record, func, given, result)
    if name in KEPT or name in ADDED:
        return (kept if name in KEPT else summed)(record, given, result)
    if name in MULTIPLIED or name in DIVIDED:
        return multiplied(record, given, result)
    if name in SQUARED:
        return squared(record, given)
    if name in SPREADS or name in ROOTS:
        return spread(record, given)
    return normed(record, given) if name in NORMS else weighed(record, given)
