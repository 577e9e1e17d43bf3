"""What is audited: the layers of a quantized graph, and the precision that each was to have."""

from collections.abc import Mapping

from edgekit.core.steps.patterns import compiled_pattern
from edgekit.core.strategy import Quantize
from edgekit.graph.model import BITS, Graph
from edgekit.graph.weights import FLOAT8, NF4, WeightLayer
from edgekit.measure.audit_match import Pair, module_path

# Precision that was asked -> how its weights are stored.
STORED_AS = {
    "int8": "int8",
    "int4": "int4",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "nf4": NF4,
    "float": "float32",
}
# Of a stored weight; what is not a tensor's dtype in a file has its bits here.
STORED_BITS = {**BITS, NF4: 4}
# Floats that are left as they are; what is widened to them first is computed in float as well.
FLOATS = ("float32", "float16", "bfloat16")
COMPUTED_AS_FLOATS = (*FLOATS, *FLOAT8, NF4)
# Below this a constant is a bias or a factor; quantizing it wins nothing.
MIN_WEIGHT_ELEMENTS = 256


class Subject:
    """The audited graph: its layers with their float counterparts, and what each should be.

    distinct: one pair for each weight, though several operators may share it. counted: those of
    them that are large enough to matter. total: their elements.
    """

    def __init__(
        self,
        *,
        graph: Graph,
        settings: Quantize,
        tensor_map: Mapping[str, str],
        pairs: list[Pair],
        ends: set[tuple[int, int]],
    ) -> None:
        self.graph = graph
        self.settings = settings
        self.tensor_map = tensor_map
        self.pairs = pairs
        self.distinct = list({pair.layer.key: pair for pair in reversed(pairs)}.values())[::-1]
        large = [pair for pair in self.distinct if pair.layer.elements >= MIN_WEIGHT_ELEMENTS]
        # In a model of small layers only, all of them count.
        self.counted = large or self.distinct
        self._counted = {pair.layer.key for pair in self.counted}
        self.total = sum(pair.layer.elements for pair in self.counted)
        self._ends = {
            pair.layer.key
            for pair in pairs
            if pair.float_layer is not None and pair.float_layer.key in ends
        }
        self._patterns = [
            (compiled_pattern("quantize: override", item.pattern), item)
            for item in settings.overrides
        ]

    def path(self, layer: WeightLayer) -> str:
        """What to call a layer."""
        return module_path(layer.tensor.name, self.tensor_map)

    def wanted(self, layer: WeightLayer) -> str:
        """The precision asked of a layer; of several overrides that match, the last counts."""
        names = (self.path(layer), layer.tensor.name)
        for pattern, override in reversed(self._patterns):
            if any(pattern.search(name) for name in names):
                return override.precision
        is_end = self.settings.keep_first_last_int8 and layer.key in self._ends
        return "int8" if self.settings.precision == "int4" and is_end else self.settings.precision

    def share(self, layer: WeightLayer) -> float:
        """The layer's share of all weight elements that count."""
        return layer.elements / self.total if self.is_counted(layer) else 0.0

    def is_counted(self, layer: WeightLayer) -> bool:
        """Whether the layer is large enough to matter."""
        return layer.key in self._counted

    def is_as_asked(self, layer: WeightLayer) -> bool:
        """Whether the weight is stored at the precision that was asked of it."""
        asked = self.wanted(layer)
        is_left = asked == "float" and layer.precision in FLOATS
        return is_left or layer.precision == STORED_AS[asked]
