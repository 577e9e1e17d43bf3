"""What each layer of a .tflite gets: a pure decision from the graph and the settings.

What LiteRT's kernels take (ai-edge-quantizer 0.10, default_policy.py): 8 bits everywhere; 4 bits a
channel in CONV_2D, FULLY_CONNECTED and EMBEDDING_LOOKUP; 4 bits in blocks in the last two, with
activations that are scaled at run time. ai-edge-quantizer skips the rest without a word.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.compile.litert_islands import adapter_operators, float_islands, names_of
from edgekit.core.errors import StepError
from edgekit.core.precision import INTEGERS
from edgekit.core.steps.patterns import compiled_pattern
from edgekit.core.strategy import Activations, Override, Quantize
from edgekit.graph.grid import is_on_grid
from edgekit.graph.model import Graph, Operator, Subgraph
from edgekit.graph.weights import WeightLayer, weight_layers

FOUR_BIT = ("CONV_2D", "FULLY_CONNECTED", "EMBEDDING_LOOKUP")
BLOCKWISE = ("FULLY_CONNECTED", "EMBEDDING_LOOKUP")
BLOCK_SIZES = (32, 64, 128, 256)
# These have no kernel with calibrated integers at both ends.
_NEVER_STATIC = ("EMBEDDING_LOOKUP",)
# These may have one scale for all their weights; rows of embeddings keep their own.
_ONE_SCALE = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
_QUANTIZABLE = (
    *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"),
    *("EMBEDDING_LOOKUP", "BATCH_MATMUL"),
)

Bits = Literal[0, 4, 8, 16]
# bf16 is not ai-edge-quantizer's: ``litert_bfloat16`` writes it afterwards.
_BITS: dict[str, Bits] = {"int8": 8, "int4": 4, "fp16": 16, "bf16": 0, "float": 0}
_WIDE_ACTIVATIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecipe:
    """One operator with a weight, and how it is to be stored.

    operator: LiteRT's name of it. scope: the names of its outputs as ai-edge-quantizer joins them.
    bits: 0 leaves it float, 16 is float16. block_size: 0 is a scale for each channel. is_on_grid:
    the weights are whole steps already, as training with rounding leaves them. is_per_tensor: one
    scale for the layer. bfloat16: the weight's tensor where it is stored so, else "".
    """

    layer: str
    operator: str
    scope: str
    bits: Bits
    activations: Activations
    block_size: int = 0
    is_on_grid: bool = False
    is_per_tensor: bool = False
    bfloat16: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorScope:
    """One operator as ai-edge-quantizer finds it: LiteRT's name, its outputs' names joined."""

    operator: str
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All layers, and what must be said of those that do not get what was asked.

    is_static: the operators between the layers are integer as well, except for those that
    ``floats`` names. has_float_edges: inputs and outputs are float, and scaled inside the graph.
    activation_bits: of all static integers.
    """

    layers: tuple[LayerRecipe, ...]
    is_static: bool
    has_float_edges: bool
    floats: tuple[OperatorScope, ...]
    notes: tuple[str, ...]
    activation_bits: int = 8


def plan_recipe(
    graph: Graph, paths: Mapping[str, str], settings: Quantize, *, adapter: int | None = None
) -> Recipe:
    """The recipe for a float graph. adapter: the position of the input that takes one.

    Raises: StepError for a block size that LiteRT has not, and an override that matches nothing.
    """
    if settings.block_size and settings.block_size not in BLOCK_SIZES:
        allowed = ", ".join(map(str, BLOCK_SIZES))
        raise StepError(
            f"quantize: block_size {settings.block_size} is not one of LiteRT's ({allowed}); "
            "0 is a scale for each channel"
        )
    found = [
        item
        for item in weight_layers(graph)
        if item.subgraph == 0 and item.precision == "float32" and item.operator.name in _QUANTIZABLE
    ]
    names = [_layer_name(item, graph, paths) for item in found]
    overrides = _overrides(settings.overrides, found, names)
    kept = _kept_at_eight(found, settings)
    notes: list[str] = list(_general_notes(settings))
    layers = []
    for place, (item, name) in enumerate(zip(found, names, strict=True)):
        layers.append(
            _layer(
                item,
                name,
                graph,
                settings,
                overrides.get(place),
                is_kept=place in kept,
                notes=notes,
            )
        )
    is_static = settings.activations == "static" and settings.precision in INTEGERS
    is_mixed = is_static and not settings.is_integer_only
    islands = float_islands(graph.subgraphs[0]) if is_mixed else ()
    if islands:
        notes.append(
            f"{len(islands)} operators without weights stay float, where integers are slower or "
            f"cannot hold the range: {', '.join(names_of(islands))}"
        )
    if is_mixed and adapter is not None:
        islands += adapter_operators(graph.subgraphs[0], adapter)
    return Recipe(
        layers=tuple(layers),
        is_static=is_static,
        # XNNPACK scales a picture in a tenth of the time that a caller's own loops take.
        has_float_edges=is_mixed,
        floats=tuple(
            OperatorScope(operator=item.name, scope=scope_of(item, graph.subgraphs[0]))
            for item in islands
        ),
        notes=tuple(_summed(notes)),
        activation_bits=settings.activation_bits,
    )


def _layer_name(item: WeightLayer, graph: Graph, paths: Mapping[str, str]) -> str:
    subgraph = graph.subgraphs[item.subgraph]
    return paths.get(item.tensor.name) or subgraph.tensors[item.operator.outputs[0]].name


