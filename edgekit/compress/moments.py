"""What layers get and give on calibration data: first and second moments, in bounded memory.

A hook on each layer adds up sums while the model runs; activations themselves are never kept.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.judge import restore_modes, training_modes
from edgekit.core.errors import StepError

Side = Literal["inputs", "outputs"]
Sides = frozenset[Side]

BATCH_SAMPLES = 32
# Moments that are gathered in one pass over the data; more layers than fit take more passes.
MOMENT_BYTES = 512 * 2**20
_ELEMENT_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Mean of vectors and of their outer products. Shapes: (n,), (n, n), float64 on the CPU."""

    mean: Tensor
    second: Tensor

    @property
    def covariance(self) -> Tensor:
        """The second moment about the mean."""
        return self.second - torch.outer(self.mean, self.mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What passes through one layer.

    positions_in, positions_out: vectors a sample (pixels, tokens; over all calls of a layer that
    is called more than once). power: mean square of the elements that go in. moments: of the
    channels that go in, or come out without the bias, as far as they were asked for.
    """

    positions_in: float
    positions_out: float
    power: float
    moments: Mapping[Side, Moment] = field(default_factory=dict)


def observe(
    bench: Bench, model: nn.Module, wanted: Mapping[str, Sides], *, batches: int = 0
) -> dict[str, Traffic]:
    """The traffic of the named layers on the calibration data; layers never called are left out.

    batches: at most so many; 0 for all. The hooks are gone afterwards, whatever happens.
    Raises: StepError for a layer that gets NaN or infinity.
    """
    meters = {path: _Meter(model.get_submodule(path), sides) for path, sides in wanted.items()}
    modes = training_modes(model)
    model.eval()
    hooks = [meter.attach() for meter in meters.values()]
    seen = 0
    try:
        with torch.no_grad(), fast_path_off():
            for inputs in input_batches(bench, batches):
                bench.call(model, inputs)
                seen += len(next(iter(inputs.values())))
    finally:
        for hook in hooks:
            hook.remove()
        restore_modes(modes)
    return {path: meter.traffic(path, seen) for path, meter in meters.items() if meter.is_called}


def in_groups(
    sizes: Mapping[str, Mapping[Side, int]], limit_bytes: int = MOMENT_BYTES
) -> Iterator[dict[str, Sides]]:
    """Layers in groups whose moments fit into memory together; a large one goes alone.

    sizes: by layer and side, how many channels.
    """
    group: dict[str, Sides] = {}
    filled = 0
    for path, sides in sizes.items():
        needed = sum(_ELEMENT_BYTES * channels**2 for channels in sides.values())
        if group and filled + needed > limit_bytes:
            yield group
            group, filled = {}, 0
        group[path] = frozenset(sides)
        filled += needed
    if group:
        yield group


@contextmanager
def fast_path_off() -> Iterator[None]:
    """Make fused transformer layers of torch call their parts, within the block."""
    was_on = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(value=was_on)


def channel_rows(layer: nn.Module, value: Tensor) -> Tensor:
    """What a layer gets or gives, as vectors over channels.

    Shapes: (..., channels) of a linear layer, (n, channels, ...) of a convolution -> (rows,
    channels).
    """
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        if value.ndim == len(layer.kernel_size) + 1:  # a sample without a batch axis
            value = value.unsqueeze(0)
        value = value.movedim(1, -1)
    return value.reshape(-1, value.shape[-1])


def input_batches(
    bench: Bench, batches: int = 0, *, half: int | None = None
) -> Iterator[dict[str, Tensor]]:
    """Calibration inputs on the device of the bench; ``batches`` at most, 0 for all.

    half: of every two samples the first (0) or the second (1) alone; None for both.
    """
    names = [item.name for item in bench.contract.inputs]
    rows = bench.calibration.batches(BATCH_SAMPLES, names)
    for number, values in enumerate(islice(rows, batches or None)):
        chosen = _of_half(values, number * BATCH_SAMPLES, bench.calibration.repeats, half)
        if len(next(iter(chosen.values()))):
            yield {name: torch.from_numpy(value).to(bench.device) for name, value in chosen.items()}


def _of_half(
    values: dict[str, NDArray[Any]], start: int, repeats: int, half: int | None
) -> dict[str, NDArray[Any]]:
    """The rows of a batch that are in a half. repeats: rows in a row of one sample."""
    if half is None:
        return values
    count = len(next(iter(values.values())))
    is_in = (start + np.arange(count)) // repeats % 2 == half
    return {name: value[is_in] for name, value in values.items()}


class _Meter:
    """Adds up what one layer gets and gives."""

    def __init__(self, layer: nn.Module, sides: Sides) -> None:
        self._layer, self._sides = layer, sides
        self._rows: dict[Side, int] = {"inputs": 0, "outputs": 0}
        self._first: dict[Side, Tensor] = {}
        self._second: dict[Side, Tensor] = {}
        self._power = 0.0

    @property
    def is_called(self) -> bool:
        return self._rows["inputs"] > 0

    def attach(self) -> torch.utils.hooks.RemovableHandle:
        return self._layer.register_forward_hook(self._see, with_kwargs=True)

    def _see(
        self, layer: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any], output: Tensor
    ) -> None:
        given: Tensor = args[0] if args else next(iter(named.values()))
        rows = channel_rows(layer, given).float()
        self._power += rows.double().square().mean(dim=1).sum().item()
        self._add("inputs", rows)
        bias = layer.bias
        result = channel_rows(layer, output).float()
        self._add("outputs", result - bias.float() if isinstance(bias, Tensor) else result)

    def _add(self, side: Side, rows: Tensor) -> None:
        self._rows[side] += len(rows)
        if side not in self._sides:
            return
        # The sums of one batch lose little in float32; over all batches they would.
        first, second = rows.sum(dim=0).double(), (rows.T @ rows).double()
        if side in self._first:
            self._first[side] += first
            self._second[side] += second
        else:
            self._first[side], self._second[side] = first, second

    def traffic(self, path: str, samples: int) -> Traffic:
        power = self._power / self._rows["inputs"]
        moments = {
            side: Moment(
                mean=(self._first[side] / self._rows[side]).cpu(),
                second=(self._second[side] / self._rows[side]).cpu(),
            )
            for side in self._second
        }
        sums = [moment.second for moment in moments.values()]
        if not all(bool(torch.isfinite(item).all()) for item in [torch.tensor(power), *sums]):
            raise StepError(
                f"layer '{path}' gets or gives NaN or infinity on the calibration data; check the "
                "weights and the samples"
            )
        return Traffic(
            positions_in=self._rows["inputs"] / samples,
            positions_out=self._rows["outputs"] / samples,
            power=power,
            moments=moments,
        )
