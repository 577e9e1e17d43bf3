"""One run of a model that finds which channels can be rescaled from layer to layer.

Every function that torch runs is seen. A tensor whose channels some layer gave is followed through
functions that keep f(s x) = s f(x); a layer that reads it is a reader, and anything else ends the
matter for the layer that gave them, with its name as the reason. Nothing is guessed: each pair is
tried on real inputs, and one that changes the outputs is left out.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from edgekit.compress.bench import Call
from edgekit.compress.quantization.rescale import Pair, Reader, Slot
from edgekit.compress.quantization.rescale_rules import (
    Given,
    is_functional_batch_norm,
    place_after,
)

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
_TURNED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
_ADDED = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__"})
_MULTIPLIED = frozenset({"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply"})
# These take a value out of torch, where nobody sees what becomes of it.
_TAKEN_OUT = frozenset(
    {"item", "tolist", "numpy", "__array__", "__bool__", "__float__", "__int__", "__index__"}
)
# Of the largest output: float32 rounds otherwise when weights are scaled.
_SAME = 1e-3


@dataclass(slots=True, kw_only=True)
class _Giver:
    """A layer that gives channels, as far as the run has come."""

    path: str
    channels: int
    weight: Slot | None = None
    norm: tuple[Tensor, Tensor, float] | None = None
    divided: list[Slot] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    why_not: str = ""

    def block(self, why: str) -> None:
        """Its channels cannot be rescaled; the first reason counts."""
        self.why_not = self.why_not or why


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flow:
    """Which axis of a tensor has a giver's channels. is_direct: nothing has changed them yet."""

    giver: _Giver
    axis: int
    repeat: int = 1
    is_direct: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found. left: by path, layers whose channels cannot be rescaled, and why."""

    pairs: tuple[Pair, ...]
    left: Mapping[str, str]


def find_pairs(model: nn.Module, call: Call, example: Mapping[str, Tensor]) -> Found:
    """The pairs of a model in eval mode, each tried on the example."""
    trace = _Trace(model)
    with torch.no_grad(), trace:
        outputs = call(model, example)
    found = trace.pairs(outputs)
    is_kept = [_keeps_outputs(pair, model, call, example) for pair in found]
    # A batch norm comes after the layer that it is folded into, and stands for it.
    reasons = {item.path: item.why_not for item in trace.givers if item.weight is not None}
    left = {path: why for path, why in reasons.items() if why}
    changing = [pair.path for pair, kept in zip(found, is_kept, strict=True) if not kept]
    return Found(
        pairs=tuple(pair for pair, kept in zip(found, is_kept, strict=True) if kept),
        left=left | dict.fromkeys(changing, "the outputs change with it"),
    )


@torch.no_grad()
def _keeps_outputs(pair: Pair, model: nn.Module, call: Call, example: Mapping[str, Tensor]) -> bool:
    kept = [value.clone() for value in pair.values]
    before = call(model, example)
    draws = torch.Generator().manual_seed(0)
    pair.scale_(2.0 ** (2 * torch.rand(pair.channels, generator=draws) - 1))
    after = call(model, example)
    for value, old in zip(pair.values, kept, strict=True):
        value.copy_(old)
    return all(
        bool((after[name] - value).abs().max() <= _SAME * value.abs().max())
        for name, value in before.items()
        if value.is_floating_point() and value.numel()
    )


class _Trace(TorchFunctionMode):
    """Follows channels while a model runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.givers: list[_Giver] = []
        self._names: dict[int, str] = {}
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            self._names.setdefault(id(value), name)
        self._uses: Counter[str] = Counter()
        self._flows = WeakTensorKeyDictionary()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function, and see what it does to channels."""
        given = Given(name=getattr(func, "__name__", ""), args=args, named=kwargs or {})
        result = func(*args, **given.named)
        if isinstance(result, Tensor):
            self._see(func, given, result)
        elif given.name in _TAKEN_OUT or any(
            isinstance(item, Tensor) for item in tree_leaves(result)
        ):
            self._stop(given)
        return result

    def pairs(self, outputs: Mapping[str, Tensor]) -> list[Pair]:
        """The givers whose channels go to layers alone, all of whose weights are used once."""
        for value in outputs.values():
            if (flow := self._flow(value)) is not None:
                flow.giver.block("it gives an output of the model")
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
            )
            for giver in self.givers
            if not giver.why_not
        ]

    def _see(self, func: Callable[..., Any], given: Given, result: Tensor) -> None:
        if given.name in _CONVOLUTIONS | _TURNED | {"linear"}:
            self._layer(given, result)
        elif is_functional_batch_norm(func):
            self._batch_norm(given, result)
        elif given.name in ("layer_norm", "rms_norm", "group_norm"):
            self._norm(given, result)
        elif given.name in _ADDED | _MULTIPLIED:
            self._two(given, result)
        else:
            self._pass_on(given, result)

    def _layer(self, given: Given, result: Tensor) -> None:
        """A layer reads what comes in, and gives channels of its own."""
        value, weight, bias = (given.get(i, n) for i, n in enumerate(("input", "weight", "bias")))
        is_matrix, is_turned = given.name == "linear", given.name in _TURNED
        groups = 1 if is_matrix else int(given.get(6, "groups", 1))
        named, shift = self._used(weight), self._used(bias)
        is_whole = named is not None and (is_matrix or value.ndim == weight.ndim)
        if (flow := self._flow(value)) is not None:
            place = value.ndim - 1 if is_matrix else 1
            if is_whole and flow.axis == place and (is_matrix or flow.repeat == 1):
                reader = Reader(
                    name=str(named),
                    weight=weight,
                    groups=groups,
                    repeat=flow.repeat,
                    is_turned=is_turned,
                )
                flow.giver.readers.append(reader)
            else:
                flow.giver.block(f"{given.name} does not read it channel by channel")
        is_known = is_whole and (bias is None) == (shift is None)
        if not is_known or (is_turned and groups > 1):
            return
        slot = Slot(name=str(named), value=weight, axis=1 if is_turned else 0)
        divided = [slot] if shift is None else [slot, Slot(name=shift, value=bias)]
        giver = self._giver(str(named), weight.shape[slot.axis], divided, weight=slot)
        axis = result.ndim - 1 if is_matrix else 1
        self._flows[result] = _Flow(giver=giver, axis=axis, is_direct=True)

    def _batch_norm(self, given: Given, result: Tensor) -> None:
        """A batch norm gives its own channels; behind a layer it is folded into that one."""
        value, variance = given.get(0, "input"), given.get(2, "running_var")
        weight, bias = given.get(3, "weight"), given.get(4, "bias")
        scale, shift = self._used(weight), self._used(bias)
        flow = self._flow(value)
        if flow is not None:
            flow.giver.block("a batch norm reads it")
        if scale is None or shift is None or variance is None or given.get(5, "training", False):
            return
        divided = [Slot(name=scale, value=weight), Slot(name=shift, value=bias)]
        giver = self._giver(scale, len(weight), divided)
        if flow is not None and flow.is_direct and flow.axis == 1:
            giver.path, giver.weight = flow.giver.path, flow.giver.weight
            giver.norm = weight, variance, float(given.get(7, "eps", 1e-5))
        self._flows[result] = _Flow(giver=giver, axis=1)

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
        axis = 1 if given.name == "group_norm" else result.ndim - 1
        self._flows[result] = _Flow(giver=self._giver(scale, len(weight), divided), axis=axis)

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
        if flow is None or not is_same:
            self._stop(given)
        elif given.name in _MULTIPLIED:
            self._flows[result] = _Flow(giver=flow.giver, axis=flow.axis, repeat=flow.repeat)
        else:
            self._shift(given, other, flow, result)

    def _shift(self, given: Given, other: Any, flow: _Flow, result: Tensor) -> None:
        """A bias that is added later is divided with the rest."""
        name = self._names.get(id(other))
        place = flow.axis - result.ndim + other.ndim if isinstance(other, Tensor) else -1
        is_bias = name is not None and place >= 0 and other.numel() == flow.giver.channels
        if (
            not is_bias
            or other.shape[place] != flow.giver.channels
            or given.get(2, "alpha", 1) != 1
        ):
            self._stop(given)
            return
        self._used(other)
        flow.giver.divided.append(Slot(name=str(name), value=other, axis=place))
        self._flows[result] = _Flow(giver=flow.giver, axis=flow.axis, repeat=flow.repeat)

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
        self._flows[result] = _Flow(giver=giver, axis=result.ndim - 1)

    def _pass_on(self, given: Given, result: Tensor) -> None:
        flow = self._flow(given.get(0, "input"))
        others = sum(self._flow(item) is not None for item in given.tensors)
        place = None
        if flow is not None and others == 1:
            place = place_after(given, result, flow.axis, flow.repeat)
        if flow is None or place is None:
            self._stop(given)
            return
        self._flows[result] = _Flow(giver=flow.giver, axis=place[0], repeat=place[1])

    def _giver(
        self, name: str, channels: int, divided: list[Slot], *, weight: Slot | None = None
    ) -> _Giver:
        path = name.rpartition(".")[0] or name
        giver = _Giver(path=path, channels=channels, divided=divided, weight=weight)
        self.givers.append(giver)
        return giver

    def _flow(self, value: Any) -> _Flow | None:
        found: _Flow | None = None
        if isinstance(value, Tensor):
            found = self._flows.get(value)  # type: ignore[no-untyped-call]
        return found

    def _stop(self, given: Given, *, is_use: bool = True) -> None:
        """What comes in here cannot be rescaled. is_use: nor can a weight that is used here."""
        for item in given.tensors:
            if (flow := self._flow(item)) is not None:
                flow.giver.block(f"{given.name} stands between it and its readers")
            elif is_use and id(item) in self._names:
                self._uses[self._names[id(item)]] += 2

    def _used(self, value: Any) -> str | None:
        """The name of a parameter, which is used here once more; None for anything else."""
        name = self._names.get(id(value)) if isinstance(value, Tensor) else None
        if name is not None:
            self._uses[name] += 1
        return name
