"""Which layers a model only calls, and which it looks into: those cannot become something else."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.masks import copy_model
from edgekit.compress.thin_layers import chain_of, replace_module

# What a model's own code raises when a layer is no longer of the class that it expects.
_FAULTS = (AttributeError, TypeError, LookupError, ValueError, RuntimeError)
# torch's fused transformer layers round otherwise than their parts.
_TOLERANCE = 1e-3


def refused_by_model(bench: Bench, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Layers that the model cannot do without as they are, with the reason.

    Each is put into a chain of itself alone, in a copy: a model that reads a layer's
    ``weight``, as ``nn.MultiheadAttention`` does, then fails or says something else.
    """
    if not layers:
        return {}
    with torch.no_grad():
        wanted = bench.call(bench.model.eval(), bench.example())
    model = copy_model(bench.model)
    if not _fault(bench, model, list(layers), wanted):
        return {}
    reasons = {path: _fault(bench, model, [path], wanted) for path in layers}
    return {path: reason for path, reason in reasons.items() if reason}


def _fault(
    bench: Bench, model: nn.Module, paths: Sequence[str], wanted: Mapping[str, Tensor]
) -> str:
    """What goes wrong while these layers are wrapped; "" if nothing."""
    before = {path: model.get_submodule(path) for path in paths}
    wrapped = model
    for path, layer in before.items():
        wrapped = replace_module(wrapped, path, chain_of(layer, layer))
    try:
        with torch.no_grad():
            found = bench.call(wrapped, bench.example())
    except torch.OutOfMemoryError:
        raise
    except _FAULTS as error:
        return f"the model reads it itself and does not only call it ({error})"
    finally:
        for path, layer in before.items():
            replace_module(wrapped, path, layer)
    for name, value in wanted.items():
        if not torch.allclose(found[name], value, rtol=_TOLERANCE, atol=_TOLERANCE):
            return "the model computes something else when it is replaced"
    return ""
