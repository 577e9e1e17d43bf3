"""Grids of integers that weights are stored on, and what shares a step."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


def in_blocks(values: Tensor, size: int) -> Tensor:
    """The last axis in blocks, the last of them filled up with zeros.

    Shapes: (..., columns) -> (..., blocks, size).
    """
    missing = -values.shape[-1] % size
    filled = functional.pad(values, (0, missing)) if missing else values
    return filled.reshape(*values.shape[:-1], filled.shape[-1] // size, size)


def out_of_blocks(blocks: Tensor, columns: int) -> Tensor:
    """Blocks in a row again, without what they were filled up with. Shapes: (..., columns)."""
    return blocks.flatten(-2)[..., :columns]


def has_blocks(columns: int, block_size: int, *, has_short: bool) -> bool:
    """Whether columns share scales in blocks. has_short: the last one may have fewer of them."""
    return block_size > 0 and (has_short or columns % block_size == 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundedLayer:
    """One weight and its grid. axis: of its output channels. top: the largest integer.

    has_short_blocks: the last block of a row may be short; without it columns that are no whole
    blocks have a scale for each channel.
    """

    path: str
    weight: nn.Parameter
    axis: int
    bits: int
    top: int
    block_size: int = 0
    has_short_blocks: bool = False

    @property
    def has_blocks(self) -> bool:
        """Whether its columns have a scale for each block."""
        return has_blocks(self._columns, self.block_size, has_short=self.has_short_blocks)

    @property
    def _columns(self) -> int:
        return self.weight.numel() // self.weight.shape[self.axis]

    def rows(self, values: Tensor) -> Tensor:
        """Values of the weight's shape, those that share a step in a row."""
        flat = values.movedim(self.axis, 0).flatten(1)
        return in_blocks(flat, self.block_size).flatten(0, 1) if self.has_blocks else flat

    def restored(self, rows: Tensor) -> Tensor:
        """The weight's shape again."""
        shape = self.weight.movedim(self.axis, 0).shape
        if self.has_blocks:
            rows = out_of_blocks(rows.reshape(shape[0], -1, self.block_size), self._columns)
        return rows.reshape(shape).movedim(0, self.axis)


def on_grid(
    weight: Tensor, *, axis: int, top: int, block_size: int = 0, has_short_blocks: bool = False
) -> Tensor:
    """The nearest values of a symmetric grid that just holds each channel's largest weight.

    With block_size, ``block_size`` neighbours in the last axis of a matrix share a scale; columns
    that are no multiple of it have a scale for each channel, or with has_short_blocks a last block
    of fewer.
    Shapes: any with the axis ``axis`` -> the same.
    """
    rows = weight.movedim(axis, 0)
    shape = rows.shape
    rows = rows.flatten(1)
    columns = rows.shape[1]
    is_split = has_blocks(columns, block_size, has_short=has_short_blocks)
    rows = in_blocks(rows, block_size if is_split else columns)
    largest = rows.abs().amax(dim=-1, keepdim=True)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest)) / top
    if is_split:
        scale = short_scales(scale)
    found = out_of_blocks((rows / scale).round().mul(scale), columns)
    return found.reshape(shape).movedim(0, axis)


def short_scales(scales: Tensor) -> Tensor:
    """Scales of blocks as a .tflite stores them: float16 with 7 bits of mantissa. Same dtype.

    Source: ai-edge-quantizer 0.10, quantize_tensor.py (blockwise); ONNX Runtime's are float32.
    """
    least = torch.finfo(torch.float16).smallest_normal
    return scales.clamp_min(least).bfloat16().to(scales.dtype)