def _scope(item: WeightLayer, graph: Graph) -> str:
    return scope_of(item.operator, graph.subgraphs[item.subgraph])


def scope_of(operator: Operator, subgraph: Subgraph) -> str:
    """The names of an operator's outputs as ai-edge-quantizer joins them."""
    return "".join(f"{subgraph.tensors[index].name};" for index in operator.outputs if index >= 0)


def _overrides(
    overrides: Iterable[Override], found: Sequence[WeightLayer], names: Sequence[str]
) -> dict[int, Override]:
    """The last override that matches each layer, by the layer's place."""
    chosen: dict[int, Override] = {}
    for override in overrides:
        pattern = compiled_pattern("quantize: override", override.pattern)
        places = [
            place
            for place, (item, name) in enumerate(zip(found, names, strict=True))
            if pattern.search(name) or pattern.search(item.tensor.name)
        ]
        if not places:
            raise StepError(
                f"quantize: override pattern '{override.pattern}' matches no layer; there are: "
                f"{', '.join(names)}"
            )
        chosen.update(dict.fromkeys(places, override))
    return chosen


def _kept_at_eight(found: Sequence[WeightLayer], settings: Quantize) -> set[int]:
    if settings.precision != "int4" or not settings.keep_first_last_int8 or not found:
        return set()
    return {0, len(found) - 1}


def _layer(
    item: WeightLayer,
    name: str,
    graph: Graph,
    settings: Quantize,
    override: Override | None,
    *,
    is_kept: bool,
    notes: list[str],
) -> LayerRecipe:
    operator = item.operator.name
    wanted = override.precision if override else settings.precision
    bits = _bits(wanted, settings)
    activations = settings.activations
    if bits == 4 and not override and is_kept:
        bits = 8
        notes.append(f"{name}: 8 bits, as the first or last layer with weights")
    if bits == 4 and operator not in FOUR_BIT:
        bits = 8
        notes.append(f"{name}: 8 bits; LiteRT has no 4-bit {operator}")
    if (
        bits in (4, 8)
        and activations == "dynamic"
        and operator == "BATCH_MATMUL"
        and item.slot == 0
    ):
        bits = 0
        notes.append(f"{name}: stays float; LiteRT multiplies with integers on the right alone")
    block_size = _block_size(item, name, settings, notes) if bits == 4 else 0
    if activations == "static" and (operator in _NEVER_STATIC or block_size):
        activations = "dynamic"
        why = "blocks of weights" if block_size else operator
        notes.append(
            f"{name}: activations scaled at run time; LiteRT has no static kernel for {why}"
        )
    return LayerRecipe(
        layer=name,
        operator=operator,
        bfloat16=item.tensor.name if wanted == "bf16" else "",
        scope=_scope(item, graph),
        bits=bits,
        activations="none" if bits in (0, 16) else activations,
        block_size=block_size,
        is_per_tensor=settings.is_per_tensor and bits == 8 and operator in _ONE_SCALE,
        is_on_grid=bits == 4 and is_on_grid(graph.constant_array(item.tensor.index), bits),
    )


def _bits(wanted: str, settings: Quantize) -> Bits:
    if wanted not in _BITS:
        raise StepError(
            f"quantize: LiteRT has no storage for {wanted} weights that it could compute with; it "
            f"stores {', '.join(_BITS)}"
        )
    if wanted == "int4" and settings.activation_bits == _WIDE_ACTIVATIONS:
        raise StepError("quantize: activations of 16 bits go with int8 weights, not with int4")
    return _BITS[wanted]


def _block_size(item: WeightLayer, name: str, settings: Quantize, notes: list[str]) -> int:
    size, columns = settings.block_size, item.shape[-1]
    if not size or item.operator.name not in BLOCKWISE:
        return 0
    if settings.activations == "none":
        notes.append(f"{name}: a scale for each channel; blocks need activations in integers")
        return 0
    if columns % size:
        notes.append(f"{name}: a scale for each channel; {columns} columns are no blocks of {size}")
        return 0
    return size


def _general_notes(settings: Quantize) -> Iterable[str]:
    if settings.is_unsigned:
        yield "LiteRT computes with signed activations; is_unsigned changes nothing here"
    if settings.is_range_reduced:
        yield "LiteRT's kernels do not saturate at 8 bits; is_range_reduced changes nothing here"
    if "bf16" in (settings.precision, *(item.precision for item in settings.overrides)):
        yield (
            "LiteRT widens bfloat16 at every run and keeps these layers out of XNNPACK, which is "
            "several times slower than float; fp16 has the same bytes at the speed of float"
        )
    if settings.activation_bits == _WIDE_ACTIVATIONS:
        # ResNet-20, one thread of x86-64: 79 times float's time (ai-edge-litert 2.3.0, 2026-11).
        yield (
            "XNNPACK takes no activations of 16 bits, and LiteRT's own convolutions are many times "
            "slower than float on a CPU: 16 bits are for accelerators"
        )
    if settings.precision == "fp16" and settings.activations != "none":
        yield "float16 stores weights only; activations stay float32"


def _summed(notes: Sequence[str]) -> list[str]:
    """The notes, those that differ by the layer only as one with their number."""
    counts = Counter(note.partition(": ")[2] for note in notes)
    found: list[str] = []
    for note in notes:
        name, _, what = note.partition(": ")
        count = counts.pop(what, 0) if what else 1
        if count > 1:
            more = "1 more layer" if count == 2 else f"{count - 1} more layers"
            found.append(f"{name} and {more}: {what}")
        elif count:
            found.append(note)
    return found
