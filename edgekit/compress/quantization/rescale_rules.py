"""Where a tensor's channels are after one function of torch that keeps f(s x) = s f(x), s > 0.

``labels`` has the tensor's shape and says of every value which channel it belongs to. Functions
that only move values move the labels alike, so heads, slices and repeated keys need no rules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves

# Place by place.
_ELEMENTWISE = frozenset(
    {
        *("relu", "relu_", "leaky_relu", "leaky_relu_", "prelu", "rrelu", "abs", "abs_"),
        *("dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
        *("contiguous", "clone", "detach", "to", "float", "type_as"),
    }
)
# Over the pixels of each channel.
_SPATIAL = frozenset(
    {
        *(f"{kind}_pool{rank}d" for kind in ("max", "avg", "lp") for rank in (1, 2, 3)),
        *(f"adaptive_{kind}_pool{rank}d" for kind in ("max", "avg") for rank in (1, 2, 3)),
        *("interpolate", "upsample"),
    }
)
_REDUCED = frozenset({"mean", "sum", "amax"})
# Values go elsewhere, and stay as they are.
_MOVED = frozenset(
    {
        *("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten", "view_as"),
        *("reshape_as", "permute", "transpose", "swapaxes", "movedim", "moveaxis"),
        *("expand", "expand_as", "repeat", "repeat_interleave", "tile", "flip", "roll"),
        *("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "narrow", "select"),
        "__getitem__",
    }
)
# The second argument is averaged over by the first, as values are by attention.
_MIXED = frozenset({"matmul", "__matmul__", "bmm"})
ATTENTION = "scaled_dot_product_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One call of a function: its name, and what it was given."""

    name: str
    args: tuple[Any, ...]
    named: dict[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, however deep."""
        leaves = tree_leaves((self.args, self.named))
        return [item for item in leaves if isinstance(item, Tensor)]

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """An argument by its place or its name."""
        return self.args[place] if place < len(self.args) else self.named.get(name, default)


def carrier(given: Given) -> Any:
    """The argument whose channels a function may keep."""
    if given.name in _MIXED:
        return given.get(1, "other", given.named.get("mat2"))
    return given.get(2, "value") if given.name == ATTENTION else given.get(0, "input")


def labels_after(function: Callable[..., Any], given: Given, result: Any, labels: Tensor) -> Any:
    """The labels of the result, of its parts where it has several; None if they are not kept.

    labels: of the argument that ``carrier`` gives.
    """
    if given.name in _MOVED:
        return _moved(function, given, labels)
    if not isinstance(result, Tensor):
        return None
    if given.name in _ELEMENTWISE:
        return labels if result.shape == labels.shape else None
    if given.name in _SPATIAL or (given.name == "pad" and _is_zero_pad(given)):
        return _spatial(result, labels)
    if given.name in _REDUCED:
        return _reduced(given, result, labels)
    if given.name in _MIXED or given.name == ATTENTION:
        return _mixed(given, result, labels)
    return None


def columns_of(labels: Tensor, axis: int) -> Tensor | None:
    """The channel of each place of an axis; None if it hangs on other axes too.

    Shapes: -> (size of the axis,).
    """
    rows = labels.movedim(axis, -1).flatten(0, -2) if labels.ndim > 1 else labels[None]
    return rows[0] if len(rows) and bool((rows == rows[0]).all()) else None


def channel_axis(labels: Tensor, channels: int) -> int | None:
    """The axis that has all channels in order, one a place; None if there is none."""
    order = torch.arange(channels, dtype=labels.dtype, device=labels.device)
    for axis in range(labels.ndim):
        if labels.shape[axis] == channels:
            found = columns_of(labels, axis)
            if found is not None and torch.equal(found, order):
                return axis
    return None


def labels_along(result: Tensor, axis: int) -> Tensor:
    """Labels of a tensor whose axis has one channel a place."""
    shape = [-1 if place == axis % result.ndim else 1 for place in range(result.ndim)]
    order = torch.arange(result.shape[axis], dtype=torch.int32, device=result.device)
    return order.reshape(shape).expand(result.shape)


def is_functional_batch_norm(function: Any) -> bool:
    """Whether it is torch.nn.functional's, whose arguments come in another order than torch's."""
    return function is functional.batch_norm


def _moved(function: Callable[..., Any], given: Given, labels: Tensor) -> Any:
    """The labels moved as the values were."""
    leaves = tree_leaves((given.args[1:], given.named))
    if any(isinstance(item, torch.dtype) for item in leaves):  # a view as other numbers
        return None
    named = {key: value for key, value in given.named.items() if key not in ("input", "self")}
    return function(labels.contiguous(), *given.args[1:], **named)


def _is_zero_pad(given: Given) -> bool:
    # Of the other modes each repeats values that are there.
    return given.get(2, "mode", "constant") != "constant" or not given.get(3, "value", None)


def _spatial(result: Tensor, labels: Tensor) -> Tensor | None:
    is_apart = labels.ndim > 2 and result.ndim == labels.ndim
    if not is_apart or result.shape[:2] != labels.shape[:2]:
        return None
    first = labels.flatten(2)[..., :1]
    if not bool((labels.flatten(2) == first).all()):
        return None
    return first.reshape(*result.shape[:2], *[1] * (result.ndim - 2)).expand(result.shape)


def _reduced(given: Given, result: Tensor, labels: Tensor) -> Tensor | None:
    asked = given.get(1, "dim")
    if asked is None:
        return None
    dims = {item % labels.ndim for item in ([asked] if isinstance(asked, int) else asked)}
    for axis in dims:
        first = labels.narrow(axis, 0, 1)
        if not bool((labels == first).all()):
            return None
        labels = first
    return labels.reshape(result.shape)


def _mixed(given: Given, result: Tensor, labels: Tensor) -> Tensor | None:
    """Each result is a sum over the second last axis, whose places must be of one channel."""
    if labels.ndim < 2 or not bool((labels == labels[..., :1, :]).all()):
        return None
    first = labels[..., :1, :]
    if given.name == ATTENTION and given.named.get("enable_gqa", False):
        first = first.repeat_interleave(result.shape[-3] // first.shape[-3], dim=-3)
    return first.expand(result.shape)
