"""Who makes and who reads each tensor of a graph, and which operators compute."""

from collections.abc import Iterable, Iterator

from edgekit.graph.model import Graph, Operator, Subgraph, TensorQuantization
from edgekit.graph.weights import WeightLayer, weight_layers

TO_INTEGERS = ("QUANTIZE", "QuantizeLinear")
TO_FLOATS = ("DEQUANTIZE", "DequantizeLinear")
CONVERSIONS = (*TO_INTEGERS, *TO_FLOATS, "DynamicQuantizeLinear", "CAST", "Cast")
# Operators that move values and compute none: nothing can go wrong in them.
MOVERS = (
    *("RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "SQUEEZE"),
    *("EXPAND_DIMS", "PACK", "UNPACK", "PAD", "PADV2", "MIRROR_PAD", "GATHER", "TILE", "SHAPE"),
    *("BROADCAST_TO", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "REVERSE_V2", "FILL", "RANGE"),
    *("Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten", "Identity"),
    *("Pad", "Gather", "Tile", "Expand", "Shape", "ConstantOfShape", "Constant", "Range"),
)


class Links:
    """Who makes and who reads each tensor of a main graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.subgraph: Subgraph = graph.subgraphs[0]
        self.maker: dict[int, Operator] = {}
        self.readers: dict[int, list[Operator]] = {}
        for operator in self.subgraph.operators:
            self.maker.update({index: operator for index in operator.outputs if index >= 0})
            for index in {item for item in operator.inputs if item >= 0}:
                self.readers.setdefault(index, []).append(operator)

    def next_of(self, tensor: int, allowed: Iterable[str]) -> Operator | None:
        """The only reader of a tensor, if it is one of these; an output of the graph is read."""
        readers = self.readers.get(tensor, [])
        if len(readers) != 1 or tensor in self.subgraph.outputs:
            return None
        (reader,) = readers
        return reader if reader.name in allowed and len(reader.outputs) >= 1 else None

    def is_computed(self, tensor: int) -> bool:
        """Whether a tensor depends on the inputs."""
        return tensor >= 0 and not self.subgraph.tensors[tensor].is_constant

    def quantization_of(self, tensor: int) -> TensorQuantization | None:
        """The scale of a computed tensor that holds integers."""
        info = self.subgraph.tensors[tensor]
        return info.quantization if not info.is_constant else None

    def computing(self) -> Iterator[Operator]:
        """Operators whose inputs depend on the graph's inputs, less conversions."""
        for operator in self.subgraph.operators:
            is_conversion = operator.name in CONVERSIONS
            if (
                operator.outputs
                and not is_conversion
                and any(map(self.is_computed, operator.inputs))
            ):
                yield operator

    def ancestors(self, operator: Operator, stops: Iterable[int]) -> frozenset[int]:
        """The nearest tensors behind an operator's inputs that are among ``stops``."""
        held, found, seen = frozenset(stops), set[int](), set[int]()
        waiting = [item for item in operator.inputs if self.is_computed(item)]
        while waiting:
            tensor = waiting.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            if tensor in held:
                found.add(tensor)
            elif tensor in self.maker:
                waiting += [i for i in self.maker[tensor].inputs if self.is_computed(i)]
        return frozenset(found)


def layers_by_operator(graph: Graph) -> dict[int, tuple[WeightLayer, ...]]:
    """The weights of each operator of the main graph."""
    found: dict[int, tuple[WeightLayer, ...]] = {}
    for layer in weight_layers(graph):
        if layer.subgraph == 0:
            index = layer.operator.index
            found[index] = (*found.get(index, ()), layer)
    return found
