"""Pruning by size alone: the smallest weights go, layer by layer or over all layers.

Score: |w|. Source: Han et al. 2015, arXiv:1506.02626 (by layer); Frankle & Carbin 2019,
arXiv:1803.03635, section 3 (over all layers).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from edgekit.compress.sparsity.sparse_pick import kept_anywhere, kept_in_groups


def magnitude_mask(
    weight: Tensor, zeros_ratio: float, *, group: int = 0, keep: Tensor | None = None
) -> Tensor:
    """A mask (True stays) with this share of zeros where the weights are smallest.

    group: neighbours along the last axis that each get the same share; 0 looks at all weights
    together. keep: a mask whose zeros are among those of the result.
    Shapes: the weight's.
    """
    scores = _size(weight)
    there = torch.ones_like(weight, dtype=torch.bool) if keep is None else keep
    if group:
        return kept_in_groups(scores, round(zeros_ratio * group), group, there)
    return kept_anywhere(scores, round(zeros_ratio * weight.numel()), there)


def global_masks(
    weights: Mapping[str, Tensor],
    zeros_ratio: float,
    *,
    keeps: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Masks by name with this share of zeros in all weights together, where they are smallest."""
    there = keeps or {}
    flat = torch.cat([_size(value).reshape(-1).float() for value in weights.values()])
    keep = torch.cat(
        [
            there.get(name, torch.ones_like(value, dtype=torch.bool)).reshape(-1)
            for name, value in weights.items()
        ]
    )
    mask = kept_anywhere(flat, round(zeros_ratio * flat.numel()), keep)
    parts = torch.split(mask, [value.numel() for value in weights.values()])
    return {
        name: part.reshape(value.shape)
        for (name, value), part in zip(weights.items(), parts, strict=True)
    }


def _size(weight: Tensor) -> Tensor:
    """|w| in float32 or more: half precision cannot be ranked on every device."""
    return weight.detach().abs().to(torch.promote_types(weight.dtype, torch.float32))
