"""Looks at the values of chosen points while a model runs on samples."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Call
from edgekit.compress.judge import restore_modes, training_modes
from edgekit.compress.moments import fast_path_off
from edgekit.compress.training.function_calls import FunctionCalls, Given, Place


def watch(
    watcher: "Watcher", run: Call, model: nn.Module, samples: Iterable[Mapping[str, Tensor]]
) -> None:
    """Run a model in eval mode on these samples while the watcher looks."""
    modes = training_modes(model)
    model.eval()
    try:
        with torch.no_grad(), fast_path_off(), watcher.following():
            for inputs in samples:
                run(model, inputs)
    finally:
        restore_modes(modes)


class Watcher(FunctionCalls):
    """Looks at the values of points."""

    def __init__(self, part: nn.Module, places: Sequence[Place]) -> None:
        super().__init__(part)
        self.places = tuple(places)
        self._indices = {place: index for index, place in enumerate(places)}

    def see(self, place: Place, _: Given, result: Any) -> Any:
        """Look, and leave the result as it is."""
        items = result if type(result) in (tuple, list) else (result,)
        for number, item in enumerate(items):
            index = self._indices.get(Place(place.path, place.function, place.call, number))
            if index is not None and isinstance(item, Tensor) and item.numel():
                self.look(index, item.detach().float())
        return result

    def look(self, index: int, values: Tensor) -> None:
        """See the values of one point."""
        raise NotImplementedError
