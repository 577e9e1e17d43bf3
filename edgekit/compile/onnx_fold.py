"""Look-ups and layouts of constants whose answer is known before the model runs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekit.compile.onnx_model import (
    array_of,
    attribute,
    hidden_reads,
    initializers,
    replace_initializers,
    replace_nodes,
)

_LOOK_UPS = ("Gather", "GatherElements")
# These move numbers and change none.
_LAYOUTS = ("Slice", "Concat", "Transpose", "Unsqueeze", "Squeeze", "Reshape")


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


def fold_layouts(model: onnx.ModelProto, paths: Mapping[str, str]) -> dict[str, str]:
    """Replace weights that are cut and put together anew by the result; the map with those.

    The exporter folds small ones itself and leaves those of an LSTM of 48 units and more to the
    engine: then its recurrent weights are no constants, and no quantizer finds them. A weight that
    is also read as it is stays: it would ship twice.
    """
    nodes = _foldable_layouts(model)
    constants, found = initializers(model), dict(paths)
    for node in nodes:
        name, sources = node.output[0], [item for item in node.input if item]
        given = {item: array_of(constants[item]) for item in sources}
        (answer,) = ReferenceEvaluator(node).run(None, given)
        constants[name] = numpy_helper.from_array(np.ascontiguousarray(answer), name)
        path = next((found[item] for item in sources if item in found), None)
        if path is not None:
            found[name] = path
    folded = {node.output[0] for node in nodes}
    replace_nodes(model, [node for node in model.graph.node if node.output[0] not in folded])
    replace_initializers(model, list(constants.values()))
    return found


def _foldable_layouts(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Layouts of constants alone, in order, whose weights nothing else reads."""
    known, kept = set(initializers(model)), hidden_reads(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        sources = [name for name in node.input if name]
        is_layout = node.op_type in _LAYOUTS and not kept & {*sources, *node.output}
        if is_layout and known.issuperset(sources):
            nodes.append(node)
            known.update(node.output)
    while True:
        outside = _reads(model, nodes) & set(initializers(model))
        staying = [node for node in nodes if not outside & set(node.input)]
        staying = _with_known_inputs(staying, set(initializers(model)))
        if len(staying) == len(nodes):
            return nodes
        nodes = staying


def _reads(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> set[str]:
    """The weights that any other node reads; whole numbers are axes and sizes, not weights."""
    folded = {node.output[0] for node in nodes}
    constants = initializers(model)
    return {
        name
        for node in model.graph.node
        if node.output[0] not in folded
        for name in node.input
        if name in constants and constants[name].data_type != onnx.TensorProto.INT64
    }


def _with_known_inputs(nodes: list[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    found = []
    for node in nodes:
        if known.issuperset(name for name in node.input if name):
            found.append(node)
            known.update(node.output)
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
