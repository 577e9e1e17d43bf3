"""Look-ups whose answer is known before the model runs."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgekit.compile.onnx_model import (
    array_of,
    attribute,
    hidden_reads,
    initializers,
    replace_initializers,
    replace_nodes,
)

_LOOK_UPS = ("Gather", "GatherElements")


def fold_lookups(model: onnx.ModelProto, paths: dict[str, str]) -> dict[str, str]:
    """Replace each look-up of constant places in a constant by its answer; the map with those.

    A transformer of fixed length looks up the same positions every time. ONNX Runtime folds that
    where it prepares a graph for static quantization: folded here, float and integers start from
    one graph, and rows that nothing can ask for do not ship.
    """
    constants, hidden, found = initializers(model), hidden_reads(model), dict(paths)
    folded: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in _LOOK_UPS or node.output[0] in hidden:
            continue
        table, places = (constants.get(name) for name in node.input)
        if table is None or places is None:
            continue
        name = node.output[0]
        answer = _look_up(node, array_of(table), array_of(places))
        constants[name] = numpy_helper.from_array(np.ascontiguousarray(answer), name)
        folded.add(name)
        if table.name in found:
            found[name] = found[table.name]
    replace_nodes(model, [node for node in model.graph.node if node.output[0] not in folded])
    replace_initializers(model, list(constants.values()))
    return found


def _look_up(node: onnx.NodeProto, table: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
    axis = attribute(node, "axis", 0)
    if node.op_type == "Gather":
        return np.asarray(np.take(table, places, axis=axis))
    rows = places + table.shape[axis] * (places < 0)
    # GatherElements takes a corner of the table's other axes; numpy wants them equal.
    corner = tuple(
        slice(None) if index == axis % table.ndim else slice(size)
        for index, size in enumerate(places.shape)
    )
    return np.take_along_axis(table[corner], rows, axis=axis)
