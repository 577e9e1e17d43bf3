"""What functions of torch mean for channels that are rotated, by name."""

from typing import Any

from torch import Tensor

from edgekit.compress.quantization.rescale_rules import Given

# Place by place the same values.
CASTS = frozenset({"to", "float", "double", "half", "bfloat16", "type_as"})
KEPT = CASTS | {
    *("dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
    *("contiguous", "clone", "detach"),
}
# Values go elsewhere, and stay as they are.
MOVED = frozenset(
    {
        *("flatten", "view", "reshape", "squeeze", "unsqueeze", "unflatten", "view_as"),
        *("reshape_as", "permute", "transpose", "swapaxes", "movedim", "moveaxis"),
        *("expand", "expand_as", "repeat", "repeat_interleave", "tile", "flip", "roll"),
        *("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "narrow", "select"),
        "__getitem__",
    }
)
# Nothing of the values, only of the shape.
SHAPED_ALIKE = frozenset(
    {
        *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
        *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"),
    }
)
ADDED = frozenset(
    {
        *("add", "add_", "__add__", "__radd__", "__iadd__"),
        *("sub", "sub_", "__sub__", "__rsub__", "__isub__", "rsub", "subtract"),
    }
)
MULTIPLIED = frozenset({"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply"})
DIVIDED = frozenset({"div", "div_", "__truediv__", "__itruediv__", "divide", "true_divide"})
SQUARED = frozenset({"pow", "__pow__", "square"})
REDUCED = frozenset({"mean", "sum"})
# What they give does not hang on the mean.
SPREADS = frozenset({"var", "std"})
ROOTS = frozenset({"norm", "vector_norm", "linalg_vector_norm", "normalize"})
NORMS = frozenset({"layer_norm", "rms_norm"})
JOINED = frozenset({"cat", "concat", "concatenate", "stack"})
CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
ATTENTION_LAYER = "multi_head_attention_forward"
# These take a value out of torch, where nobody sees what becomes of it.
TAKEN_OUT = frozenset(
    {
        *("item", "tolist", "numpy", "__array__", "__bool__", "__float__", "__int__"),
        *("__index__", "__setitem__", "equal", "allclose", "is_nonzero"),
    }
)


def dims_of(given: Given, place: int, default: int | None = None) -> tuple[int, ...] | None:
    """The axes that a function works on; None where it does on all, or it is not told."""
    asked = given.get(place, "dim", given.named.get("axis", default))
    if isinstance(asked, bool) or asked is None:
        return None
    if isinstance(asked, int):
        return (asked,)
    found = tuple(asked) if isinstance(asked, (tuple, list)) else ()
    return found or None


def is_one_for_all(value: Any, axis: int) -> bool:
    """Whether a number, or a tensor that is broadcast along an axis (counted from the end)."""
    if isinstance(value, Tensor):
        return value.ndim < -axis or value.shape[axis] == 1
    return isinstance(value, (int, float))
