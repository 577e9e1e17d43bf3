"""A linear layer whose inputs are multiplied by channel before its weight reads them.

It stays an ``nn.Linear`` with its weight and bias under their names, so that exporters, counts and
patterns find it as before. Its forward is its own: what merges or splits plain layers leaves it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.state import MAKEABLE, class_name


class MultipliedLinear(nn.Linear):
    """(x * factor) W^T + b. Shapes: factor (in_features,), a buffer."""

    factor: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, device="meta")
        self.register_buffer("factor", torch.ones(in_features))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name in nn.Linear
        """What the layer computed before its weights were scaled, up to rounding."""
        return functional.linear(input * self.factor, self.weight, self.bias)


def as_multiplied(layer: nn.Linear, factor: Tensor) -> MultipliedLinear:
    """The same function: the weights that read a channel divided by its factor.

    The parameters are the layer's own, changed in place; the factor is copied.
    """
    made = MultipliedLinear(layer.in_features, layer.out_features)
    with torch.no_grad():
        layer.weight.div_(factor.to(layer.weight))
    made.weight = layer.weight
    made.register_parameter("bias", layer.bias)
    made.factor = factor.to(layer.weight).clone()
    return made.train(layer.training)


def _make(attributes: Mapping[str, Any]) -> nn.Module:
    made = MultipliedLinear(attributes["in_features"], attributes["out_features"])
    made.register_parameter("bias", None)  # one that is written is placed
    return made


MAKEABLE[class_name(MultipliedLinear)] = _make
