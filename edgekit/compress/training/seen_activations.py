"""A model whose activations are rounded while it runs, at the points that one run has shown.

The points, their ranges at the start and those that come of a training; the artifact is told the
last of these (``trained_ranges``).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.moments import fast_path_off, input_batches
from edgekit.compress.training.activation_points import FoundPoints, find_points
from edgekit.compress.training.activation_ranges import ActivationRanges
from edgekit.compress.training.activation_start import start_ranges
from edgekit.compress.training.function_calls import FunctionCalls, Given, Place
from edgekit.compress.training.trained_ranges import told_ranges
from edgekit.core.errors import StepError
from edgekit.core.steps.rounding import Rounding
from edgekit.graph.ranges import PRINTED_SAMPLES, TrainedRange

# More samples move ranges by a few percent at most, and training moves them anyway.
_START_BATCHES = 16


class RoundedActivations:
    """The points of one model, and how they are rounded."""

    def __init__(
        self,
        part: nn.Module,
        found: FoundPoints,
        ranges: ActivationRanges,
        *,
        left: Iterable[Place],
    ) -> None:
        """part: what the points are in. left: points that are seen as they are."""
        self.ranges, self.left = ranges, tuple(left)
        self._part = part
        self._seen = SeenActivations(part, ranges, found.calls)

    def showing(self) -> Any:
        """A context in which activations are rounded."""
        return self._seen.showing()

    def told(self, model: nn.Module, bench: Bench) -> tuple[TrainedRange, ...]:
        """The ranges as they are now, with what the points hold for the first samples."""
        names = [item.name for item in bench.contract.inputs]
        samples = [
            {name: torch.from_numpy(value).to(bench.device) for name, value in rows.items()}
            for rows in islice(bench.calibration.batches(1, names), PRINTED_SAMPLES)
        ]
        places, bounds = self.ranges.places, self.ranges.bounds()
        return told_ranges(self._part, places, bounds, bench.call, model, samples)

    @property
    def summary(self) -> str:
        """How many points are rounded, for a message."""
        kind = "learned" if self.ranges.is_learned else "moving"
        text = f"activations are rounded to 8 bits at {len(self.ranges.places)} points ({kind} "
        text += "ranges)"
        if self.left:
            text += f"; as they are: {', '.join(map(str, self.left))}"
        return text


def round_activations(
    part: nn.Module, model: nn.Module, bench: Bench, settings: Rounding
) -> RoundedActivations:
    """The points of a model's part with the ranges that calibration gives them.

    Points that hold zeros alone, or masks for a softmax, are left as they are, and so are those
    whose values a model reads past what is put in their place.
    Raises: StepError where there is no point, and for values that are NaN or infinite.
    """
    found = find_points(part, model, bench.call, bench.example())
    starts = start_ranges(part, found.places, bench.call, model, _Again(bench))
    pairs = list(zip(found.places, starts, strict=True))
    usable = [(place, item) for place, item in pairs if item.is_usable]
    if not usable:
        raise StepError(
            "rounding: there is no activation to round: no function with an integer form was seen "
            'on the example; set rounding.activations to "none"'
        )
    places, ranges = zip(*usable, strict=True)
    return RoundedActivations(
        part,
        found,
        ActivationRanges(
            places,
            ranges,
            is_learned=settings.method == "lsq",
            is_symmetric=settings.has_symmetric_activations,
            device=bench.device,
        ),
        left=(*found.left, *(place for place, item in pairs if not item.is_usable)),
    )


class _Again:
    """Calibration inputs, as often as they are gone over."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return input_batches(self._bench, _START_BATCHES)


class SeenActivations(FunctionCalls):
    """Rounds what passes the points of a model while it runs."""

    def __init__(
        self, model: nn.Module, ranges: ActivationRanges, calls: Mapping[tuple[str, str], int]
    ) -> None:
        """calls: how often each module of a point calls its function in a run."""
        super().__init__(model)
        self._root, self._ranges, self._expected = model, ranges, calls
        self._indices = {place: index for index, place in enumerate(ranges.places)}
        self._passed = 0

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Within the block activations are rounded."""
        with fast_path_off(), self.following():
            yield

    def enter(self) -> None:
        """Begin anew."""
        self._passed = 0

    def leave(self, output: Any) -> None:
        """Refuse a run that was another than the one in which the points were found.

        Raises: StepError, naming where they part.
        """
        if output is None:  # an error is on its way
            return
        for key, count in self._expected.items():
            if self.calls[key] != count:
                path, function = key
                raise StepError(
                    f"rounding: module '{path or 'model'}' called {function} {self.calls[key]} "
                    f"times, and {count} times on the example: the model's way hangs on its "
                    'inputs or on training mode; set rounding.activations to "none"'
                )
        if self._passed != len(self._indices):
            raise StepError(
                f"rounding: {len(self._indices) - self._passed} of {len(self._indices)} places "
                "where activations are rounded were not passed: the model's way hangs on its "
                'inputs or on training mode; set rounding.activations to "none"'
            )

    def see(self, place: Place, _: Given, result: Any) -> Any:
        """The result, rounded where it is a point."""
        if isinstance(result, Tensor):
            return self._rounded(place, result)
        if type(result) in (tuple, list):
            items = (
                self._rounded(Place(place.path, place.function, place.call, number), item)
                for number, item in enumerate(result)
            )
            return type(result)(items)
        return result

    def _rounded(self, place: Place, value: Any) -> Any:
        index = self._indices.get(place)
        if index is None or not isinstance(value, Tensor):
            return value
        self._passed += 1
        return self._ranges.see(index, value, is_training=self._root.training)
