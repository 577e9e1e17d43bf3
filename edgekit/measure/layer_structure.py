"""Which operator of a float graph is which of a quantized one that has lost its names.

Operators with weights are matched by their weights: of the same number, the pair that differs least
goes first. The others are matched by kind and by the operators with weights that their inputs come
from; where several are alike in that, by their order, if there are as many on both sides.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.core.errors import InputError
from edgekit.graph.grid import weight_grid
from edgekit.graph.model import Array, Operator
from edgekit.graph.weights import WeightLayer
from edgekit.measure.audit_values import layouts
from edgekit.measure.layer_links import Links, layers_by_operator

_SAME_OPERATOR = {
    **dict.fromkeys(("MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits"), "MatMul"),
    **dict.fromkeys(("DynamicQuantizeMatMul", "QLinearMatMul"), "MatMul"),
    **dict.fromkeys(("ConvInteger", "QLinearConv"), "Conv"),
    "GatherBlockQuantized": "Gather",
    "DynamicQuantizeLSTM": "LSTM",
}
_CLAMPS = ("Relu", "Clip")
_SCALED_LATER = ("MatMulInteger", "ConvInteger", "Gather")
# Operator -> the input that is its bias.
_BIAS_INPUTS = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm"), 2),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "FULLY_CONNECTED"), 2),
    **dict.fromkeys(("DynamicQuantizeMatMul", "MatMulIntegerToFloat"), 4),
    "MatMulNBits": 5,
}


@dataclass(frozen=True, slots=True)
class Counterpart:
    """What a matched operator of the artifact has in the float graph.

    tensor: of the float graph. adds_bias: the float operator adds its bias itself, and the
    artifact's leaves it to an Add behind it.
    """

    tensor: int
    adds_bias: bool = False


def match_structure(links: Links, originals: Links) -> dict[int, Counterpart]:
    """The counterpart of each matched operator of the artifact, by operator."""
    weighted = _match_weights(links, originals)
    ours = _marked(links, {mine: number for number, mine in enumerate(weighted)})
    theirs = _marked(originals, {its: number for number, its in enumerate(weighted.values())})
    pairs = dict(weighted)
    for mark, mine in ours.items():
        alike = theirs.get(mark, [])
        if len(alike) == len(mine):
            pairs.update(zip(mine, alike, strict=True))
    matched = set(pairs.values())
    return {
        mine: _counterpart(links.subgraph.operators[mine], its, originals, matched)
        for mine, its in pairs.items()
    }


def _counterpart(
    operator: Operator, its: int, originals: Links, matched: Collection[int]
) -> Counterpart:
    original = originals.subgraph.operators[its]
    tensor = original.outputs[0]
    if has_bias(operator) and not has_bias(original):
        tensor = after_bias(originals, tensor)
    # A clamp of the float graph that the artifact has inside the operator before it.
    reader = originals.next_of(tensor, _CLAMPS)
    if reader is not None and reader.index not in matched:
        tensor = reader.outputs[0]
    return Counterpart(tensor, adds_bias=has_bias(original) and not has_bias(operator))


def has_bias(operator: Operator) -> bool:
    """Whether an operator adds a bias itself."""
    place = _BIAS_INPUTS.get(operator.name)
    return place is not None and len(operator.inputs) > place and operator.inputs[place] >= 0


def after_scaling(links: Links, operator: Operator) -> tuple[int, ...]:
    """From an operator's integers to the floats that a Cast and a Mul by their scale make of them.

    An operator without these gives its own output alone.
    """
    path = (operator.outputs[0],)
    cast = links.next_of(path[0], ("Cast",)) if operator.name in _SCALED_LATER else None
    product = None if cast is None else links.next_of(cast.outputs[0], ("Mul",))
    if cast is None or product is None or not all(map(links.is_computed, product.inputs)):
        return path
    return (*path, cast.outputs[0], product.outputs[0])


def after_bias(links: Links, tensor: int) -> int:
    """Behind an Add of a constant that alone reads a tensor; the tensor itself without one."""
    reader = links.next_of(tensor, ("Add",))
    is_bias = reader is not None and sum(map(links.is_computed, reader.inputs)) == 1
    return reader.outputs[0] if reader is not None and is_bias else tensor


def _match_weights(links: Links, originals: Links) -> dict[int, int]:
    """Operator of the float graph by operator of the artifact."""
    ours = {index: items[0] for index, items in layers_by_operator(links.graph).items()}
    theirs = {index: items[0] for index, items in layers_by_operator(originals.graph).items()}
    wanted = {index: _values(originals, item) for index, item in theirs.items()}
    distances = []
    for place, (mine, layer) in enumerate(ours.items()):
        found = _values(links, layer)
        for other, (its, original) in enumerate(theirs.items()):
            if layer.elements == original.elements:
                distance = _distance(wanted[its], found, layer.shape)
                distances.append((distance, abs(place - other), mine, its))
    pairs: dict[int, int] = {}
    for _, _, mine, its in sorted(distances):
        if mine not in pairs and its not in pairs.values():
            pairs[mine] = its
    return dict(sorted(pairs.items()))


def _values(links: Links, layer: WeightLayer) -> Array | None:
    try:
        grid = weight_grid(links.graph, layer)
    except InputError:
        return None  # stored in a type that numpy has no values of
    return None if grid is None else grid.values.astype(np.float32)


def _distance(wanted: Array | None, found: Array | None, shape: tuple[int, ...]) -> float:
    """The least error over all layouts, over the size; 1 where a file does not say its values."""
    if wanted is None or found is None or found.size != wanted.size:
        return 1.0
    size = float(np.linalg.norm(wanted)) or 1.0
    errors = [
        float(np.linalg.norm(found.reshape(shape) - candidate)) / size
        for candidate in layouts(wanted, shape)
    ]
    # What is not even alike tells nothing about which layer it is: then the order does.
    return min(1.0, *errors) if errors else 1.0


def _marked(links: Links, weighted: Mapping[int, int]) -> dict[Hashable, list[int]]:
    """Operators without weights by kind and by where their inputs come from, in order."""
    operators = links.subgraph.operators
    owner = {operators[index].outputs[0]: number for index, number in weighted.items()}
    parts = set(weighted) | {item for index in weighted for item in _parts(links, operators[index])}
    found: dict[Hashable, list[int]] = defaultdict(list)
    for operator in links.computing():
        if operator.index not in parts:
            origins = frozenset(owner[item] for item in links.ancestors(operator, owner))
            found[_kind(operator), origins].append(operator.index)
    return found


def _parts(links: Links, operator: Operator) -> list[int]:
    """Operators that scale what an operator with weights gives, or add its bias."""
    path = after_scaling(links, operator)
    ends = {*path, after_bias(links, path[-1])} - {operator.outputs[0]}
    return [links.maker[tensor].index for tensor in ends]


def _kind(operator: Operator) -> str:
    return _SAME_OPERATOR.get(operator.name, operator.name)
