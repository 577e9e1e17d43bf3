"""How far the stored weights of one operator are from the float model's, and why that may be."""

from dataclasses import dataclass

import numpy as np

from edgekit.core.errors import InputError
from edgekit.graph.grid import weight_grid
from edgekit.graph.model import Array
from edgekit.graph.weights import WeightLayer
from edgekit.measure.audit_values import layouts
from edgekit.measure.layer_links import Links, layers_by_operator
from edgekit.measure.layer_points import Point

# Between an operator with weights and the tensor that is compared: its bias, a clamp, a shape.
_MOST_STEPS_BACK = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightNoise:
    """The weights of one operator.

    noise_ratio: the power of their error over their own. scales: how many there are. spread: how
    many times the largest channel's range is that of the middle one; of the axis where it is most.
    """

    noise_ratio: float
    scales: int
    spread: float


class WeightMeasurer:
    """Finds the float weights behind a point's float tensor, and compares."""

    def __init__(self, originals: Links, links: Links) -> None:
        self._originals, self._links = originals, links
        self._layers = layers_by_operator(originals.graph)

    def measure(self, point: Point) -> WeightNoise | None:
        """None where there are no weights, or the files do not say their values plainly."""
        wanted = self.original(point.float_tensor)
        pairs = [
            (layer, next((item for item in wanted if item.elements == layer.elements), None))
            for layer in point.layers
        ]
        found = [self._noise(layer, item) for layer, item in pairs if item is not None]
        known = [item for item in found if item is not None]
        return max(known, key=lambda item: item.noise_ratio, default=None)

    def original(self, tensor: int) -> tuple[WeightLayer, ...]:
        """The float weights of the operator that a tensor of the float graph comes from."""
        for _ in range(_MOST_STEPS_BACK):
            maker = self._originals.maker.get(tensor)
            if maker is None:
                break
            if maker.index in self._layers:
                return self._layers[maker.index]
            computed = [item for item in maker.inputs if self._originals.is_computed(item)]
            if len(computed) != 1:
                break
            tensor = computed[0]
        return ()

    def _noise(self, layer: WeightLayer, original: WeightLayer) -> WeightNoise | None:
        try:
            grid = weight_grid(self._links.graph, layer)
            wanted = weight_grid(self._originals.graph, original)
        except InputError:
            return None  # stored in a type that numpy has no values of
        if grid is None or wanted is None or grid.values.size != wanted.values.size:
            return None
        values = wanted.values.astype(np.float64)
        found = grid.values.astype(np.float64).reshape(layer.shape)
        power = float(np.square(values).sum())
        errors = [
            float(np.square(found - candidate).sum()) for candidate in layouts(values, layer.shape)
        ]
        if not errors or not power:
            return None
        return WeightNoise(
            noise_ratio=min(errors) / power, scales=len(grid.scales), spread=_spread(values)
        )


def _spread(values: Array) -> float:
    """The largest range of a channel over the median's, along the first or the last axis."""
    found = [1.0]
    for axis in (0, values.ndim - 1):
        others = tuple(item for item in range(values.ndim) if item != axis)
        ranges = np.abs(values).max(axis=others)
        middle = float(np.median(ranges))
        found += [float(ranges.max()) / middle] if middle else []
    return max(found)
