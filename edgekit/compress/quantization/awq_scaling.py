"""Scales of all groups of a model, each with the exponent that rounding loses least with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit.compress.bench import Bench
from edgekit.compress.layer_inputs import InputSums, gather
from edgekit.compress.moments import MOMENT_BYTES
from edgekit.compress.quantization.awq_scales import EXPONENTS, awq_scales, rounded_scaled
from edgekit.compress.quantization.channel_inputs import column_factors, observe_channels
from edgekit.compress.quantization.gptq import output_error
from edgekit.compress.quantization.layers import Layers, grid_of
from edgekit.compress.quantization.rescale_groups import Group, groups_of, in_batches, moves
from edgekit.compress.quantization.rescale_pairs import are_same, find_pairs
from edgekit.compress.sparsity.sparse_layers import SparseWeight
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter

# Of the error without any scaling: what a group must win to be touched.
_WORTH = 0.999
_DOUBLE_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """What was done to one group of layers.

    exponent: None where it was left as it was. before, after: of each layer that is rounded, the
    squared error of its outputs over their own squares, rounded to nearest without any clipping.
    """

    exponent: float | None
    before: Mapping[str, float]
    after: Mapping[str, float]


class Scaling:
    """The groups of one model, scaled in place."""

    def __init__(self, bench: Bench, layers: Layers) -> None:
        """layers: those that will be rounded, each with its grid."""
        self._bench = bench
        self._layers = {id(layer.weight): layer for layer in layers.all}
        self._names = {
            id(layer.weight): item.name for layer in layers.all if (item := layers.item(layer))
        }
        self.groups: dict[str, Scaled] = {}
        self.unscaled: dict[str, str] = {}

    @property
    def has_changed(self) -> bool:
        """Whether any group was scaled."""
        return any(item.exponent is not None for item in self.groups.values())

    @torch.no_grad()
    def run(self, reporter: Reporter) -> None:
        """Scale all groups, each by the exponent that is best for it.

        Raises: StepError where the model's outputs are not the same afterwards.
        """
        bench, example = self._bench, self._bench.example()
        found, unscaled = groups_of(find_pairs(bench.model, bench.call, example), bench.model)
        groups = [
            item for item in found if any(id(it.parameter) in self._layers for it in item.layers)
        ]
        self._name_unscaled(groups, unscaled)
        before = {name: value.clone() for name, value in bench.call(bench.model, example).items()}
        for batch in in_batches(groups, _product_bytes, MOMENT_BYTES):
            reporter.progress(f"scaling {len(batch)} groups", len(self.groups) / len(groups))
            self._scale_batch(batch)
        if not are_same(before, bench.call(bench.model, example)):
            raise StepError(
                "awq: the outputs on the first calibration samples are not the same any more after "
                "scaling, as float32 does not hold the scaled weights; use 'round' in its place"
            )

    def _name_unscaled(self, groups: Sequence[Group], unscaled: Mapping[str, str]) -> None:
        """Say of each layer that is rounded and that no group scales why."""
        scaled = {id(item.parameter) for group in groups for item in group.layers}
        for key, layer in self._layers.items():
            if key not in scaled:
                why = unscaled.get(self._names.get(key, f"{layer.path}.weight"), "")
                self.unscaled[layer.path] = why or "no layer gives its inputs channel by channel"

    def _scale_batch(self, batch: Sequence[Group]) -> None:
        bench = self._bench
        items = list({item.name: item for group in batch for item in group.layers}.values())
        seen = observe_channels(bench, bench.model, items)
        sums = gather(bench, bench.model, items, has_products=True)
        for group in batch:
            if all(item.name in sums for item in group.layers):
                means = group.by_channel([seen[item.name].mean for item in group.layers], "mean")
                self.groups[group.pair.path] = self._scale(group, means, sums)

    def _scale(self, group: Group, means: Tensor, sums: Mapping[str, InputSums]) -> Scaled:
        before = self._errors(group, torch.ones_like(means), sums)
        best: float | None = None
        after = before
        for exponent in EXPONENTS:
            scales = awq_scales(means, exponent)
            errors = self._errors(group, scales, sums)
            if moves(scales) and _total(errors) < min(_total(after), _WORTH * _total(before)):
                best, after = exponent, errors
        if best is not None:
            # The pair makes what is given smaller, and the weights that read it larger.
            group.pair.scale_(awq_scales(means, best))
        return Scaled(exponent=best, before=before, after=after)

    def _errors(
        self, group: Group, scales: Tensor, sums: Mapping[str, InputSums]
    ) -> dict[str, float]:
        """What each layer loses when its scaled weights are rounded, by its path."""
        found: dict[str, float] = {}
        for item, each in zip(group.layers, group.by_input(scales), strict=True):
            layer, products = self._layers.get(id(item.parameter)), sums[item.name].products
            if layer is None or products is None:
                continue
            matrix = item.matrix(item.parameter.detach())
            split = matrix.reshape(item.groups, -1, matrix.shape[1])
            rounded = rounded_scaled(split, column_factors(item, each), grid_of(layer))
            found[item.path] = output_error(matrix, rounded.reshape(matrix.shape), products)
        return found


def _product_bytes(item: SparseWeight) -> int:
    return _DOUBLE_BYTES * item.groups * int(item.matrix(item.parameter).shape[1]) ** 2


def _total(errors: Mapping[str, float]) -> float:
    return sum(errors.values())
