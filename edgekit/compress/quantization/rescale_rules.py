"""Where a tensor's channels are after one function of torch that keeps f(s x) = s f(x), s > 0."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

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
_RESHAPED = frozenset(
    {"flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten", "view_as", "reshape_as"}
)


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


def place_after(given: Given, result: Tensor, axis: int, repeat: int) -> tuple[int, int] | None:
    """The axis of the channels in the result, and how many places each has; None if not kept.

    axis, repeat: the same of the first argument.
    """
    value = given.get(0, "input")
    if given.name in _ELEMENTWISE:
        return (axis, repeat) if result.shape == value.shape else None
    if given.name in _SPATIAL or (given.name == "pad" and _is_zero_pad(given)):
        is_apart = axis == 1 and value.ndim > 2 and result.ndim == value.ndim
        return (1, repeat) if is_apart and result.shape[1] == value.shape[1] else None
    if given.name in _REDUCED:
        return _after_reduction(given, result, value, axis, repeat)
    if given.name in _RESHAPED:
        return _after_reshape(value.shape, result.shape, axis, repeat)
    if given.name in ("permute", "transpose", "swapaxes"):
        return _order(given, value.ndim).index(axis), repeat
    return None


def is_functional_batch_norm(function: Any) -> bool:
    """Whether it is torch.nn.functional's, whose arguments come in another order than torch's."""
    return function is functional.batch_norm


def _is_zero_pad(given: Given) -> bool:
    # Of the other modes each repeats values that are there.
    return given.get(2, "mode", "constant") != "constant" or not given.get(3, "value", None)


def _after_reduction(
    given: Given, result: Tensor, value: Tensor, axis: int, repeat: int
) -> tuple[int, int] | None:
    asked = given.get(1, "dim")
    if asked is None:
        return None
    dims = {item % value.ndim for item in ([asked] if isinstance(asked, int) else asked)}
    if axis in dims:
        return None
    is_kept = result.ndim == value.ndim
    return (axis if is_kept else axis - sum(item < axis for item in dims)), repeat


def _after_reshape(
    before: Sequence[int], after: Sequence[int], axis: int, repeat: int
) -> tuple[int, int] | None:
    """The axis with as much before it, of the same size or with what followed laid flat into it."""
    ahead, size = prod(before[:axis]), before[axis]
    for place, found in enumerate(after):
        if prod(after[:place]) != ahead or found < size or (found == 1 and size > 1):
            continue
        if found == size:
            return place, repeat
        follows = [prod(before[axis : end + 1]) for end in range(axis, len(before))]
        return (place, repeat * found // size) if found in follows else None
    return None


def _order(given: Given, rank: int) -> list[int]:
    """Which axis of the argument each axis of the result is."""
    if given.name == "permute":
        first = given.get(1, "dims")
        dims = first if isinstance(first, (tuple, list)) else given.args[1:]
        return [item % rank for item in dims]
    order = list(range(rank))
    one, other = (given.get(place, f"dim{place - 1}") % rank for place in (1, 2))
    order[one], order[other] = order[other], order[one]
    return order
