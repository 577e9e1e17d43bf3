"""What directly follows a layer: a batch norm, an activation function, or both, and nothing else.

Every function that torch runs is seen in one run. What reads a layer's output is noted; where that
is one batch norm or one activation function alone, the layer and what follows may be thought of as
one. A layer that is called twice, or whose output goes elsewhere too, has nothing behind it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from edgekit.compress.bench import Call
from edgekit.compress.moments import fast_path_off
from edgekit.compress.quantization.function_trace import FunctionTrace
from edgekit.compress.quantization.rescale_rules import Given, is_functional_batch_norm

_LAYERS = frozenset(
    {"conv1d", "conv2d", "conv3d", "linear"} | {f"conv_transpose{i}d" for i in "123"}
)
# Element by element, without weights of their own.
_ACTIVATIONS = frozenset(
    {
        *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"),
        *("hardtanh", "hardswish", "hardsigmoid", "sigmoid", "tanh", "softplus"),
    }
)
# What these tell holds of any values.
_ABOUT_SHAPES = frozenset({"__get__", "size", "dim", "numel", "stride", "__len__"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NormBehind:
    """A batch norm in eval mode. mean, variance: its own buffers. scale, shift: its parameters."""

    mean: Tensor
    variance: Tensor
    scale: Tensor | None
    shift: Tensor | None
    epsilon: float

    def as_factors(self) -> tuple[Tensor, Tensor]:
        """(a, b) of a y + b, which it computes. Shapes: (channels) each."""
        factor = (self.variance + self.epsilon).rsqrt()
        factor = factor if self.scale is None else factor * self.scale
        offset = -self.mean * factor
        return factor, offset if self.shift is None else offset + self.shift


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What follows one layer. calls: of the layer in one run; 0 where they are not seen."""

    calls: int = 0
    norm: NormBehind | None = None
    activation: Callable[[Tensor], Tensor] | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class _Node:
    """A result of interest. readers: the results that are made of it; None is anything else."""

    function: Callable[..., Any]
    given: Given
    readers: list["_Node | None"] = field(default_factory=list)

    @property
    def only_reader(self) -> "_Node | None":
        return self.readers[0] if len(self.readers) == 1 else None


def find_behind(
    model: nn.Module,
    weights: Mapping[str, nn.Parameter],
    call: Call,
    example: Mapping[str, Tensor],
) -> dict[str, Behind]:
    """What is behind each layer of a model in eval mode, by the name that its weight has here."""
    trace = _Trace({id(weight) for weight in weights.values()})
    with torch.no_grad(), fast_path_off(), trace:
        outputs = call(model, example)
    for value in outputs.values():
        trace.read(value, None)
    buffers = {id(value) for value in model.buffers()}
    return {name: trace.behind(id(weight), buffers) for name, weight in weights.items()}


class _Trace(FunctionTrace):
    """Notes who reads what while a model runs."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self._layers: dict[int, list[_Node]] = {key: [] for key in weights}
        self._norms: dict[int, int] = {}
        self._nodes = WeakTensorKeyDictionary()

    def see(self, func: Callable[..., Any], given: Given, result: Any) -> None:
        """Note what a function reads."""
        if given.name in _ABOUT_SHAPES and not isinstance(result, Tensor):
            return
        node = self._node(func, given) if isinstance(result, Tensor) else None
        first = given.get(0, "input")
        for item in given.tensors:
            self.read(item, node if item is first else None)
        if node is not None:
            self._nodes[result] = node
        elif isinstance(result, Tensor) and result is first:
            self._nodes.pop(result, None)  # type: ignore[no-untyped-call]  # changed in place

    def read(self, value: Any, reader: _Node | None) -> None:
        """Note that a value is read."""
        node = self._nodes.get(value) if isinstance(value, Tensor) else None  # type: ignore[no-untyped-call]
        if node is not None:
            node.readers.append(reader)

    def behind(self, weight: int, buffers: set[int]) -> Behind:
        """What follows the layer of one weight."""
        calls = self._layers[weight]
        if len(calls) != 1:
            return Behind(calls=len(calls))
        reader, norm = calls[0].only_reader, None
        if reader is not None and is_functional_batch_norm(reader.function):
            norm = self._norm(reader.given, buffers)
            reader = None if norm is None else reader.only_reader
        is_activation = reader is not None and _plain_name(reader.given) in _ACTIVATIONS
        activation = _again(reader) if reader is not None and is_activation else None
        return Behind(calls=1, norm=norm, activation=activation)

    def _node(self, func: Callable[..., Any], given: Given) -> _Node | None:
        node = _Node(function=func, given=given)
        if given.name in _LAYERS:
            calls = self._layers.get(id(given.get(1, "weight")))
            if calls is not None:
                calls.append(node)
                return node
        elif is_functional_batch_norm(func):
            mean = id(given.get(1, "running_mean"))
            self._norms[mean] = self._norms.get(mean, 0) + 1
            return node
        return node if _plain_name(given) in _ACTIVATIONS else None

    def _norm(self, given: Given, buffers: set[int]) -> NormBehind | None:
        """The batch norm, if its mean is the model's own and used here alone."""
        mean, variance = given.get(1, "running_mean"), given.get(2, "running_var")
        is_own = id(mean) in buffers and self._norms[id(mean)] == 1
        if not is_own or variance is None or given.get(5, "training", default=False):
            return None
        return NormBehind(
            mean=mean,
            variance=variance,
            scale=given.get(3, "weight"),
            shift=given.get(4, "bias"),
            epsilon=float(given.get(7, "eps", 1e-5)),
        )


def _plain_name(given: Given) -> str:
    return given.name.removesuffix("_")


def _again(node: _Node) -> Callable[[Tensor], Tensor]:
    """The same function of other values, which it leaves as they are."""
    args, named = node.given.args[1:], dict(node.given.named)
    named.pop("input", None)

    def activation(values: Tensor) -> Tensor:
        result: Tensor = node.function(values.clone(), *args, **named)
        return result

    return activation
