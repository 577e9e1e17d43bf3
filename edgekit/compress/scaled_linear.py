"""Linear layers that multiply what they read, or what they give, channel by channel.

They stay an ``nn.Linear`` with weight and bias under their names, so that exporters, counts and
patterns find them as before. Their forward is their own: what merges or splits plain layers leaves
them.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.state import MAKEABLE, class_name

# LiteRT's converter folds a multiplication by channel into the layer before it, which would undo
# the step, unless the axes are others: rows of three axes are two for its layer (2026-11).
_KEPT_NDIM = 3


class ScaledLinear(nn.Linear):
    """A linear layer with a factor for each channel. Shapes: factor (channels,), a buffer."""

    factor: Tensor

    @classmethod
    def of(cls, layer: nn.Linear, factor: Tensor) -> Self:
        """With the parameters of a layer, not copies of them; the factor is copied."""
        made = cls(layer.in_features, layer.out_features, device="meta")
        made.weight = layer.weight
        made.register_parameter("bias", layer.bias)
        made.register_buffer("factor", factor.to(layer.weight).clone())
        return made.train(layer.training)

    @classmethod
    def empty(cls, attributes: Mapping[str, Any]) -> nn.Module:
        """One to place what was written in; a bias that was not written is none."""
        made = cls(attributes["in_features"], attributes["out_features"], device="meta")
        made.register_parameter("bias", None)
        made.register_buffer("factor", torch.empty(0))
        return made


class MultipliedLinear(ScaledLinear):
    """(x * factor) W^T + b. Shapes: factor (in_features,)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Linear
        """What the layer computed before its weights were scaled, up to rounding."""
        return functional.linear(input * self.factor, self.weight, self.bias)


class SpreadLinear(ScaledLinear):
    """(x W^T + b) * factor. Shapes: factor (out_features,)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Linear
        """What the layer computed before its weights were scaled, up to rounding."""
        even = functional.linear(input, self.weight, self.bias)
        if input.ndim == _KEPT_NDIM:
            return even * self.factor
        return (even.unsqueeze(0) * self.factor).squeeze(0)


@torch.no_grad()
def as_multiplied(layer: nn.Linear, factor: Tensor) -> MultipliedLinear:
    """The same function: the weights that read a channel divided by its factor, in place."""
    layer.weight.div_(factor.to(layer.weight))
    return MultipliedLinear.of(layer, factor)


@torch.no_grad()
def as_spread(layer: nn.Linear, factor: Tensor) -> SpreadLinear:
    """The same function: weight and bias divided by the factor of their channel, in place.

    With powers of two the results have the same bits, as long as no value is so small that its
    float is subnormal.
    """
    layer.weight.div_(factor[:, None])
    if layer.bias is not None:
        layer.bias.div_(factor)
    return SpreadLinear.of(layer, factor)


MAKEABLE.update({class_name(kind): kind.empty for kind in (MultipliedLinear, SpreadLinear)})
