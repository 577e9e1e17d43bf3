"""Between the contract's real values and what an artifact stores: the one place that scales.

A quantized artifact takes integers: ``stored = round(real / scale) + zero_point``, saturated, and
gives ``real = (stored - zero_point) * scale``. Ties round to even, as LiteRT's optimized kernels
and ONNX's QuantizeLinear do (LiteRT's reference kernels round them away from zero; measured with
ai-edge-litert 2.3.0 on a model of one QUANTIZE, see tests/runtime/test_scaling.py).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from edgekit.core.errors import InputError, SessionError
from edgekit.data.preprocess import cast_exactly
from edgekit.runtime.engine import Array, EngineTensor

Conversion = Callable[[Array], Array]


def to_stored(array: Array, tensor: EngineTensor) -> Array:
    """Real values as an engine's input tensor stores them; integers pass as they are.

    Raises: SessionError where a dtype cannot be turned into the tensor's, or a value is NaN.
    """
    return storing(array.dtype, tensor, where=f"input '{tensor.name}'")(array)


def from_stored(array: Array, tensor: EngineTensor, dtype: str = "float32") -> Array:
    """An engine's output tensor as real values of the contract's dtype.

    Raises: SessionError where the tensor has no scale and another kind of dtype.
    """
    return reading(np.dtype(dtype), tensor, where=f"output '{tensor.name}'")(array)


def storing(dtype: np.dtype[Any], tensor: EngineTensor, *, where: str) -> Conversion:
    """What turns an input of the contract's dtype into C-ordered values of the artifact's.

    Raises: SessionError where there is no such conversion; the conversion raises it for values
    that the artifact cannot hold.
    """
    stored = tensor.dtype
    if stored == dtype:
        return np.ascontiguousarray
    if _is_quantized(dtype, tensor):
        return partial(
            _quantize,
            scale=np.float32(tensor.scale),
            zero_point=np.float32(tensor.zero_point),
            limits=_limits(stored, where),
            stored=stored,
            where=where,
        )
    if dtype.kind == "f" and stored.kind == "f":
        return partial(np.ascontiguousarray, dtype=stored)
    if dtype.kind in "iu" and stored.kind in "iu" and tensor.scale == 0.0:
        return partial(_cast_whole, dtype=stored, where=where)
    raise SessionError(f"{where}: the artifact stores {stored}, the contract says {dtype}")


def reading(dtype: np.dtype[Any], tensor: EngineTensor, *, where: str) -> Conversion:
    """What turns an output of the artifact's into the contract's dtype.

    Raises: SessionError where there is no such conversion.
    """
    stored = tensor.dtype
    if stored == dtype:
        return _as_it_is
    if _is_quantized(dtype, tensor):
        return partial(
            _dequantize, scale=np.float32(tensor.scale), zero_point=np.float32(tensor.zero_point)
        )
    if dtype.kind == "f" and stored.kind == "f":
        return partial(np.asarray, dtype=dtype)
    if dtype.kind in "iu" and stored.kind in "iu" and tensor.scale == 0.0:
        return partial(_cast_whole, dtype=dtype, where=where)
    raise SessionError(f"{where}: the artifact gives {stored}, the contract says {dtype}")


def _is_quantized(dtype: np.dtype[Any], tensor: EngineTensor) -> bool:
    return dtype == np.float32 and tensor.scale > 0.0 and tensor.dtype.kind in "iu"


def _as_it_is(array: Array) -> Array:
    return array


def _limits(stored: np.dtype[Any], where: str) -> tuple[np.float32, np.float32]:
    info = np.iinfo(stored)
    if info.bits > 16:
        # float32 cannot hold the bounds of 32 bits, so saturation would overflow.
        raise SessionError(f"{where}: is quantized to {stored}; 8 or 16 bits are served")
    return np.float32(info.min), np.float32(info.max)


def _quantize(
    real: Array,
    *,
    scale: np.float32,
    zero_point: np.float32,
    limits: tuple[np.float32, np.float32],
    stored: np.dtype[Any],
    where: str,
) -> Array:
    # Infinities saturate; NaN passes through to the cast, which then raises.
    try:
        with np.errstate(over="ignore", invalid="raise"):
            levels = np.divide(real, scale, order="C")
            np.rint(levels, out=levels)
            np.add(levels, zero_point, out=levels)
            levels.clip(limits[0], limits[1], out=levels)
            return levels.astype(stored)
    except FloatingPointError as fault:
        raise SessionError(f"{where}: holds NaN, which no integer stands for") from fault


def _dequantize(stored: Array, *, scale: np.float32, zero_point: np.float32) -> Array:
    real: Array = np.subtract(stored, zero_point, dtype=np.float32)
    np.multiply(real, scale, out=real)
    return real


def _cast_whole(array: Array, *, dtype: np.dtype[Any], where: str) -> Array:
    try:
        return np.ascontiguousarray(cast_exactly(array, dtype, where=where))
    except InputError as fault:
        raise SessionError(str(fault)) from fault
