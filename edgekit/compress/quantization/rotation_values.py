"""Values of attention that can be rotated, head by head, and the layers that read them.

A head's output is a sum of its values, weighed by attention. Rotating the values of a head by a
matrix Q rotates its output by Q, so Q goes into the layer that gives the values and its transpose
into the one that reads what the heads give; heads that share their values share Q.
Source: Liu et al. 2024, arXiv:2405.16406 (SpinQuant), section 3.1, R2; Ashkboos et al. 2024,
arXiv:2404.00456 (QuaRot), section 4, stage 1c.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from edgekit.compress.bench import Call
from edgekit.compress.moments import fast_path_off
from edgekit.compress.quantization.function_trace import FunctionTrace
from edgekit.compress.quantization.rescale_rules import (
    ATTENTION,
    Given,
    carrier,
    columns_of,
    labels_after,
    labels_along,
)
from edgekit.compress.quantization.rotation_flow import Leaf
from edgekit.compress.quantization.rotation_heads import Giver, Reader
from edgekit.compress.quantization.rotation_layers import attention_parts
from edgekit.compress.quantization.rotation_names import (
    ATTENTION_LAYER,
    JOINED,
    KEPT,
    MOVED,
    SHAPED_ALIKE,
    TAKEN_OUT,
)

_MIXED = frozenset({"matmul", "__matmul__", "bmm", ATTENTION})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flow:
    """Which of a giver's channels each value of a tensor is. is_mixed: attention summed them."""

    giver: Giver
    labels: Tensor
    is_mixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundValues:
    """left: by name of their weight, layers that give values and cannot be rotated, and why."""

    givers: tuple[Giver, ...]
    left: Mapping[str, str]


def find_values(
    model: nn.Module, call: Call, example: Mapping[str, Tensor], *, masks: Iterable[str] = ()
) -> FoundValues:
    """The values of a model in eval mode. masks: of parameters whose zeros must stay."""
    trace = _ValueTrace(model)
    with torch.no_grad(), fast_path_off(), trace:
        outputs = call(model, example)
    trace.finish(outputs)
    givers = [giver for giver in trace.givers if giver.heads]
    left = {giver.weight.name: _why_not(giver, trace.uses, set(masks)) for giver in givers}
    return FoundValues(
        givers=tuple(giver for giver in givers if not left[giver.weight.name]),
        left={name: why for name, why in left.items() if why},
    )


def _why_not(giver: Giver, uses: Counter[str], masks: set[str]) -> str:
    if not giver.free:
        return giver.why_not or "its heads share channels"
    if not giver.readers:
        return giver.why_not or "no linear layer reads what its heads give"
    twice = [leaf.name for leaf in giver.leaves if uses[leaf.name] > 1]
    if twice:
        return f"'{twice[0]}' is used more than once"
    masked = [leaf.name for leaf in giver.leaves if leaf.name in masks]
    return f"'{masked[0]}' has zeros that must stay, which a rotation would fill" if masked else ""


