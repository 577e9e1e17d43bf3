"""Steps of weights that are learned with the weights: one for each channel or block.

A grid that is found again in the exported file just holds its largest weight, so the largest
integer of each channel must be used: a step that would leave it unused is made smaller, to where
the largest weight just rounds to it.
Source: Esser et al. 2020, arXiv:1902.08153 (LSQ).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekit.compress.training.grids import RoundedLayer, short_scales
from edgekit.compress.training.lsq import COLLAPSED, on_steps, through_rounding

_SHARES = torch.linspace(0.5, 1.0, 51, dtype=torch.float64)
# The largest weight must not come to stand on the edge between two integers, in float32 or, for
# blocks, after the step is stored with 8 significant bits.
_MARGIN, _MARGIN_OF_BLOCKS = 1e-5, 2.0**-8


class WeightSteps(nn.Module):
    """The steps of some weights. Shapes: of each layer (rows, 1)."""

    def __init__(self, layers: Sequence[RoundedLayer]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.ratios = nn.ParameterList()
        for number, layer in enumerate(self.layers):
            start = best_steps(layer.rows(layer.weight.detach()), layer.top)
            self.register_buffer(f"start_{number}", start)
            self.ratios.append(nn.Parameter(torch.ones_like(start)))

    def steps(self, number: int, rows: Tensor) -> Tensor:
        """The steps of a layer, whose largest integer is reached by these rows."""
        layer = self.layers[number]
        start = self.get_buffer(f"start_{number}")
        found = torch.minimum(self.ratios[number].detach() * start, self._highest(layer, rows))
        return short_scales(found) if layer.has_blocks else found

    def rounded(self, number: int, weight: Tensor) -> Tensor:
        """The weight of a layer on its grids."""
        layer = self.layers[number]
        rows = layer.rows(weight)
        return layer.restored(on_steps(rows, self.steps(number, rows), layer.top))

    @torch.no_grad()
    def pull_back_(self, number: int, weight: Tensor) -> None:
        """Make the gradient of a rounded weight that of the weight itself and of its steps.

        weight: as it was before it was rounded.
        """
        layer = self.layers[number]
        if layer.weight.grad is None:
            return
        rows = layer.rows(weight)
        steps, start = self.steps(number, rows), self.get_buffer(f"start_{number}")
        inner, of_steps = through_rounding(rows, steps, layer.top, layer.rows(layer.weight.grad))
        layer.weight.grad.copy_(layer.restored(inner))
        self.ratios[number].grad = of_steps / start

    @torch.no_grad()
    def settle_(self) -> None:
        """Bring steps back to where the largest integer is used."""
        for number, layer in enumerate(self.layers):
            highest = self._highest(layer, layer.rows(layer.weight))
            start = self.get_buffer(f"start_{number}")
            self.ratios[number].copy_(torch.minimum(self.ratios[number], highest / start))

    def collapsed(self) -> str:
        """What to say of a step that is next to nothing; "" where there is none."""
        for number, layer in enumerate(self.layers):
            weight = layer.rows(layer.weight.detach())
            ratios = self.ratios[number].detach()[weight.any(dim=1)]
            if ratios.numel() and float(ratios.amin()) < COLLAPSED:
                least = float(ratios.amin())
                return f"a step of layer '{layer.path}' fell to {least:.3g} of what it began with"
        return ""

    @staticmethod
    def _highest(layer: RoundedLayer, rows: Tensor) -> Tensor:
        largest = rows.abs().amax(dim=1, keepdim=True)
        margin = _MARGIN_OF_BLOCKS if layer.has_blocks else _MARGIN
        highest = largest / (layer.top - 0.5) * (1 - margin)
        # Rows of zeros have any step.
        return torch.where(largest > 0, highest, torch.full_like(highest, torch.inf))


def best_steps(rows: Tensor, top: int) -> Tensor:
    """The step of each row that loses least by squared error; 1 for rows of zeros.

    Shapes: (rows, columns) -> (rows, 1).
    """
    largest = rows.abs().amax(dim=1, keepdim=True)
    full = torch.where(largest > 0, largest, torch.full_like(largest, top)) / top
    best, least = full, torch.full_like(full, torch.inf)
    for share in _SHARES.flip(0).tolist():
        steps = full * share
        lost = (rows - on_steps(rows, steps, top)).square().sum(dim=1, keepdim=True)
        best = torch.where(lost < least, steps, best)
        least = torch.minimum(lost, least)
    return best
