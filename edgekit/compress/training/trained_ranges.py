"""The ranges that a training has learned, told so that an exported graph can know them again."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from edgekit.compress.bench import Call
from edgekit.compress.training.activation_watch import Watcher, watch
from edgekit.compress.training.function_calls import Place
from edgekit.graph.ranges import Fingerprint, TrainedRange, fingerprint


def told_ranges(
    part: nn.Module,
    places: Sequence[Place],
    bounds: Sequence[tuple[float, float]],
    run: Call,
    model: nn.Module,
    samples: Iterable[Mapping[str, Tensor]],
) -> tuple[TrainedRange, ...]:
    """The bounds of each point with what it holds for these samples, each a batch of its own."""
    printer = _Printer(part, places)
    watch(printer, run, model, samples)
    return tuple(
        TrainedRange(point=str(place), low=low, high=high, prints=tuple(prints))
        for place, (low, high), prints in zip(places, bounds, printer.prints, strict=True)
    )


class _Printer(Watcher):
    def __init__(self, part: nn.Module, places: Sequence[Place]) -> None:
        super().__init__(part, places)
        self.prints: list[list[Fingerprint]] = [[] for _ in places]

    def look(self, index: int, values: Tensor) -> None:
        self.prints[index].append(fingerprint(values.cpu().numpy()))
