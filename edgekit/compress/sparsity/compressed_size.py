"""What zeros buy without any engine that knows them: bytes after lossless compression."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_LEVEL = 9
_INT8_MAX = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedBytes:
    """zlib (level 9) of all weights of two or more axes, one after another.

    float32: of the weights as they are. int8: of their rounding to whole numbers, one symmetric
    scale for each index of the first axis.
    """

    float32: int
    int8: int


def compressed_bytes(model: nn.Module) -> CompressedBytes:
    """How small a model's weights get."""
    return CompressedBytes(
        float32=_deflated(value.float() for value in _weights(model)),
        int8=_deflated(rounded_to_int8(value) for value in _weights(model)),
    )


def rounded_to_int8(weight: Tensor) -> Tensor:
    """A weight on a symmetric grid of 8 bits with a scale a row, as int8. Zeros stay zeros.

    Formula: round(127 * w / max |w|), the maximum over the row. Shapes: the weight's.
    """
    rows = weight.detach().float().flatten(1)
    largest = rows.abs().amax(dim=1, keepdim=True)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest)) / _INT8_MAX
    return (rows / scale).round().to(torch.int8).reshape(weight.shape)


def _weights(model: nn.Module) -> Iterator[Tensor]:
    for value in model.parameters():
        if value.ndim >= 2 and value.is_floating_point():
            yield value.detach().cpu()


def _deflated(tensors: Iterator[Tensor]) -> int:
    stream = zlib.compressobj(_LEVEL)
    total = 0
    for value in tensors:
        total += len(stream.compress(value.contiguous().numpy().tobytes()))
    return total + len(stream.flush())
