"""Rounding through a whole model by the sums of what each layer gets: GPTQ, or to nearest."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from edgekit.compress.bench import Bench
from edgekit.compress.layer_inputs import gather, in_groups
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One layer that can be rounded by what comes into it.

    item: its weight as a linear map. Shapes: squares and products as in ``InputSums``.
    """

    layer: RoundedLayer
    item: SparseWeight
    squares: Tensor
    products: Tensor


def round_each(
    bench: Bench, layers: Layers, round_one: Callable[[Task], Rounded], reporter: Reporter
) -> None:
    """Round all layers in place, as many after each pass over the data as fit into memory.

    Layers whose inputs say nothing are rounded by their weights alone.
    """
    mapped = {item.name: layer for layer in layers.all if (item := layers.item(layer))}
    groups = list(in_groups([item for layer in layers.all if (item := layers.item(layer))]))
    for number, group in enumerate(groups):
        reporter.progress(f"rounding {len(group)} layers", number / len(groups))
        seen = gather(bench, bench.model, group, has_products=True)
        for item in group:
            layer, sums = mapped[item.name], seen.get(item.name)
            if sums is None or sums.products is None:
                layers.place_blindly(layer, NOT_CALLED)
            elif not bool((sums.squares > 0).any()):
                layers.place_blindly(layer, ONLY_ZEROS)
            else:
                task = Task(layer=layer, item=item, squares=sums.squares, products=sums.products)
                layers.place(layer, round_one(task))
    for layer in layers.all:
        if layers.item(layer) is None:
            layers.place_blindly(layer)


def round_by_sums(method: RoundMethod, bench: Bench, layers: Layers, reporter: Reporter) -> None:
    """Round all layers in place, by GPTQ or to nearest."""

    def round_one(task: Task) -> Rounded:
        return _better(method, task, layers.mask(task.item))

    round_each(bench, layers, round_one, reporter)


def _better(method: RoundMethod, task: Task, keep: Tensor | None) -> Rounded:
    """The better of the roundings. keep: where weights may be other than zero."""
    item, squares, products = task.item, task.squares, task.products
    grid, weight = grid_of(task.layer), item.matrix(item.parameter.detach())
    importance = squares.repeat_interleave(len(weight) // len(squares), dim=0)
    found = {"nearest": round_nearest(weight, grid, importance)}
    if method == "gptq":
        found["gptq"] = gptq(weight, products, grid, keep=keep)
    errors = {name: output_error(weight, it, products) for name, it in found.items()}
    best = min(errors, key=errors.__getitem__)
    return Rounded(
        weight=item.restored(found[best]),
        nearest=item.restored(found["nearest"]),
        error=LayerError(nearest=errors["nearest"], rounded=errors[best]),
    )
