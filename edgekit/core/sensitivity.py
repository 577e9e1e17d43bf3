"""What each layer costs the model at each precision, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionCost:
    """One layer's weight at one precision, all others in float.

    bytes: of the weight in a file, with the scales of its blocks; those of channels, which every
    integer precision has alike, are not counted. error: squared error of the model's outputs over
    their own squares. cosine_loss: 1 - cosine of a sample's outputs, the mean. metric_drop: on the
    selection data, in the metric's unit; None where it was not measured.
    """

    bytes: int
    error: float
    cosine_loss: float
    metric_drop: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSensitivity:
    """One weight. costs: by precision, as ``int8``, ``int4``, ``int4/32`` (in blocks) or ``fp16``.

    path: of the module that is called first; others: of those that share the weight. why_not:
    precisions that it cannot have on every target, and why. macs: multiply-accumulates a sample, 0
    for a look-up.
    """

    path: str
    kind: str
    parameters: int
    costs: Mapping[str, PrecisionCost]
    others: tuple[str, ...] = ()
    why_not: Mapping[str, str] = field(default_factory=dict)
    macs: int = 0

    @property
    def worst(self) -> float:
        """The largest error of all precisions."""
        return max((cost.error for cost in self.costs.values()), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """All layers, in the order in which the model calls them.

    samples: of the calibration data. metric, unit: of metric_drop. left: layers that were not
    measured, and why.
    """

    layers: tuple[LayerSensitivity, ...]
    samples: int
    metric: str
    unit: str
    left: Mapping[str, str] = field(default_factory=dict)

    def by_cost(self) -> tuple[LayerSensitivity, ...]:
        """The layers, those that cost most first."""
        return tuple(sorted(self.layers, key=lambda layer: (-layer.worst, layer.path)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanError:
    """A whole plan, measured: all planned weights at once. As ``PrecisionCost`` has them."""

    error: float
    cosine_loss: float
    metric_drop: float | None = None
