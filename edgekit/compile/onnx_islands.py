"""Nodes of a static INT8 graph that are better left in float, between matrices in integers."""

from collections.abc import Collection, Iterator

import onnx

# A product of integers gives floats for free (MatMulIntegerToFloat), and what stands between two
# of them spans orders of magnitude: scores under a mask of -3e38, the sums and norms of a residual
# stream, a softmax. Static INT8 of MiniLM, mean cosine of 400 sentences: 0.33 with these in
# integers, 0.93 with the products alone (onnxruntime 1.31.1, min-max, 2026-11).
_BETWEEN = (
    *("Add", "Sum", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Neg", "Abs"),
    *("Min", "Max", "Where", "Cast", "Expand", "Erf", "Gelu", "FastGelu", "BiasGelu", "QuickGelu"),
    *("Relu", "Sigmoid", "Tanh", "Softmax", "LayerNormalization", "SkipLayerNormalization"),
    *("SimplifiedLayerNormalization", "RMSNormalization", "Reshape", "Transpose", "Squeeze"),
    *("Unsqueeze", "Split", "Slice", "Identity", "Dropout"),
)
# ONNX Runtime writes some MatMul with their bias as Gemm.
PRODUCTS = ("MatMul", "Gemm")


def float_islands(model: onnx.ModelProto) -> frozenset[str]:
    """The names of the nodes between products, up to the next layer of another kind.

    A graph without MatMul has none: there integers pass from layer to layer.
    """
    links = _Links(model)
    waiting = [node for node in model.graph.node if node.op_type in PRODUCTS]
    if all(node.op_type == "Gemm" for node in waiting):
        return frozenset()
    chosen: set[str] = set()
    while waiting:
        for node in links.beside(waiting.pop()):
            if node.op_type in _BETWEEN and node.name not in chosen:
                chosen.add(node.name)
                waiting.append(node)
    return frozenset(chosen)


def keep_floats_whole(model: onnx.ModelProto, floats: Collection[str]) -> None:
    """Let these nodes read a float before it was rounded for others.

    ONNX Runtime's quantizer (1.31.1) sends all readers of a tensor through its pair.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.name in floats:
            for place, name in enumerate(node.input):
                source = _rounded_from(name, makers)
                maker = makers.get(source)
                # What an integer layer gives must have its pair, or the layer is no integer one.
                if source and (maker is None or _gives_floats(maker, floats)):
                    node.input[place] = source


def _rounded_from(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    """The float that a value was before a pair of QuantizeLinear and DequantizeLinear, or ""."""
    for operator in ("DequantizeLinear", "QuantizeLinear"):
        maker = makers.get(name)
        if maker is None or maker.op_type != operator:
            return ""
        name = maker.input[0]
    return name


def _gives_floats(node: onnx.NodeProto, floats: Collection[str]) -> bool:
    return node.name in floats or node.op_type in (*PRODUCTS, "Gather")


class _Links:
    """Which nodes give and take each tensor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def beside(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """The nodes that it reads from and that read from it."""
        yield from (self._makers[name] for name in node.input if name in self._makers)
        yield from (reader for name in node.output for reader in self._readers.get(name, ()))
