"""One run of a model that finds which channels can be rescaled from layer to layer.

Every function that torch runs is seen. A tensor whose channels some layer gave is followed through
functions that keep f(s x) = s f(x); a layer that reads it is a reader, and anything else ends the
matter for the channels that come there, with its name as the reason.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from edgekit.compress.quantization.function_trace import FunctionTrace
from edgekit.compress.quantization.rescale import Pair, Reader, Slot
from edgekit.compress.quantization.rescale_flow import Flow, Giver
from edgekit.compress.quantization.rescale_rules import (
    Given,
    carrier,
    channel_axis,
    columns_of,
    is_functional_batch_norm,
    labels_after,
    labels_along,
)

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
_TURNED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
_ADDED = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})
_MULTIPLIED = frozenset({"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply"})
_DIVIDED = frozenset({"div", "div_", "__truediv__", "__itruediv__", "divide", "true_divide"})
# These take a value out of torch, where nobody sees what becomes of it.
_TAKEN_OUT = frozenset(
    {"item", "tolist", "numpy", "__array__", "__bool__", "__float__", "__int__", "__index__"}
)


class RescaleTrace(FunctionTrace):
    """Follows channels while a model runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.givers: list[Giver] = []
        self._names: dict[int, str] = {}
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            self._names.setdefault(id(value), name)
        self._uses: Counter[str] = Counter()
        self._flows = WeakTensorKeyDictionary()

    def see(self, func: Callable[..., Any], given: Given, result: Any) -> None:
        """What a function does to channels."""
        if isinstance(result, Tensor):
            self._one_tensor(func, given, result)
        elif any(isinstance(item, Tensor) for item in tree_leaves(result)):
            self._pass_on(func, given, result)
        elif given.name in _TAKEN_OUT:
            self._stop(given)

    def pairs(self, outputs: Mapping[str, Tensor]) -> list[Pair]:
        """The givers whose channels go to layers alone, all of whose weights are used once."""
        for value in outputs.values():
            if (flow := self._flow(value)) is not None:
                flow.block("it gives an output of the model")
        for giver in self.givers:
            names = [item.name for item in giver.divided] + [item.name for item in giver.readers]
            if any(self._uses[name] > 1 for name in names):
                giver.block("its weights, or a reader's, are used more than once")
            if not giver.readers:
                giver.block("no layer reads it")
        return [
            Pair(
                path=giver.path,
                channels=giver.channels,
                weight=giver.weight,
                norm=giver.norm,
                divided=tuple(giver.divided),
                readers=tuple(giver.readers),
                free=giver.free,
            )
            for giver in self.givers
            if not giver.is_blocked
        ]

    def _one_tensor(self, func: Callable[..., Any], given: Given, result: Tensor) -> None:
        if given.name in _CONVOLUTIONS | _TURNED | {"linear"}:
            self._layer(given, result)
        elif is_functional_batch_norm(func):
            self._batch_norm(given, result)
        elif given.name in ("layer_norm", "rms_norm", "group_norm"):
            self._norm(given, result)
        elif given.name in _ADDED | _MULTIPLIED | _DIVIDED:
            self._two(given, result)
        else:
            self._pass_on(func, given, result)

    def _layer(self, given: Given, result: Tensor) -> None:
        """A layer reads what comes in, and gives channels of its own."""
        value, weight, bias = (given.get(i, n) for i, n in enumerate(("input", "weight", "bias")))
        is_matrix, is_turned = given.name == "linear", given.name in _TURNED
        groups = 1 if is_matrix else int(given.get(6, "groups", 1))
        named, shift = self._used(weight), self._used(bias)
        is_whole = named is not None and (is_matrix or value.ndim == weight.ndim)
        if (flow := self._flow(value)) is not None:
            columns = columns_of(flow.labels, -1 if is_matrix else 1)
            if is_whole and columns is not None:
                reader = Reader(
                    name=str(named),
                    weight=weight,
                    columns=columns.cpu(),
                    groups=groups,
                    is_turned=is_turned,
                )
                flow.giver.readers.append(reader)
            else:
                flow.block(f"{given.name} does not read it channel by channel")
        is_known = is_whole and (bias is None) == (shift is None)
        if not is_known or (is_turned and groups > 1):
            return
        slot = Slot(name=str(named), value=weight, axis=1 if is_turned else 0)
        divided = [slot] if shift is None else [slot, Slot(name=shift, value=bias)]
        giver = self._giver(str(named), weight.shape[slot.axis], divided, weight=slot)
        labels = labels_along(result, -1 if is_matrix else 1)
        self._flows[result] = Flow(giver=giver, labels=labels, is_direct=True)

    def _batch_norm(self, given: Given, result: Tensor) -> None:
        """A batch norm gives its own channels; behind a layer it is folded into that one."""
        value, variance = given.get(0, "input"), given.get(2, "running_var")
        weight, bias = given.get(3, "weight"), given.get(4, "bias")
        scale, shift = self._used(weight), self._used(bias)
        flow = self._flow(value)
        if flow is not None:
            flow.block("a batch norm reads it")
        if scale is None or shift is None or variance is None or given.get(5, "training", False):
            return
        divided = [Slot(name=scale, value=weight), Slot(name=shift, value=bias)]
        giver = self._giver(scale, len(weight), divided)
        if flow is not None and flow.is_direct and channel_axis(flow.labels, len(weight)) == 1:
            giver.path, giver.weight = flow.giver.path, flow.giver.weight
            giver.norm = weight, variance, float(given.get(7, "eps", 1e-5))
        self._flows[result] = Flow(giver=giver, labels=labels_along(result, 1))

    def _norm(self, given: Given, result: Tensor) -> None:
        """A norm's weight and bias give its channels; what came in is divided out again."""
        weight = given.get(2, "weight")
        bias = None if given.name == "rms_norm" else given.get(3, "bias")
        self._stop(given, is_use=False)
        scale, shift = self._used(weight), self._used(bias)
        if scale is None or weight.ndim != 1 or (bias is None) != (shift is None):
            return
        divided = [Slot(name=scale, value=weight)]
        if shift is not None and bias is not None:
            divided.append(Slot(name=shift, value=bias))
        labels = labels_along(result, 1 if given.name == "group_norm" else -1)
        self._flows[result] = Flow(giver=self._giver(scale, len(weight), divided), labels=labels)

    def _two(self, given: Given, result: Tensor) -> None:
        """A sum or a product of two."""
        pair = given.get(0, "input"), given.get(1, "other")
        flows = [self._flow(item) for item in pair]
        mine = [index for index, flow in enumerate(flows) if flow is not None]
        if len(mine) > 1:
            self._stop(given)
            return
        if not mine:
            self._weigh(given, pair, result)
            return
        flow, other = flows[mine[0]], pair[1 - mine[0]]
        is_same = flow is not None and result.shape == pair[mine[0]].shape
        is_bent = given.name in _DIVIDED and (mine[0] == 1 or "rounding_mode" in given.named)
        if flow is None or not is_same or is_bent:
            self._stop(given)
        elif given.name not in _ADDED:
            self._flows[result] = Flow(giver=flow.giver, labels=flow.labels)
        else:
            self._shift(given, other, flow, result)

    def _shift(self, given: Given, other: Any, flow: Flow, result: Tensor) -> None:
        """A bias that is added later is divided with the rest."""
        channels = flow.giver.channels
        name, axis = self._names.get(id(other)), channel_axis(flow.labels, channels)
        if name is None or axis is None or given.get(2, "alpha", 1) != 1:
            self._stop(given)
            return
        place = axis - result.ndim + other.ndim
        if place < 0 or other.numel() != channels or other.shape[place] != channels:
            self._stop(given)
            return
        self._used(other)
        flow.giver.divided.append(Slot(name=name, value=other, axis=place))
        self._flows[result] = Flow(giver=flow.giver, labels=flow.labels)

    def _weigh(self, given: Given, pair: tuple[Any, Any], result: Tensor) -> None:
        """The last line of a norm that a model wrote itself: a weight times what it normed."""
        weights = [item for item in pair if self._names.get(id(item)) and item.ndim == 1]
        is_norm = given.name in _MULTIPLIED and len(weights) == 1 and result.ndim > 1
        if not is_norm or len(weights[0]) != result.shape[-1]:
            self._stop(given)
            return
        name = str(self._used(weights[0]))
        divided = [Slot(name=name, value=weights[0])]
        giver = self._giver(name, len(weights[0]), divided)
        self._flows[result] = Flow(giver=giver, labels=labels_along(result, -1))

    def _pass_on(self, func: Callable[..., Any], given: Given, result: Any) -> None:
        """A function of one tensor with channels; what else comes in is blocked."""
        carried = carrier(given)
        flow = self._flow(carried)
        is_once = sum(item is carried for item in given.tensors) == 1
        labels = labels_after(func, given, result, flow.labels) if flow and is_once else None
        self._stop(given, kept=None if labels is None else carried)
        if flow is None or labels is None:
            return
        for part, found in zip(tree_leaves(result), tree_leaves(labels), strict=True):
            self._flows[part] = Flow(giver=flow.giver, labels=found)

    def _giver(
        self, name: str, channels: int, divided: list[Slot], *, weight: Slot | None = None
    ) -> Giver:
        path = name.rpartition(".")[0] or name
        held = torch.zeros(channels, dtype=torch.bool)
        giver = Giver(path=path, channels=channels, held=held, divided=divided, weight=weight)
        self.givers.append(giver)
        return giver

    def _flow(self, value: Any) -> Flow | None:
        found: Flow | None = None
        if isinstance(value, Tensor):
            found = self._flows.get(value)  # type: ignore[no-untyped-call]
        return found

    def _stop(self, given: Given, *, is_use: bool = True, kept: Tensor | None = None) -> None:
        """What comes in here cannot be rescaled. is_use: nor can a weight that is used here.

        kept: an argument that can all the same.
        """
        for item in given.tensors:
            if item is kept:
                continue
            if (flow := self._flow(item)) is not None:
                flow.block(f"{given.name} stands between it and its readers")
            elif is_use and id(item) in self._names:
                self._uses[self._names[id(item)]] += 2

    def _used(self, value: Any) -> str | None:
        """The name of a parameter, which is used here once more; None for anything else."""
        name = self._names.get(id(value)) if isinstance(value, Tensor) else None
        if name is not None:
            self._uses[name] += 1
        return name
