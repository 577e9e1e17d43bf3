"""What comes into layers, channel by channel, on calibration data: ranges, means, some vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.layer_inputs import input_vectors, run_watched
from edgekit.compress.moments import BATCH_SAMPLES, channel_rows
from edgekit.compress.sparsity.sparse_layers import SparseWeight
from edgekit.core.errors import StepError


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelInputs:
    """One layer's inputs over all calibration data.

    low, high: the smallest and the largest value of each channel. mean: of the absolute values.
    rows: some of the vectors that the weight is multiplied with, evenly out of all batches.
    Shapes: (inputs,) three times; rows (groups, vectors, columns) as ``input_vectors`` has them.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    rows: Tensor

    @property
    def largest(self) -> Tensor:
        """The largest absolute value of each channel. Shapes: (inputs,)."""
        return torch.maximum(self.high, -self.low).clamp_min(0)


def observe_channels(
    bench: Bench, model: nn.Module, weights: Sequence[SparseWeight], *, rows: int = 0
) -> dict[str, ChannelInputs]:
    """The inputs of each layer by the weight's name; layers that are never called are left out.

    rows: vectors to keep of each layer, about.
    Raises: StepError for a layer that gets NaN or infinity.
    """
    batches = -(-bench.calibration.count // BATCH_SAMPLES)
    meters = {item.name: _Meter(item, -(-rows // max(1, batches))) for item in weights}
    run_watched(bench, model, meters.values())
    return {name: meter.inputs() for name, meter in meters.items() if meter.is_called}


def column_factors(weight: SparseWeight, factors: Tensor) -> Tensor:
    """Factors of a layer's inputs as its matrix has them, the taps of a kernel side by side.

    Shapes: (inputs,) -> (groups, 1, columns).
    """
    columns = weight.matrix(weight.parameter).shape[1]
    split = factors.reshape(weight.groups, 1, -1)
    return split.repeat(1, 1, columns // split.shape[-1])


class _Meter:
    """Looks at what one layer gets."""

    def __init__(self, weight: SparseWeight, quota: int) -> None:
        """quota: vectors to keep of each call."""
        self._weight, self._quota = weight, quota
        self._low: Tensor | None = None
        self._high: Tensor | None = None
        self._sum: Tensor | None = None
        self._count = 0
        self._rows: list[Tensor] = []

    @property
    def is_called(self) -> bool:
        return self._sum is not None

    def attach(self) -> torch.utils.hooks.RemovableHandle:
        return self._weight.module.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, _: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        given: Tensor = args[0] if args else next(iter(named.values()))
        values = channel_rows(self._weight.module, given).float()
        low, high = values.amin(dim=0), values.amax(dim=0)
        # The sums of one batch lose little in float32; over all batches they would.
        total = values.abs().sum(dim=0).double()
        self._low = low if self._low is None else torch.minimum(self._low, low)
        self._high = high if self._high is None else torch.maximum(self._high, high)
        self._sum = total if self._sum is None else self._sum + total
        self._count += len(values)
        if self._quota:
            self._keep(given)

    def _keep(self, given: Tensor) -> None:
        parts = list(input_vectors(self._weight, given))
        share = -(-self._quota // len(parts))
        for part in parts:
            found = part.shape[1]
            places = torch.linspace(0, found - 1, min(found, share)).round().long()
            self._rows.append(part[:, places.to(part.device)].clone())

    def inputs(self) -> ChannelInputs:
        if self._low is None or self._high is None or self._sum is None:
            raise AssertionError(self._weight.name)
        if not bool(self._sum.isfinite().all()):
            raise StepError(
                f"layer '{self._weight.path}' gets NaN or infinity on the calibration data; check "
                "the weights and the samples"
            )
        rows = torch.cat(self._rows, dim=1) if self._rows else torch.empty(0)
        return ChannelInputs(
            low=self._low, high=self._high, mean=self._sum / self._count, rows=rows
        )
