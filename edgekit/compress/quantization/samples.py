"""What one layer gets in a model whose earlier layers are rounded, and what it should give.

Places (pixels, tokens) are drawn alike from the float model and the rounded one, so that what comes
in is what the artifact will have there, and what is wanted is what the float model gives.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.layer_inputs import input_vectors
from edgekit.compress.moments import BATCH_SAMPLES, input_batches
from edgekit.compress.quantization.part_runs import run_to
from edgekit.compress.sparsity.sparse_layers import SparseWeight
from edgekit.core.errors import StepError

_FLOAT_BYTES = 4
# Two batches of one run never draw alike.
_SEED_STRIDE = 1_000_003


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSamples:
    """Samples of one layer. rows: of the weight's matrix that are in one group.

    Shapes: inputs (groups, places, columns), wanted (groups, places, rows), without the bias.
    """

    inputs: Tensor
    wanted: Tensor


def draw_samples(
    bench: Bench, reference: nn.Module, item: SparseWeight, *, calls: int, limit_bytes: int
) -> LayerSamples | None:
    """Samples of one layer of the model on the bench; None where the model does not call it.

    reference: the same model with float weights. calls: of the layer in one run, 0 if unknown.
    Raises: StepError for a layer that gets NaN or infinity.
    """
    weight = item.matrix(_weight_of(reference, item))
    columns = weight.shape[1]
    weight = weight.reshape(item.groups, -1, columns)
    place_bytes = _FLOAT_BYTES * (item.groups * columns + weight.shape[0] * weight.shape[1])
    batches = ceil(bench.calibration.count / BATCH_SAMPLES)
    quota = max(1, limit_bytes // place_bytes // (batches * max(1, calls)))
    inputs: list[Tensor] = []
    wanted: list[Tensor] = []
    for number, batch in enumerate(input_batches(bench)):
        seed = bench.seed * _SEED_STRIDE + number
        floats = _Draw(item, quota, seed)
        run_to(bench, reference, item.path, batch, floats.see, calls=calls)
        wanted += [part @ weight.transpose(1, 2) for part in floats.found]
        rounded = _Draw(item, quota, seed)
        run_to(bench, bench.model, item.path, batch, rounded.see, calls=calls)
        inputs += rounded.found
    if not inputs:
        return None
    return _checked(LayerSamples(inputs=torch.cat(inputs, 1), wanted=torch.cat(wanted, 1)), item)


class _Draw:
    """Draws places out of all that a layer gets in one batch."""

    def __init__(self, item: SparseWeight, quota: int, seed: int) -> None:
        self._item, self._quota = item, quota
        self._draws = torch.Generator().manual_seed(seed)
        self.found: list[Tensor] = []

    def see(self, given: Tensor, output: Tensor) -> None:
        """Keep as many places of one call as the quota allows."""
        rows = self._item.matrix(self._item.parameter).shape[0]
        share = min(1.0, self._quota * rows / max(1, output.numel()))
        self.found += self._drawn(given, share)

    def _drawn(self, given: Tensor, share: float) -> Iterator[Tensor]:
        for vectors in input_vectors(self._item, given):
            count = vectors.shape[1]
            chosen = torch.randperm(count, generator=self._draws)[: ceil(share * count)]
            yield vectors[:, chosen.sort().values.to(vectors.device)]


def _weight_of(model: nn.Module, item: SparseWeight) -> Tensor:
    leaf = item.name.rpartition(".")[2]
    weight: Tensor = getattr(model.get_submodule(item.path), leaf)
    return weight.detach().float()


def _checked(samples: LayerSamples, item: SparseWeight) -> LayerSamples:
    if not bool(samples.inputs.isfinite().all() and samples.wanted.isfinite().all()):
        raise StepError(
            f"layer '{item.path}' gets NaN or infinity on the calibration data; check the weights "
            "and the samples"
        )
    return samples
