"""AdaRound through a whole model: layer after layer, each with what the rounded ones before give.

Each finished layer is written down, so that a run that was stopped goes on with the next one.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.quantization.adaround import adaround
from edgekit.compress.quantization.layer_records import LayerRecords
from edgekit.compress.quantization.layers import (
    NOT_CALLED,
    ONLY_ZEROS,
    LayerError,
    Layers,
    Rounded,
    grid_of,
)
from edgekit.compress.quantization.readers import Behind
from edgekit.compress.quantization.samples import draw_samples
from edgekit.compress.sparsity.sparse_layers import SparseWeight
from edgekit.compress.training.rounding import RoundedLayer
from edgekit.core.progress import Reporter
from edgekit.core.steps.round import AdaRound

Finish = Callable[[str], None]


class LearnedRounding:
    """The layers of one model, rounded in place in the order of their calls."""

    def __init__(
        self,
        settings: AdaRound,
        bench: Bench,
        reference: nn.Module,
        behind: dict[str, Behind],
        records: LayerRecords,
    ) -> None:
        """reference: the same model, whose weights stay float."""
        self._settings, self._bench, self._reference = settings, bench, reference
        self._behind, self._records = behind, records

    def run(self, layers: Layers, reporter: Reporter, finish: Finish) -> None:
        """Round all of them. finish: is called with the path of each before the next one."""
        for number, layer in enumerate(layers.all):
            reporter.progress(f"rounding {layer.path}", number / len(layers.all))
            item = layers.item(layer)
            done = self._records.load(number, layer.weight)
            if item is None:
                layers.place_blindly(layer)
            elif done is not None:
                layers.place(layer, done)
            else:
                self._round(number, layer, item, layers)
            finish(layer.path)

    def _round(self, number: int, layer: RoundedLayer, item: SparseWeight, layers: Layers) -> None:
        samples = draw_samples(
            self._bench,
            self._reference,
            item,
            calls=self._behind[layer.path].calls,
            limit_bytes=self._settings.sample_bytes,
        )
        if samples is None or not bool(samples.inputs.any()):
            layers.place_blindly(layer, NOT_CALLED if samples is None else ONLY_ZEROS)
            return
        learned = adaround(
            item.matrix(layer.weight.detach()),
            samples,
            grid_of(layer),
            self._settings,
            behind=what_follows(item, self._behind[layer.path]),
            seed=self._bench.seed,
            keep=layers.mask(item),
        )
        rounded = Rounded(
            weight=item.restored(learned.weight),
            nearest=item.restored(learned.nearest),
            error=LayerError(nearest=learned.nearest_error, rounded=learned.error),
        )
        layers.place(layer, rounded)
        self._records.save(number, rounded)


@torch.no_grad()
def what_follows(item: SparseWeight, behind: Behind) -> Callable[[Tensor], Tensor]:
    """Bias, batch norm and activation function of a layer, of outputs without the bias.

    Shapes: (groups, places, rows of a group) -> the same.
    """
    rows = len(item.matrix(item.parameter))
    factor = torch.ones(rows, device=item.parameter.device)
    offset = torch.zeros_like(factor)
    bias = getattr(item.module, "bias", None)
    if isinstance(bias, Tensor):
        offset = bias.detach().float()
    if behind.norm is not None:
        factor, shift = (value.detach().float() for value in behind.norm.as_factors())
        offset = offset * factor + shift
    shape = (item.groups, 1, -1)
    factor, offset = factor.reshape(shape), offset.reshape(shape)
    activation = behind.activation

    def follows(outputs: Tensor) -> Tensor:
        moved = outputs * factor + offset
        return moved if activation is None else activation(moved)

    return follows
