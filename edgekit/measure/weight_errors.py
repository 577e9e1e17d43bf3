"""What quantization did to the weights of each layer, read from the two artifacts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.graph.grid import weight_grid
from edgekit.graph.model import Graph
from edgekit.graph.weights import weight_layers
from edgekit.measure.audit_match import Pair, match_layers, module_path
from edgekit.measure.audit_subject import FLOATS, STORED_BITS
from edgekit.measure.audit_values import layouts


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightError:
    """One layer: the bits of its weights, and the Frobenius norm of their error over their own."""

    layer: str
    bits: int
    relative_error: float


def weight_errors(
    float_graph: Graph, graph: Graph, tensor_map: Mapping[str, str]
) -> tuple[WeightError, ...]:
    """The error of every layer with integer weights that the float graph has a counterpart of.

    tensor_map: tensor name (of either graph) to module path. Layers whose grid the file does not
    say plainly are left out.
    """
    pairs, _ = match_layers(weight_layers(float_graph), weight_layers(graph), tensor_map)
    distinct = {pair.layer.key: pair for pair in reversed(pairs)}
    found = (_error(float_graph, graph, pair, tensor_map) for pair in reversed(distinct.values()))
    return tuple(item for item in found if item is not None)


def _error(
    float_graph: Graph, graph: Graph, pair: Pair, tensor_map: Mapping[str, str]
) -> WeightError | None:
    layer, original = pair.layer, pair.float_layer
    if original is None or layer.precision in FLOATS:
        return None
    grid, wanted = weight_grid(graph, layer), weight_grid(float_graph, original)
    if grid is None or wanted is None:
        return None
    errors = list(_relative_errors(wanted.values, grid.values, layer.shape))
    if not errors:
        return None
    return WeightError(
        layer=module_path(original.tensor.name, tensor_map),
        bits=STORED_BITS[layer.precision],
        relative_error=min(errors),
    )


def _relative_errors(
    wanted: np.ndarray, found: np.ndarray, shape: tuple[int, ...]
) -> Iterator[float]:
    norm = float(np.linalg.norm(wanted.astype(np.float64)))
    for candidate in layouts(wanted, shape):
        difference = found.astype(np.float64).reshape(shape) - candidate
        yield float(np.linalg.norm(difference)) / norm if norm else 0.0
