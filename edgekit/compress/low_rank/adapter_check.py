"""Whether a model that takes its adapter as an input computes what it would with it merged."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekit.compress.low_rank.adapter_files import Adapter
from edgekit.compress.low_rank.adapters import delta
from edgekit.core.errors import StepError

# Sums of float32 in another order; a product that is missing, or of another sample, is off by
# parts of the whole. Share of the largest value of the output, as exports are held to.
TOLERANCE = 1e-3


def require_same_as_merged(
    model: nn.Module,
    base: nn.Module,
    adapters: Sequence[tuple[Adapter, Tensor]],
    sample: tuple[Tensor, ...],
) -> None:
    """Run a model with each adapter's row, and the base with the same adapter merged.

    model: takes the sample and a row for each; base: takes the sample. Both give tuples.
    Raises: StepError for an adapter that changes nothing, and for one that the model does not
    follow: it reads a weight by itself, or does not keep the batch as its first axis.
    """
    rows = sample[0].shape[0]
    plain = _run(base, sample)
    for adapter, row in adapters:
        wanted = _run(_merged(base, adapter), sample)
        if not any(factor.up.any() and factor.down.any() for factor in adapter.factors.values()):
            raise StepError(
                f"{adapter.folder}: the adapter changes nothing (all its products are zero); it "
                "was never trained"
            )
        # Only the last sample has the adapter: the others must not see it.
        chosen = torch.zeros(rows, len(row))
        chosen[-1] = row
        _compare(adapter, _run(model, (*sample, chosen)), plain, wanted)


def _run(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found: tuple[Tensor, ...] = model(*inputs)
    return found


def _merged(base: nn.Module, adapter: Adapter) -> nn.Module:
    """A copy of the base with an adapter in its weights.

    A layer that shares its weight gets one of its own first: PEFT leaves the other as it was.
    """
    model = copy.deepcopy(base)
    for path, factor in adapter.factors.items():
        layer = model.get_submodule(path)
        weight = layer.get_parameter("weight").detach()
        layer.weight = nn.Parameter(weight + delta(layer, factor).to(weight.dtype))
    return model


def _compare(
    adapter: Adapter,
    found: tuple[Tensor, ...],
    plain: tuple[Tensor, ...],
    wanted: tuple[Tensor, ...],
) -> None:
    for value, without, merged in zip(found, plain, wanted, strict=True):
        expected = torch.cat([without[:-1], merged[-1:]]).double()
        # Scores that are masked are infinite, on both sides.
        is_finite = torch.isfinite(expected)
        is_alike = torch.equal(torch.isfinite(value), is_finite)
        rest = expected.where(is_finite, 0)
        difference = float((value.double().where(is_finite, 0) - rest).abs().max())
        allowed = TOLERANCE * float(rest.abs().max())
        if not (is_alike and difference <= allowed):
            raise StepError(
                f"{adapter.folder}: chosen at run time, the adapter gives outputs that differ by "
                f"{difference:.3g} from those of the model with it merged (rounding is at most "
                f"{allowed:.3g}): the model reads the weight of an adapted layer by itself, or "
                "moves the batch from the first axis; merge this adapter (the step 'lora')"
            )
