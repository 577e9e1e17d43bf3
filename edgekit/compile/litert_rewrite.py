"""A captured graph written as litert-torch takes it, and as LiteRT runs it fast; same numbers.

Each function changes a graph module in place and leaves alone what it does not know.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compile.graph_edits import attribute, call, constant, first, numbers, replace_, uses

_ATEN = torch.ops.aten
_RESHAPES = (_ATEN.flatten.using_ints, _ATEN.reshape.default, _ATEN.view.default)
_EXPANDS = (_ATEN.expand.default, _ATEN.expand_as.default)
_BROADCASTING = (_ATEN.add.Tensor, _ATEN.sub.Tensor, _ATEN.mul.Tensor, _ATEN.div.Tensor)
_LINEAR = (_ATEN.linear.default,)
_NORMS: dict[Any, int] = {_ATEN.layer_norm.default: 4, _ATEN.rms_norm.default: 3}
_SCALING = (_ATEN.mul.Tensor, _ATEN.add.Tensor)
_CONVOLUTIONS = (_ATEN.conv1d.default, _ATEN.conv2d.default, _ATEN.conv3d.default)
_TRANSPOSED = (
    _ATEN.conv_transpose1d.default,
    _ATEN.conv_transpose2d.input,
    _ATEN.conv_transpose3d.input,
)


def rewrite_(module: GraphModule, *, is_dynamic: bool) -> None:
    """All of the below that apply, in place."""
    _leave_out_dropouts_(module)
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if is_dynamic and node.target in _RESHAPES:
            _leave_batch_open_(node)
        elif node.target in _REWRITES:
            _REWRITES[node.target](module, node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _leave_out_dropouts_(module: GraphModule) -> None:
    """Those that drop nothing stand between a norm and the layers that it is read by."""
    for node in list(module.graph.nodes):
        if node.target is _ATEN.dropout.default and not node.args[2]:
            replace_(module, node, node.args[0])


def _leave_batch_open_(node: Node) -> None:
    """Write a reshape with -1 for the batch: litert-torch takes no symbol there."""
    sizes = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
    if sizes.count(-1) == 1:
        node.target = _ATEN.reshape.default
        node.args, node.kwargs = (node.args[0], sizes), {}


def _fold_batch_norm_(module: GraphModule, node: Node) -> None:
    """Batch norm into the layer before it, or one product and one sum where there is none.

    litert-torch folds the norms behind 2-d convolutions alone; all others become four operators.
    """
    is_training, epsilon = node.args[5], node.args[7]
    weight, bias, mean, variance = (constant(module, item) for item in node.args[1:5])
    if is_training or mean is None or variance is None:
        return
    scale = torch.rsqrt(variance.double() + float(epsilon))  # type: ignore[arg-type]
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale
    shift = shift if bias is None else shift + bias.double()
    layer = node.args[0]
    if isinstance(layer, Node) and _fold_into_layer_(module, node, layer, scale, shift):
        return
    axes = (1,) * (node.meta["val"].dim() - 2)
    with module.graph.inserting_before(node):
        factor = attribute(module, f"{node.name}_scale", scale.float().reshape(-1, *axes))
        offset = attribute(module, f"{node.name}_shift", shift.float().reshape(-1, *axes))
        product = call(module, node, _ATEN.mul.Tensor, layer, factor)
        total = call(module, node, _ATEN.add.Tensor, product, offset)
    replace_(module, node, total)


def _fold_into_layer_(
    module: GraphModule, node: Node, layer: Node, scale: Tensor, shift: Tensor
) -> bool:
    is_known = layer.target in (*_LINEAR, *_CONVOLUTIONS, *_TRANSPOSED)
    if not is_known or len(layer.users) != 1:
        return False
    weight = constant(module, layer.args[1])
    if weight is None or uses(module, layer.args[1]) > 1:
        return False
    axis = 0
    if layer.target in _TRANSPOSED:
        if len(layer.args) > 6 and layer.args[6] != 1:
            return False  # output channels of groups do not lie on one axis
        axis = 1
    bias = constant(module, layer.args[2]) if len(layer.args) > 2 else None
    shape = [-1 if place == axis else 1 for place in range(weight.dim())]
    moved = shift if bias is None else shift + bias.double() * scale
    with module.graph.inserting_before(layer):
        folded = attribute(
            module, f"{layer.name}_weight", (weight.double() * scale.reshape(shape)).float()
        )
        offset = attribute(module, f"{layer.name}_bias", moved.float())
    layer.args = (layer.args[0], folded, offset, *layer.args[3:])
    replace_(module, node, layer)
    return True


def _crop_transposed_(module: GraphModule, node: Node) -> None:
    """A transposed convolution whole, and its edges cut off afterwards.

    LiteRT pads by two rules, and litert-torch fails where neither is meant: a kernel of 3 at a
    stride of 2 with a padding of 1, the commonest of all.
    """
    rank = node.meta["val"].dim() - 2
    stride = numbers(node, 3, rank, 1)
    padding = numbers(node, 4, rank, 0)
    extra = numbers(node, 5, rank, 0)
    dilation = numbers(node, 7, rank, 1)
    kernel = node.args[1].meta["val"].shape[2:]  # type: ignore[union-attr]
    edges = list(zip(kernel, stride, padding, extra, dilation, strict=True))
    if all(_is_padded_as_litert(*edge) for edge in edges):
        return
    if any(more > cut for _, _, cut, more, _ in edges):
        return  # the last rows are the bias alone: no cutting gives them
    groups = node.args[6] if len(node.args) > 6 else 1
    layer_args = (*first(node, 3), stride, [0] * rank, [0] * rank, groups, dilation)
    with module.graph.inserting_before(node):
        cut = call(module, node, node.target, *layer_args)
        for place, (size, cut_by) in enumerate(
            zip(node.meta["val"].shape[2:], padding, strict=True)
        ):
            cut = call(module, node, _ATEN.slice.Tensor, cut, place + 2, cut_by, cut_by + int(size))
    replace_(module, node, cut)


def _is_padded_as_litert(kernel: int, stride: int, padding: int, extra: int, dilation: int) -> bool:
    if stride == 1:
        return extra == 0  # an ordinary convolution of the turned kernel
    is_valid = padding == 0 and extra == 0
    is_same = kernel - stride == 2 * padding - extra and padding == (kernel - stride) // 2
    return (is_valid or is_same) and dilation == 1


def _split_prelu_(module: GraphModule, node: Node) -> None:
    """``relu(x) + slope * (x - relu(x))``: a selection would run outside of XNNPACK as integers."""
    x, slope = node.args[0], constant(module, node.args[1])
    if slope is None:
        return
    axes = (1,) * max(node.meta["val"].dim() - 2, 0)
    with module.graph.inserting_before(node):
        factor = attribute(module, f"{node.name}_slope", slope.reshape(-1, *axes))
        above = call(module, node, _ATEN.relu.default, x)
        below = call(module, node, _ATEN.sub.Tensor, x, above)
        scaled = call(module, node, _ATEN.mul.Tensor, below, factor)
        total = call(module, node, _ATEN.add.Tensor, above, scaled)
    replace_(module, node, total)


def _spell_norm_(module: GraphModule, node: Node) -> None:
    """A Euclidean norm as root of a sum of squares, which keeps its layout and fuses."""
    x, order = node.args[0], node.args[1] if len(node.args) > 1 else 2
    axes = node.args[2] if len(node.args) > 2 else None
    is_kept = node.args[3] if len(node.args) > 3 else False
    if order != 2 or axes is None or node.kwargs:
        return
    with module.graph.inserting_before(node):
        squares = call(module, node, _ATEN.mul.Tensor, x, x)
        total = call(module, node, _ATEN.sum.dim_IntList, squares, axes, is_kept)
        root = call(module, node, _ATEN.sqrt.default, total)
    replace_(module, node, root)


def _leave_out_expand_(module: GraphModule, node: Node) -> None:
    """Leave it to the arithmetic behind, which repeats its inputs by itself.

    litert-torch 0.10 expands along the wrong axes where it has moved channels to the end.
    """
    shape = node.meta["val"].shape
    for user in node.users:
        others = [item for item in user.args[:2] if item is not node]
        if user.target not in _BROADCASTING or len(others) != 1:
            return
        if not isinstance(others[0], Node) or others[0].meta["val"].shape != shape:
            return
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    module.graph.erase_node(node)


def _join_repeated_(module: GraphModule, node: Node) -> None:
    """Copies along one axis as a concatenation, for the same reason."""
    x, times = node.args[0], node.args[1]
    if not isinstance(x, Node) or not isinstance(times, Sequence):
        return
    axes = [axis for axis, count in enumerate(times) if count != 1]
    count = times[axes[0]] if len(axes) == 1 else None
    if len(times) != x.meta["val"].dim() or not isinstance(count, int):
        return
    with module.graph.inserting_before(node):
        joined = call(module, node, _ATEN.cat.default, [x] * count, axes[0])
    replace_(module, node, joined)


def _part_norm_(module: GraphModule, node: Node) -> None:
    """A norm without its weight and bias, then a product and a sum that stay what they are.

    The converter multiplies the weight into all linear layers that read the norm. Their columns
    have other sizes then, and are off the grid of a block that they were rounded to.
    """
    last = _NORMS[node.target]
    operands = [constant(module, item) for item in node.args[2:last]]
    rank = node.meta["val"].dim()
    if not any(user.target in _LINEAR for user in node.users) or operands[0] is None:
        return
    if any(item is not None and item.dim() != 1 for item in operands):
        return
    bare = (*node.args[:2], *(None,) * len(operands), *node.args[last:])
    with module.graph.inserting_before(node):
        result = call(module, node, node.target, *bare)
        for target, item in zip(_SCALING, operands, strict=False):
            if item is not None:
                raised = attribute(module, f"{node.name}_operand", _raised(item, rank))
                result = call(module, node, target, result, raised)
    replace_(module, node, result)


def _keep_apart_(module: GraphModule, node: Node) -> None:
    """The same for norms that a model spells out: their weight is a product in front of a layer."""
    rank = node.meta["val"].dim()
    if rank < 3 or not any(user.target in _LINEAR for user in node.users):
        return
    for place, item in enumerate(node.args[:2]):
        value = constant(module, item)
        if value is not None and value.dim() == 1:
            with module.graph.inserting_before(node):
                raised = attribute(module, f"{node.name}_{place}", _raised(value, rank))
            node.update_arg(place, raised)


def _raised(value: Tensor, rank: int) -> Tensor:
    """A constant with as many axes as what it meets, which no converter folds into a matrix."""
    return value.reshape((1,) * (rank - 1) + (-1,))


_REWRITES: dict[Any, Callable[[GraphModule, Node], None]] = {
    _ATEN.batch_norm.default: _fold_batch_norm_,
    **dict.fromkeys(_TRANSPOSED, _crop_transposed_),
    _ATEN.prelu.default: _split_prelu_,
    _ATEN.linalg_vector_norm.default: _spell_norm_,
    **dict.fromkeys(_EXPANDS, _leave_out_expand_),
    _ATEN.repeat.default: _join_repeated_,
    **dict.fromkeys(_NORMS, _part_norm_),
    **dict.fromkeys(_SCALING, _keep_apart_),
}
