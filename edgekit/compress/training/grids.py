"""Grids of integers that weights are stored on, and what shares a step."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundedLayer:
    """One weight and its grid. axis: of its output channels. top: the largest integer."""

    path: str
    weight: nn.Parameter
    axis: int
    bits: int
    top: int
    block_size: int = 0

    @property
    def has_blocks(self) -> bool:
        """Whether its columns are whole blocks, which have a scale each."""
        columns = self.weight.numel() // self.weight.shape[self.axis]
        return self.block_size > 0 and columns % self.block_size == 0

    def rows(self, values: Tensor) -> Tensor:
        """Values of the weight's shape, those that share a step in a row."""
        flat = values.movedim(self.axis, 0).flatten(1)
        return flat.reshape(-1, self.block_size) if self.has_blocks else flat

    def restored(self, rows: Tensor) -> Tensor:
        """The weight's shape again."""
        shape = self.weight.movedim(self.axis, 0).shape
        return rows.reshape(shape).movedim(0, self.axis)


def on_grid(weight: Tensor, *, axis: int, top: int, block_size: int = 0) -> Tensor:
    """The nearest values of a symmetric grid that just holds each channel's largest weight.

    With block_size, ``block_size`` neighbours in the last axis of a matrix share a scale; columns
    that are no multiple of it have a scale for each channel.
    Shapes: any with the axis ``axis`` -> the same.
    """
    rows = weight.movedim(axis, 0)
    shape = rows.shape
    rows = rows.flatten(1)
    has_blocks = block_size > 0 and rows.shape[1] % block_size == 0
    if has_blocks:
        rows = rows.reshape(-1, block_size)
    largest = rows.abs().amax(dim=1, keepdim=True)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest)) / top
    if has_blocks:
        scale = short_scales(scale)
    return (rows / scale).round().mul(scale).reshape(shape).movedim(0, axis)


def short_scales(scales: Tensor) -> Tensor:
    """Scales of blocks as a .tflite stores them: float16 with 7 bits of mantissa. Same dtype.

    Source: ai-edge-quantizer 0.10, quantize_tensor.py (blockwise); ONNX Runtime's are float32.
    """
    least = torch.finfo(torch.float16).smallest_normal
    return scales.clamp_min(least).bfloat16().to(scales.dtype)
