"""The weights that the step "round" rounds, and what becomes of each."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.quantization.gptq import Grid, round_nearest
from edgekit.compress.sparsity.sparse_layers import SparseWeight, participants
from edgekit.compress.training.rounding import RoundedLayer, Rounder

NOT_CALLED = "the model does not call it on the calibration data"
ONLY_ZEROS = "it gets nothing but zeros on the calibration data"
# Of a step: what a weight moves by float32's own rounding is less.
_MOVED = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """What rounding did to the outputs of one layer: squared errors over their own squares.

    nearest: with each weight by itself. why_nearest: why no more was done; "" where it was.
    """

    nearest: float
    rounded: float
    why_nearest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """One layer's weight, rounded in two ways. Shapes: the weight's own."""

    weight: Tensor
    nearest: Tensor
    error: LayerError


class Layers:
    """The weights of one model in the order of their calls, as they are rounded in place."""

    def __init__(self, bench: Bench, rounder: Rounder) -> None:
        self.all = rounder.layers
        found = participants(bench.model).weights
        self._items = {id(item.parameter): item for item in found}
        self._masks = bench.masks
        self._errors: dict[str, LayerError] = {}
        self._nearest: dict[str, Tensor] = {}
        self.has_changed = False

    @property
    def errors(self) -> dict[str, LayerError]:
        """Of the layers that are rounded, by path, in the order of their calls."""
        return {it.path: self._errors[it.path] for it in self.all if it.path in self._errors}

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """All weights by path."""
        return {layer.path: layer.weight for layer in self.all}

    def item(self, layer: RoundedLayer) -> SparseWeight | None:
        """The weight as a linear map of the layer's inputs; None where it is none."""
        item = self._items.get(id(layer.weight))
        return None if item is None or item.why_unmapped else item

    def mask(self, item: SparseWeight) -> Tensor | None:
        """Where weights may be other than zero, laid out as ``item.matrix`` does; None for all."""
        mask = self._masks.get(item.name)
        if mask is None:
            return None
        return item.matrix(mask.to(item.parameter.device, torch.bool))

    @torch.no_grad()
    def place(self, layer: RoundedLayer, rounded: Rounded) -> None:
        """Put a rounded weight into the model."""
        step = layer.weight.abs().amax() / layer.top
        self.has_changed |= bool((layer.weight - rounded.weight).abs().amax() > _MOVED * step)
        layer.weight.copy_(rounded.weight)
        self._nearest[layer.path] = rounded.nearest
        self._errors[layer.path] = rounded.error

    def place_blindly(self, layer: RoundedLayer, why: str = "") -> None:
        """Round one layer by its weights alone. why: "" for what is known of its inputs."""
        item = self._items.get(id(layer.weight))
        known = "its inputs are not known" if item is None else item.why_unmapped
        turned = layer.weight.detach().movedim(layer.axis, 0)
        rounded = round_nearest(turned.flatten(1), grid_of(layer)).reshape(turned.shape)
        rounded = rounded.movedim(0, layer.axis)
        error = LayerError(nearest=0.0, rounded=0.0, why_nearest=why or known)
        self.place(layer, Rounded(weight=rounded, nearest=rounded, error=error))

    @torch.no_grad()
    def place_nearest(self, model: nn.Module) -> None:
        """Put weights that are rounded by themselves into a model of the same structure."""
        for path, value in self._nearest.items():
            model.get_submodule(path).weight.copy_(value)  # type: ignore[operator]


def grid_of(layer: RoundedLayer) -> Grid:
    """The grid of one layer."""
    return Grid(top=layer.top, block_size=layer.block_size, has_short_blocks=layer.has_short_blocks)
