"""GPTQ, or rounding to nearest, through a whole model by the sums of what each layer gets."""

from edgekit.compress.bench import Bench
from edgekit.compress.layer_inputs import InputSums, gather, in_groups
from edgekit.compress.quantization.gptq import gptq, output_error, round_nearest
from edgekit.compress.quantization.layers import (
    NOT_CALLED,
    ONLY_ZEROS,
    LayerError,
    Layers,
    Rounded,
    grid_of,
)
from edgekit.compress.sparsity.sparse_layers import SparseWeight
from edgekit.compress.training.rounding import RoundedLayer
from edgekit.core.progress import Reporter
from edgekit.core.steps.round import RoundMethod


def round_by_sums(method: RoundMethod, bench: Bench, layers: Layers, reporter: Reporter) -> None:
    """Round all layers in place, as many after each pass over the data as fit into memory."""
    mapped = {item.name: layer for layer in layers.all if (item := layers.item(layer))}
    groups = list(in_groups([item for layer in layers.all if (item := layers.item(layer))]))
    for number, group in enumerate(groups):
        reporter.progress(f"rounding {len(group)} layers", number / len(groups))
        seen = gather(bench, bench.model, group, has_products=True)
        for item in group:
            _round(method, mapped[item.name], item, seen.get(item.name), layers)
    for layer in layers.all:
        if layers.item(layer) is None:
            layers.place_blindly(layer)


def _round(
    method: RoundMethod,
    layer: RoundedLayer,
    item: SparseWeight,
    sums: InputSums | None,
    layers: Layers,
) -> None:
    """One layer by what comes into it."""
    if sums is None or sums.products is None:
        layers.place_blindly(layer, NOT_CALLED)
        return
    if not bool((sums.squares > 0).any()):
        layers.place_blindly(layer, ONLY_ZEROS)
        return
    grid, weight = grid_of(layer), item.matrix(item.parameter.detach())
    importance = sums.squares.repeat_interleave(len(weight) // len(sums.squares), dim=0)
    found = {"nearest": round_nearest(weight, grid, importance)}
    if method == "gptq":
        found["gptq"] = gptq(weight, sums.products, grid, keep=layers.mask(item))
    errors = {name: output_error(weight, it, sums.products) for name, it in found.items()}
    best = min(errors, key=errors.__getitem__)
    rounded = Rounded(
        weight=item.restored(found[best]),
        nearest=item.restored(found["nearest"]),
        error=LayerError(nearest=errors["nearest"], rounded=errors[best]),
    )
    layers.place(layer, rounded)
