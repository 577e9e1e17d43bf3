"""Smoothing where nothing before a layer can take its scales: a multiplication of its own.

Norms that lead into sums (BERT's) and activation functions leave no weight to divide. The layers
that read one tensor share a factor for each channel, so that an engine multiplies once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.moments import MOMENT_BYTES, fast_path_off
from edgekit.compress.plain_linears import plain_linears
from edgekit.compress.quantization.channel_inputs import ChannelInputs, observe_channels
from edgekit.compress.quantization.rescale_groups import in_batches, row_bytes
from edgekit.compress.quantization.smooth_choice import Smoothed, choose, layer_errors
from edgekit.compress.quantization.smoothing import smoothing_scales
from edgekit.compress.scaled_linear import as_multiplied
from edgekit.compress.sparsity.sparse_layers import SparseWeight, known_weights
from edgekit.core.progress import Reporter
from edgekit.core.steps.smooth import Smooth

# A multiplication of all that comes in must buy more than a scale that costs nothing.
_WORTH = 0.8
# Of the median scale: what calibration hardly saw in a channel is not scaled up without end.
_FLOOR = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """Linear layers that read one tensor."""

    layers: tuple[SparseWeight, ...]

    @property
    def name(self) -> str:
        """The paths of the layers."""
        return " + ".join(layer.path for layer in self.layers)


def multiply(
    settings: Smooth, bench: Bench, taken: Collection[str], rows: int, reporter: Reporter
) -> dict[str, Smoothed]:
    """Give plain linear layers whose paths are not taken inputs that 8 bits hold, in place.

    rows: vectors of inputs to choose by. Returns what was done, by the paths of each group.
    """
    groups = _find(bench, taken)
    found: dict[str, Smoothed] = {}
    for batch in in_batches(groups, lambda layer: row_bytes(layer, rows), MOMENT_BYTES):
        reporter.progress(
            f"multiplying the inputs of {len(batch)} groups", len(found) / len(groups)
        )
        layers = [layer for group in batch for layer in group.layers]
        seen = observe_channels(bench, bench.model, layers, rows=rows)
        for group in batch:
            inputs = [seen[layer.name] for layer in group.layers]
            found[group.name] = _multiply_one(settings, bench.model, group, inputs)
    return found


def _find(bench: Bench, taken: Collection[str]) -> list[Readers]:
    """The layers that read one tensor each, in the order in which they are called."""
    weights = {item.path: item for item in known_weights(bench.model).weights}
    layers = plain_linears(bench.model)
    wanted = {path: item for path, item in layers.items() if path in weights and path not in taken}
    read: list[tuple[Tensor, list[str]]] = []
    called: set[str] = set()
    hooks = [
        item.register_forward_pre_hook(_note(path, read, called)) for path, item in wanted.items()
    ]
    try:
        with torch.no_grad(), fast_path_off():
            bench.call(bench.model, bench.example())
    finally:
        for hook in hooks:
            hook.remove()
    return [Readers(layers=tuple(weights[path] for path in paths)) for _, paths in read]


def _note(path: str, read: list[tuple[Tensor, list[str]]], called: set[str]) -> Any:
    """A hook that puts a layer beside the others that got the same tensor."""

    def see(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        if path in called or not args:  # its factor is that of its first input
            return
        called.add(path)
        for given, paths in read:
            if given is args[0]:
                paths.append(path)
                return
        read.append((args[0], [path]))

    return see


def _multiply_one(
    settings: Smooth, model: nn.Module, group: Readers, inputs: Sequence[ChannelInputs]
) -> Smoothed:
    """Smooth what one group of layers reads, by the stated strength or by the best of many."""
    largest = torch.stack([item.largest for item in inputs]).amax(0).double()
    columns = [item.matrix(item.parameter.detach()).abs().amax(0) for item in group.layers]
    weights = torch.stack(columns).amax(0).double()

    def scales_of(strength: float) -> Tensor:
        scales = smoothing_scales(largest, weights, strength)
        return scales.clamp_min(_FLOOR * float(scales.median()))

    def errors_of(scales: Tensor) -> dict[str, float]:
        return layer_errors(group.layers, inputs, [scales] * len(group.layers))

    done, scales = choose(settings, scales_of, errors_of, worth=_WORTH)
    if scales is not None:
        factor = (1 / scales).float()
        for layer in group.layers:
            linear = model.get_submodule(layer.path)
            if not isinstance(linear, nn.Linear):
                raise TypeError(layer.path)
            model.set_submodule(layer.path, as_multiplied(linear, factor))
    return done
