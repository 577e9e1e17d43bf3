"""The layers of an ONNX graph that hold weights, and the precision that each is to have."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnx

from edgekit.compile.onnx_model import attribute, initializers
from edgekit.core.progress import Reporter
from edgekit.core.steps.patterns import compiled_pattern
from edgekit.core.strategy import LayerPrecision, Quantize

# "einsum": a product that the file names by its axes; no kernel takes integers there.
Kind = Literal["conv", "depthwise", "matrix", "embedding", "recurrent", "einsum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One constant weight and the nodes that read it.

    nodes: the first one, and those that read the weight as it does. axis: of the weight's output
    channels (an embedding's rows), which get a scale each.
    """

    nodes: tuple[str, ...]
    operator: str
    weight: str
    module_path: str
    kind: Kind
    axis: int


def find_layers(model: onnx.ModelProto, paths: Mapping[str, str]) -> tuple[Layer, ...]:
    """The layers in the order of the graph; a weight that several nodes read counts once."""
    constants = initializers(model)
    found: dict[str, Layer] = {}
    for node in model.graph.node:
        for position, kind, axis in _weights_of(node):
            name = node.input[position] if position < len(node.input) else ""
            tensor = constants.get(name)
            if tensor is None or not _is_float_matrix(tensor):
                continue
            layer = Layer(
                nodes=(node.name,),
                operator=node.op_type,
                weight=name,
                module_path=paths.get(name, name),
                kind=_refine(kind, node, tensor),
                axis=axis % len(tensor.dims),
            )
            first = found.setdefault(name, layer)
            if first is not layer and replace(first, nodes=layer.nodes) == layer:
                found[name] = replace(first, nodes=(*first.nodes, node.name))
    return tuple(found.values())


def _is_float_matrix(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1


def _weights_of(node: onnx.NodeProto) -> list[tuple[int, Kind, int]]:
    if node.op_type == "Conv":
        return [(1, "conv", 0)]
    if node.op_type == "ConvTranspose":
        return [(1, "conv", 1)]
    if node.op_type == "Gemm":
        return [(1, "matrix", 0 if attribute(node, "transB", 0) else 1)]
    if node.op_type == "MatMul":
        return [(1, "matrix", -1)]
    if node.op_type == "Gather" and attribute(node, "axis", 0) == 0:
        return [(0, "embedding", 0)]
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return [(1, "recurrent", 1), (2, "recurrent", 1)]
    if node.op_type == "Einsum":
        return [(place, "einsum", axis) for place, axis in enumerate(_einsum_axes(node))]
    return []


def _einsum_axes(node: onnx.NodeProto) -> list[int]:
    """Of each operand the first axis that the output has from it alone; 0 where there is none."""
    operands, _, output = attribute(node, "equation", b"").decode().replace(" ", "").partition("->")
    axes = []
    for place, labels in enumerate(found := operands.split(",")):
        others = "".join(found[:place] + found[place + 1 :])
        # What "..." stands for cannot be counted here.
        own = [axis for axis, label in enumerate(labels) if label in output and label not in others]
        axes.append(own[0] if own and "." not in labels else 0)
    return axes


def _refine(kind: Kind, node: onnx.NodeProto, tensor: onnx.TensorProto) -> Kind:
    is_depthwise = (
        node.op_type == "Conv" and attribute(node, "group", 1) > 1 and tensor.dims[1] == 1
    )
    return "depthwise" if is_depthwise else kind


def assign_precision(
    layers: Sequence[Layer], settings: Quantize, reporter: Reporter
) -> dict[str, LayerPrecision]:
    """The precision of every weight by its name.

    INT4 leaves depthwise layers, and the first and the last layer where the settings say so, at
    8 bits. Overrides come after that; of several that match a layer the last one counts.
    Raises: StepError for a pattern that is no regular expression.
    """
    chosen: dict[str, LayerPrecision] = {
        layer.weight: _default_precision(layer, layers, settings) for layer in layers
    }
    for override in settings.overrides:
        pattern = compiled_pattern("quantize: override", override.pattern)
        matched = [item for item in layers if _matches(pattern, item)]
        if not matched:
            reporter.warn(
                f"override '{override.pattern}' matches no layer of this model; its layers are "
                f"{', '.join(item.module_path for item in layers) or 'none'}"
            )
        chosen.update(dict.fromkeys((item.weight for item in matched), override.precision))
    return chosen


def _default_precision(layer: Layer, layers: Sequence[Layer], settings: Quantize) -> LayerPrecision:
    if settings.precision != "int4":
        return settings.precision
    is_end = layer in (layers[0], layers[-1])
    if layer.kind == "depthwise" or (settings.keep_first_last_int8 and is_end):
        return "int8"
    return "int4"


def _matches(pattern: re.Pattern[str], layer: Layer) -> bool:
    return bool(pattern.search(layer.module_path) or pattern.search(layer.weight))


def weights_with(
    layers: Sequence[Layer], chosen: Mapping[str, LayerPrecision], *precisions: str
) -> tuple[Layer, ...]:
    """The layers that are to have one of these precisions."""
    return tuple(layer for layer in layers if chosen[layer.weight] in precisions)


def describe(layers: Sequence[Layer]) -> str:
    """Module paths for a message; a recurrent layer has several weights."""
    return ", ".join(dict.fromkeys(layer.module_path for layer in layers))


def told_of_filled_rows(
    model: onnx.ModelProto, layers: Sequence[Layer], block: int
) -> tuple[str, ...]:
    """What is told of layers that are about to be stored in blocks that do not divide their rows.

    block: 0 is none.
    """
    constants = initializers(model)
    found = [
        layer
        for layer in (layers if block else ())
        if layer.operator in ("MatMul", "Gather")
        and constants[layer.weight].dims[1 - layer.axis] % block
    ]
    if not found:
        return ()
    return (
        f"rows that are no whole blocks of {block} are filled up with zeros, which take bytes too; "
        f"a smaller block_size saves them: {describe(found)}",
    )
