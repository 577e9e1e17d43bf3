"""Integer grids for weights: the scale of each channel, the integers, and how they are packed."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[Any]
INT8_MAX, INT4_MIN, INT4_MAX = 127, -8, 7
# ONNX Runtime keeps reduced weights to -64..64 (quant_utils.py, 1.31.1).
REDUCED_MAX = 64
# Errors to this power are summed when a scale is chosen. Squares clip the large weights of a conv
# net too much: ResNet-20 / -56 lose 3.3 / 3.1 points with 2, 0.9 / 1.4 with 3, 2.9 / 1.2 with 4 and
# 3.5 / 0.1 without any clipping (2026-11, INT8 activations, dev set of 2,000 JPEG images).
_ERROR_POWER = 3
_CLIP_RATIOS = np.linspace(0.3, 1.0, 141)
# Of blocks; from the full range down, which wins where nothing is lost. Seven eighths of a scale
# below zero is ONNX Runtime's own.
_BLOCK_RATIOS = np.linspace(1.0, 0.6, 65, dtype=np.float32)
# A table of tokens has hundreds of thousands; so many at once stay in a processor's cache.
_BLOCKS_AT_ONCE = 4096
# Of float16. Steps below the least normal number have fewer bits; those that would have less than
# six are made larger, which is a thirty-second of the largest block's step at most.
_LEAST_NORMAL, _MOST_HALF = 2.0**-14, 65504.0
_LEAST_HALF = np.float32(2.0**-18)


def channel_rows(weight: Array, axis: int) -> Array:
    """One row of weights a channel. Shapes: (..., channels, ...) -> (channels, rest)."""
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)


def int8_scales(weight: Array, axis: int, *, is_range_reduced: bool = False) -> Array:
    """The symmetric scale of each channel that just holds its largest weight."""
    top = REDUCED_MAX if is_range_reduced else INT8_MAX
    return _positive(np.abs(channel_rows(weight, axis)).max(axis=1)) / np.float32(top)


def int4_scales(weight: Array, axis: int) -> Array:
    """The symmetric scale of each channel whose grid -8..7 fits its weights best."""
    rows = channel_rows(weight, axis)
    largest = _positive(np.abs(rows).max(axis=1)) / INT4_MAX
    best, error = largest, np.full(len(rows), np.inf)
    for ratio in _CLIP_RATIOS:
        scales = (largest * ratio).astype(np.float32)
        grid = np.clip(np.rint(rows / scales[:, None]), INT4_MIN, INT4_MAX) * scales[:, None]
        total = (np.abs(grid - rows) ** _ERROR_POWER).sum(axis=1)
        best = np.where(total < error, scales, best)
        error = np.minimum(total, error)
    return best.astype(np.float32)


def int4_blocks(weight: Array, block: int) -> tuple[Array, Array]:
    """The integers -8..7 of each block of inputs, and its scale: the one that loses least.

    A grid has one integer more below zero, so scales of both signs are tried. Weights that are
    whole steps of a block's largest one are found again as they are. Scales are float16 where that
    holds those of the layer, else float32.
    Shapes: (inputs, outputs) -> (outputs, blocks, block) int8, and (outputs, blocks); the last
    block of each row is filled up with zeros.
    """
    rows = weight.T.astype(np.float32)
    missing = -rows.shape[1] % block
    rows = np.pad(rows, ((0, 0), (0, missing))).reshape(-1, block)
    largest = np.abs(rows).max(initial=0) / INT4_MAX
    dtype = np.float16 if _LEAST_NORMAL <= largest <= _MOST_HALF else np.float32
    starts = range(0, len(rows), _BLOCKS_AT_ONCE)
    parts = [_best_blocks(rows[at : at + _BLOCKS_AT_ONCE], dtype) for at in starts]
    values, scales = (np.concatenate(item) for item in zip(*parts, strict=True))
    shape = weight.shape[1], -1, block
    return values.reshape(shape), scales.reshape(shape[:2])


def _best_blocks(rows: Array, dtype: type[np.floating[Any]]) -> tuple[Array, Array]:
    """The same of some blocks. Shapes: (blocks, block) -> the same int8, (blocks,) of ``dtype``."""
    largest = np.abs(rows).max(axis=1)
    full = np.where(largest > 0, largest, INT4_MAX).astype(np.float32) / np.float32(INT4_MAX)
    full = np.maximum(full, _LEAST_HALF) if dtype is np.float16 else full
    best, error = full, np.full(len(rows), np.inf)
    for ratio in _BLOCK_RATIOS:
        size = (full * ratio).astype(dtype).astype(np.float32)
        for scales in (size, -size):
            grid = np.clip(np.rint(rows / scales[:, None]), INT4_MIN, INT4_MAX) * scales[:, None]
            total = ((grid - rows) ** 2).sum(axis=1)
            best = np.where(total < error, scales, best)
            error = np.minimum(total, error)
    values = np.clip(np.rint(rows / best[:, None]), INT4_MIN, INT4_MAX).astype(np.int8)
    return values, best.astype(dtype)


def packed_blocks(values: Array) -> Array:
    """Integers -8..7 as MatMulNBits stores them: 8 is zero, two a byte, the first in the low half.

    Shapes: (outputs, blocks, block) -> (outputs, blocks, block / 2) uint8.
    """
    halves = (values + 8).astype(np.uint8)
    return halves[..., ::2] | (halves[..., 1::2] << 4)


def _positive(values: Array) -> Array:
    # A channel of zeros (pruned) has no scale of its own, and its bias is stored in steps of it:
    # that of the largest channel makes them as fine as others are.
    largest = values.max(initial=0) or 1
    return np.where(values > 0, values, largest).astype(np.float32)


def has_zero_channel(weight: Array, axis: int) -> bool:
    """Whether all weights of some channel are zero."""
    return bool((~channel_rows(weight, axis).any(axis=1)).any())


def round_to_grid(weight: Array, scales: Array, axis: int, low: int, high: int) -> Array:
    """The integers of a weight on a grid, as int8."""
    return np.clip(np.rint(weight / along(scales, axis, weight.ndim)), low, high).astype(np.int8)


def along(scales: Array, axis: int, rank: int) -> Array:
    """Scales shaped to multiply a weight of this rank."""
    return scales.reshape([-1 if index == axis else 1 for index in range(rank)])


def int4_tensor(name: str, values: Array) -> onnx.TensorProto:
    """A packed INT4 constant: two a byte, the first in the low half (ONNX's layout)."""
    flat = values.reshape(-1)
    if flat.size % 2:
        flat = np.append(flat, np.int8(0))
    low, high = flat[::2].astype(np.uint8) & 0xF, flat[1::2].astype(np.uint8) & 0xF
    packed = (low | (high << 4)).astype(np.uint8)
    return onnx.helper.make_tensor(
        name, onnx.TensorProto.INT4, values.shape, packed.tobytes(), raw=True
    )
