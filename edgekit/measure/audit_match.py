"""Which layer of a quantized graph is which layer of the float graph."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from edgekit.graph.weights import WeightLayer

# What quantizers and fusions put around the name of a weight that they changed.
_SUFFIX = re.compile(
    r"(_quantized|_DequantizeLinear(_Output)?|_Q(4|8)(G\d+)?|_int4|_transposed|_fp16|_bf16|_fp8|_nf4)+$"
)
_PREFIX = re.compile(r"^(ConvBnFusion_W_|ConvMulFusion_W_|ConvAddFusion_W_)+")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pair:
    """A layer of the quantized graph and the float layer that it was, if that is found."""

    layer: WeightLayer
    float_layer: WeightLayer | None


def module_path(tensor: str, tensor_map: Mapping[str, str]) -> str:
    """The module that a tensor came from; its own name where the map does not know."""
    known = tensor_map.get(tensor)
    return known if known is not None else tensor_map.get(plain_name(tensor), tensor)


def plain_name(tensor: str) -> str:
    """A weight's name without what quantizers add to it."""
    return _PREFIX.sub("", _SUFFIX.sub("", tensor))


def match_layers(
    float_layers: Iterable[WeightLayer],
    layers: Sequence[WeightLayer],
    tensor_map: Mapping[str, str],
) -> tuple[list[Pair], list[WeightLayer]]:
    """(layers with their float counterparts, float layers without one).

    By name first, then by module path, then in order; always with as many elements. Uses of one
    shared weight may become several weights.
    """
    originals = list({item.key: item for item in reversed(list(float_layers))}.values())[::-1]
    found: dict[tuple[int, int], WeightLayer] = {}
    used: set[tuple[int, int]] = set()
    rules = (_same_name, partial(_same_path, tensor_map), _same_kind)
    for rule in rules:
        for layer in layers:
            if layer.key in found:
                continue
            matches = [item for item in originals if rule(item, layer)]
            fresh = [item for item in matches if item.key not in used]
            # A shared weight that became several is matched again, but never by order alone.
            chosen = fresh or ([] if rule is _same_kind else matches)
            if chosen:
                found[layer.key] = chosen[0]
                used.add(chosen[0].key)
    pairs = [Pair(layer=layer, float_layer=found.get(layer.key)) for layer in layers]
    return pairs, [item for item in originals if item.key not in used]


def _same_name(original: WeightLayer, layer: WeightLayer) -> bool:
    left, right = original.tensor.name, layer.tensor.name
    return original.elements == layer.elements and left in (right, plain_name(right))


def _same_path(tensor_map: Mapping[str, str], original: WeightLayer, layer: WeightLayer) -> bool:
    left = module_path(original.tensor.name, tensor_map)
    right = module_path(layer.tensor.name, tensor_map)
    return original.elements == layer.elements and left == right


def _same_kind(original: WeightLayer, layer: WeightLayer) -> bool:
    return original.elements == layer.elements and original.kind == layer.kind
