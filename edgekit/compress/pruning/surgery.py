"""Cutting channels out of a model's tensors, and telling its layers their new sizes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from edgekit.compress.pruning.channel_graph import ChannelGraph
from edgekit.compress.pruning.channel_trace import named_tensors


def kept_indices(graph: ChannelGraph, roots: Sequence[int]) -> dict[str, list[Tensor | None]]:
    """What stays of each tensor that loses something, by its name.

    Shapes: one entry an axis: the indices that stay, None for all.
    """
    table = graph.removal(roots)
    found: dict[str, list[Tensor | None]] = {}
    axes: dict[str, int] = {}
    for name, axis in graph.slots:
        axes[name] = max(axes.get(name, 0), axis + 1)
    for (name, axis), labels in graph.slots.items():
        gone = table[graph.coupling.roots(labels)]
        if gone.any():
            kept = torch.from_numpy(np.flatnonzero(~gone))
            found.setdefault(name, [None] * axes[name])[axis] = kept
    return found


def narrow(value: Tensor, kept: Sequence[Tensor | None]) -> Tensor:
    """A tensor with what stays of each axis."""
    for axis, indices in enumerate(kept):
        if indices is not None:
            value = value.index_select(axis, indices.to(value.device))
    return value


def cut_(model: nn.Module, graph: ChannelGraph, roots: Sequence[int]) -> None:
    """Take units out of a model's parameters and buffers; layers of torch learn their new sizes.

    Tied parameters stay tied. A module that keeps sizes of its own does not know of it yet.
    """
    kept = kept_indices(graph, roots)
    for name, value in named_tensors(model):
        if name in kept:
            _replace(model, value, narrow(value.detach(), kept[name]))
    table = graph.removal(roots)
    for path, module in model.named_modules():
        _fit(module, is_whole=f"{path}.weight" in graph.whole_groups)
        widths = graph.norm_widths.get(path)
        if widths is not None:
            sizes = [int((~table[graph.coupling.roots(labels)]).sum()) for labels in widths]
            _fit_norm(module, tuple(sizes))


def _replace(model: nn.Module, old: Tensor, new: Tensor) -> None:
    """Put a tensor in every place of another."""
    value = new.contiguous()
    if isinstance(old, nn.Parameter):
        value = nn.Parameter(value, requires_grad=old.requires_grad)
    for module in model.modules():
        for holder in (module._parameters, module._buffers):  # noqa: SLF001  # setting by name would untie
            for key, there in holder.items():
                if there is old:
                    holder[key] = value  # type: ignore[assignment]


def _fit(module: nn.Module, *, is_whole: bool) -> None:
    for kind, fit in _FITTERS.items():
        if isinstance(module, kind):
            fit(module, is_whole)


def _fit_linear(module: Any, _: bool) -> None:
    module.out_features, module.in_features = module.weight.shape


def _fit_convolution(module: Any, is_whole: bool) -> None:
    outer, inner = (1, 0) if module.transposed else (0, 1)
    per_group = module.weight.shape[outer if module.transposed else inner]
    if is_whole:
        old = module.in_channels if module.transposed else module.out_channels
        module.groups = module.groups * module.weight.shape[0] // old
    if module.transposed:
        module.in_channels = module.weight.shape[0]
        module.out_channels = per_group * module.groups
    else:
        module.out_channels = module.weight.shape[0]
        module.in_channels = per_group * module.groups


def _fit_batch_norm(module: Any, _: bool) -> None:
    value = module.weight if module.weight is not None else module.running_mean
    if value is not None:
        module.num_features = value.shape[0]


def _fit_embedding(module: Any, _: bool) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _fit_prelu(module: Any, _: bool) -> None:
    module.num_parameters = module.weight.shape[0]


def _fit_norm(module: nn.Module, sizes: tuple[int, ...]) -> None:
    """Layer and group norms, which know their sizes even where they have no weights."""
    if isinstance(module, nn.GroupNorm):
        module.num_channels, module.num_groups = sizes
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = sizes


_FITTERS: Mapping[type[nn.Module], Callable[[Any, bool], None]] = {
    nn.Linear: _fit_linear,
    _ConvNd: _fit_convolution,
    _NormBase: _fit_batch_norm,
    nn.Embedding: _fit_embedding,
    nn.PReLU: _fit_prelu,
}
