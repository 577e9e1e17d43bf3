"""How far the largest input of a layer stands out, on all calibration data."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.moments import fast_path_off, input_batches


@dataclass(slots=True, kw_only=True)
class _Seen:
    largest: float = 0.0
    squares: float = 0.0
    count: int = 0

    def see(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        value: Tensor = args[0].detach()
        self.largest = max(self.largest, float(value.abs().max()))
        self.squares += float(value.double().square().sum())
        self.count += value.numel()

    @property
    def peak_ratio(self) -> float:
        return self.largest / max(math.sqrt(self.squares / max(self.count, 1)), 1e-30)


def peak_ratios(bench: Bench, model: nn.Module, weights: Iterable[str]) -> dict[str, float]:
    """The largest absolute input over the root mean square of all, by the weight's name.

    Of linear layers of torch's own kind among these weights. One value alone among n has the root
    of n, values drawn from a normal distribution about 4 to 5: so much of a grid is lost on what
    hardly ever comes.
    """
    wanted = set(weights)
    layers = {
        f"{path}.weight": module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and f"{path}.weight" in wanted
    }
    seen = {name: _Seen() for name in layers}
    hooks = [layer.register_forward_pre_hook(seen[name].see) for name, layer in layers.items()]
    try:
        with torch.no_grad(), fast_path_off():
            for inputs in input_batches(bench):
                bench.call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: item.peak_ratio for name, item in seen.items() if item.count}
