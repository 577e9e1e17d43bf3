"""What a function does to values that are integers of 8 bits in the artifact."""

# Give what they are given.
SAME = frozenset(
    {
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout"),
        *("contiguous", "clone", "detach", "to", "float", "type_as"),
    }
)
# Give some of the values that they are given, in another order, or zeros: the grid stays.
MOVES = frozenset(
    {
        *("view", "reshape", "view_as", "reshape_as", "flatten", "unflatten", "squeeze"),
        *("unsqueeze", "permute", "transpose", "swapaxes", "movedim", "t", "__get__"),
        *("__getitem__", "select", "narrow", "index_select", "chunk", "split", "unbind"),
        *("tensor_split", "expand", "expand_as", "repeat", "repeat_interleave", "roll", "flip"),
        *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "pad", "broadcast_to"),
        *(f"max_pool{rank}d" for rank in (1, 2, 3)),
        *(f"adaptive_max_pool{rank}d" for rank in (1, 2, 3)),
    }
)
CONVOLUTIONS = frozenset(f"conv{kind}{rank}d" for kind in ("", "_transpose") for rank in (1, 2, 3))
# Let through what lies between two bounds.
CLIPS = frozenset({"relu6", "hardtanh", "hardtanh_"})
ACTIVATIONS = frozenset({"relu", "relu_", *CLIPS})
_SUMS = frozenset(
    {
        *("add", "add_", "__add__", "__radd__", "__iadd__"),
        *("sub", "sub_", "subtract", "__sub__", "__rsub__", "__isub__", "rsub"),
        *("mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"),
    }
)
# Have integer forms on the targets, with a range of their own for what they give.
INTEGER = frozenset(
    {
        *CONVOLUTIONS,
        *ACTIVATIONS,
        *_SUMS,
        *("linear", "matmul", "bmm", "mm", "addmm", "baddbmm", "__matmul__", "einsum"),
        *("batch_norm", "cat", "concat", "concatenate", "stack", "mean"),
        *("scaled_dot_product_attention", "softmax", "sigmoid", "tanh", "gelu", "silu"),
        *("leaky_relu", "leaky_relu_", "prelu", "elu", "elu_", "hardswish", "hardsigmoid"),
        *("interpolate", "upsample", "maximum", "minimum"),
        *(f"avg_pool{rank}d" for rank in (1, 2, 3)),
        *(f"adaptive_avg_pool{rank}d" for rank in (1, 2, 3)),
    }
)
# Their inputs and results span orders of magnitude, which 256 steps do not hold: artifacts leave
# them in float with the arithmetic around them, of which a model's own norms are made.
WIDE = frozenset(
    {
        *("pow", "pow_", "__pow__", "square", "sqrt", "rsqrt", "reciprocal", "exp", "log"),
        *("var", "std", "norm"),
    }
)
DIVISIONS = frozenset({"div", "divide", "__truediv__", "true_divide"})
ARITHMETIC = frozenset({*_SUMS, *DIVISIONS, *WIDE, "mean", "sum", "tanh", "neg", "__neg__", "abs"})
_BEFORE_NORM = CONVOLUTIONS
_BEFORE_ACTIVATION = frozenset({*CONVOLUTIONS, *_SUMS, "linear", "batch_norm"})


def is_fused(giver: str, reader: str) -> bool:
    """Whether what one function gives another is never stored: the two are one in the artifact."""
    if reader == "batch_norm":
        return giver in _BEFORE_NORM
    return reader in ACTIVATIONS and giver in _BEFORE_ACTIVATION
