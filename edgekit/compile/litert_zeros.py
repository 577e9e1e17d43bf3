"""Scales of channels and blocks whose weights are all zero, as pruning leaves them.

ai-edge-quantizer 0.10 gives such a channel the scale 1e-9 / 127. Its bias is stored in steps of
that times the input's scale, overflows int32 and is lost; OCTAV's scale is 0, and XNNPACK refuses
to load the file. Any scale holds zeros, so they get that of the layer's largest weight.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from ai_edge_quantizer.algorithms.uniform_quantize import uniform_quantize_tensor as target
from numpy.typing import NDArray

# Its own floor for the largest weight of a channel (uniform_quantize_tensor.py).
_FLOOR = 1e-9


@contextmanager
def zeros_scaled() -> Iterator[None]:
    """Within the block ai-edge-quantizer gives channels of zeros a scale of their layer."""
    original = target.tensor_zp_scale_from_min_max

    def scaled(
        low: Any,
        high: Any,
        bits: int,
        symmetric: bool,
        granularity: Any,
        clipping_values: Any = None,
        signed: bool = True,
    ) -> Any:
        if symmetric:  # weights: activations are calibrated as they come, with a zero point
            low, high, clipping_values = _filled(low, high, clipping_values)
        return original(low, high, bits, symmetric, granularity, clipping_values, signed)

    target.tensor_zp_scale_from_min_max = scaled
    try:
        yield
    finally:
        target.tensor_zp_scale_from_min_max = original


def _filled(
    low: NDArray[Any], high: NDArray[Any], clipping: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """Ranges (and clipping values) of weights with those of zeros as wide as the widest."""
    bound = np.maximum(np.abs(low), np.abs(high))
    is_zero = bound <= _FLOOR
    if not is_zero.any():
        return low, high, clipping
    widest = float(bound.max()) if not is_zero.all() else 1.0
    if clipping is not None:
        clipped = float(clipping[~is_zero].max()) if not is_zero.all() else widest
        clipping = np.where(is_zero, np.float32(clipped), clipping)
    wide = np.float32(widest)
    return np.where(is_zero, -wide, low), np.where(is_zero, wide, high), clipping