class _ValueTrace(FunctionTrace):
    """Follows values while a model runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.givers: list[Giver] = []
        self.uses: Counter[str] = Counter()
        self._leaves: dict[int, Leaf] = {}
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            self._leaves.setdefault(id(value), Leaf(name=name, value=value))
        self._flows = WeakTensorKeyDictionary()

    def see(self, func: Callable[..., Any], given: Given, result: Any) -> None:
        """What a function does to values."""
        leaves = [item for item in tree_leaves(result) if isinstance(item, Tensor)]
        if not leaves:
            if given.name in TAKEN_OUT:
                self._stop(given)
            return
        found = self._flows_of(func, given, result)
        for place, item in enumerate(leaves):
            if found is not None and place < len(found):
                self._flows[item] = found[place]
            else:
                self._flows.pop(item, None)  # type: ignore[no-untyped-call]

    def finish(self, outputs: Mapping[str, Tensor]) -> None:
        """Outputs of the model stay as they are."""
        for name, value in outputs.items():
            if (flow := self._flow(value)) is not None:
                flow.giver.block(f"it gives the model's output '{name}'", flow.labels)

    def _flows_of(self, func: Callable[..., Any], given: Given, result: Any) -> list[_Flow] | None:
        for leaf in (self._leaves.get(id(item)) for item in given.tensors):
            if leaf is not None:
                self.uses[leaf.name] += 1
        if given.name == ATTENTION_LAYER:
            self._attention(given)
            return None
        layer = self._layer(given, result)
        if layer is not None:
            return [layer]
        if given.name in SHAPED_ALIKE:
            return None
        return self._pass_on(func, given, result)

    def _flow(self, value: Any) -> _Flow | None:
        found: _Flow | None = None
        if isinstance(value, Tensor):
            found = self._flows.get(value)  # type: ignore[no-untyped-call]
        return found

    def _stop(self, given: Given, *, but: Any = None) -> None:
        """What comes in here cannot be rotated. but: one argument that can."""
        for item in given.tensors:
            if item is not but and (flow := self._flow(item)) is not None:
                flow.giver.block(f"{given.name} reads it", flow.labels)

    def _layer(self, given: Given, result: Any) -> _Flow | None:
        """A linear layer may read what heads give, and give values; None for anything else."""
        places = {"linear": (0, 1, 2, 1), "addmm": (1, 2, 0, 0), "matmul": (0, 1, 3, 0)}
        found = places.get(given.name.strip("_"))
        if found is None:
            return None
        value, weight, bias = (given.get(place, "") for place in found[:3])
        leaf, shift = self._leaves.get(id(weight)), self._leaves.get(id(bias))
        if leaf is None or leaf.value.ndim != 2 or (bias is None) != (shift is None):
            return None
        if {given.named.get("beta", 1), given.named.get("alpha", 1)} != {1}:
            return None
        if (flow := self._flow(value)) is not None:
            self._read(given, flow, Reader(leaf=leaf, axis=found[3], columns=flow.labels))
        giver = Giver(weight=leaf, axis=1 - found[3], bias=shift)
        self.givers.append(giver)
        return _Flow(giver=giver, labels=labels_along(result, -1))

    def _read(self, given: Given, flow: _Flow, reader: Reader) -> None:
        columns = columns_of(flow.labels, -1)
        heads = {len(head) for head in flow.giver.heads}
        is_whole = columns is not None and len(heads) == 1 and len(columns) % min(heads) == 0
        if columns is None or not (flow.is_mixed and is_whole):
            flow.giver.block(f"{given.name} does not read it head by head", flow.labels)
            return
        for row in columns.reshape(-1, min(heads)).cpu():
            if tuple(row.tolist()) not in flow.giver.heads:
                flow.giver.block(f"{given.name} does not read it head by head", row)
        flow.giver.readers.append(replace(reader, columns=columns.cpu()))

    def _pass_on(self, func: Callable[..., Any], given: Given, result: Any) -> list[_Flow] | None:
        """A function that moves values, or weighs them by attention."""
        carried = self._filled(given) if given.name in JOINED else carrier(given)
        flow = self._flow(carried)
        is_once = sum(item is carried for item in given.tensors) == 1
        labels = self._after(func, given, result, flow) if flow is not None and is_once else None
        self._stop(given, but=None if labels is None else carried)
        if flow is None or labels is None:
            return None
        is_mixed = given.name in _MIXED
        if is_mixed:
            rows = flow.labels[..., 0, :].flatten(0, -2)
            flow.giver.heads |= {tuple(row) for row in rows.tolist()}
        return [
            replace(flow, labels=item, is_mixed=flow.is_mixed or is_mixed)
            for item in tree_leaves(labels)
        ]

    def _filled(self, given: Given) -> Tensor | None:
        """Of tensors that are joined the one that is not empty: a cache that holds nothing yet."""
        parts = [item for item in given.tensors if item.numel()]
        return parts[0] if len(parts) == 1 else None

    def _after(self, func: Callable[..., Any], given: Given, result: Any, flow: _Flow) -> Any:
        """The labels of the result; None where values do not stay as they are."""
        if given.name in KEPT or given.name in JOINED:
            is_training = "dropout" in given.name and given.get(2, "training", default=True)
            is_same = isinstance(result, Tensor) and result.shape == flow.labels.shape
            return flow.labels if is_same and not is_training else None
        is_mixing = given.name in _MIXED and not flow.is_mixed
        if given.name in MOVED or is_mixing:
            return labels_after(func, given, result, flow.labels)
        return None

    def _attention(self, given: Given) -> None:
        """Torch's multi-head attention in one call, which has both layers in it."""
        self._stop(given)
        parts = attention_parts(given, lambda value: self._leaves.get(id(value)))
        if parts is None:
            return
        width = parts.out.value.shape[1]
        values = torch.arange(2 * width, 3 * width)
        giver = Giver(weight=parts.into, axis=0, bias=parts.shift)
        giver.heads = {tuple(row) for row in values.reshape(parts.heads, -1).tolist()}
        giver.readers.append(Reader(leaf=parts.out, axis=1, columns=values))
        self.givers.append(giver)
