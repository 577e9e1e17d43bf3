"""A linear layer whose outputs are computed with even ranges and multiplied by channel afterwards.

It stays an ``nn.Linear`` with its weight and bias under their names, so that exporters, counts and
patterns find it as before. Its forward is its own: what merges or splits plain layers leaves it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.state import MAKEABLE, class_name

# LiteRT's converter folds a multiplication by channel into the layer before it, which would undo
# the step, unless the axes are others: rows of three axes are two for its layer (2026-11).
_KEPT_NDIM = 3


class SpreadLinear(nn.Linear):
    """(x W^T + b) * scale, channel by channel. Shapes: scale (out_features,), a buffer."""

    scale: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, device="meta")
        self.register_buffer("scale", torch.ones(out_features))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Linear
        """What the layer computed before its weights were scaled, up to rounding."""
        even = functional.linear(input, self.weight, self.bias)
        if input.ndim == _KEPT_NDIM:
            return even * self.scale
        return (even.unsqueeze(0) * self.scale).squeeze(0)


def as_spread(layer: nn.Linear, scale: Tensor) -> SpreadLinear:
    """The same function: weight and bias divided by the scale of their channel.

    The parameters are the layer's own, changed in place. With powers of two the results have the
    same bits, as long as no value is so small that its float is subnormal.
    """
    made = SpreadLinear(layer.in_features, layer.out_features)
    with torch.no_grad():
        layer.weight.div_(scale[:, None])
        if layer.bias is not None:
            layer.bias.div_(scale)
    made.weight = layer.weight
    made.register_parameter("bias", layer.bias)
    made.scale = scale.to(layer.weight)
    return made.train(layer.training)


def _make(attributes: Mapping[str, Any]) -> nn.Module:
    made = SpreadLinear(attributes["in_features"], attributes["out_features"])
    made.register_parameter("bias", None)  # one that is written is placed
    return made


MAKEABLE[class_name(SpreadLinear)] = _make
