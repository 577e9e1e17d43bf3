"""One raw sample to the tensor that a model takes, as its contract declares; numpy alone at import.

The same function prepares a workload's samples and what a user hands to ``predict`` on a device,
so the two cannot drift apart. Pillow, soundfile, soxr and tokenizers are imported when the first
sample needs them.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.core.contract import Audio, Image, InputKind, Tensor, Text
from edgekit.core.errors import InputError

# What NDArray[Any] stands for; numpy.typing itself would be one more import of every start.
Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]


def prepare(
    value: Any, source: InputKind, *, where: str, assets: Mapping[str, bytes] | None = None
) -> Array:
    """One sample, without the batch axis, in the shape and dtype that ``source`` declares.

    value: raw (uint8 pixels, int16 sound, text, a picture, or the path of a file of these), or an
    array that is prepared already. assets: content of the files that ``source`` names, where they
    must not be read from disk. ``where`` opens every message.
    Raises: InputError for what cannot become that tensor; MissingDependencyError.
    """
    # Each kind's module is imported on first use: a device that runs tensors loads no more.
    if isinstance(source, Tensor):
        return as_tensor(value, source.element_shape, source.dtype, where=where)
    if isinstance(source, Image):
        from edgekit.data.image import prepare_image  # noqa: PLC0415

        return prepare_image(value, source, where=where)
    if isinstance(source, Audio):
        from edgekit.data.audio import prepare_audio  # noqa: PLC0415

        return prepare_audio(value, source, where=where)
    if isinstance(source, Text):
        from edgekit.data.text import prepare_text  # noqa: PLC0415

        return prepare_text(value, source, where=where, assets=assets)
    raise InputError(f"{where}: {type(source).__name__} is no kind of input")


def as_tensor(value: Any, shape: tuple[int, ...], dtype: str, *, where: str) -> Array:
    """An array, a nested list, or a .npy or .npz file as a tensor of exactly this shape and dtype.

    Raises: InputError.
    """
    array = array_of(value, where=where)
    if array.shape != shape:
        raise InputError(f"{where}: {shape_fault(array.shape, shape)}")
    return np.ascontiguousarray(cast_exactly(array, np.dtype(dtype), where=where)).reshape(shape)


def array_of(value: Any, *, where: str) -> Array:
    """An array, or the one in a .npy or .npz file.

    Raises: InputError.
    """
    if is_path(value):
        from pathlib import Path  # noqa: PLC0415 -- as above

        from edgekit.data.files import load_array  # noqa: PLC0415

        return load_array(Path(value), where=where)
    return as_array(value, where=where)


def is_path(value: Any) -> bool:
    """Whether a value is the path of a file."""
    return isinstance(value, (str, os.PathLike))


def as_array(value: Any, *, where: str) -> Array:
    """Anything that numpy takes as numbers, as an array.

    Raises: InputError for anything else.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as fault:
        raise InputError(f"{where}: cannot be read as an array: {fault}") from fault
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"{where}: {type(value).__name__} of dtype {array.dtype} is not an array of numbers"
        )
    return array


def cast_exactly(array: Array, dtype: np.dtype[Any], *, where: str) -> Array:
    """The same numbers in another dtype, where no number is lost on the way.

    Any float becomes float32 (a float64 is rounded, never overflows); whole numbers become whole
    numbers that hold them, and bool where they are 0 and 1 alone. Nothing else is cast: uint8
    pixels are not scaled floats.
    Raises: InputError.
    """
    if array.dtype == dtype:
        return array
    if dtype == np.float32 and array.dtype.kind == "f":
        return _to_float32(array, where)
    if dtype.kind in "iu" and array.dtype.kind in "iu":
        return _to_whole(array, dtype, where)
    if dtype.kind == "b" and array.dtype.kind in "iu":
        return _to_bool(array, where)
    hint = (
        "; raw pixels and sound are prepared by predict(), not by run()"
        if array.dtype in (np.uint8, np.int16)
        else ""
    )
    raise InputError(f"{where}: dtype is {array.dtype}, wanted {dtype}{hint}")


def _to_float32(array: Array, where: str) -> Array:
    try:
        with np.errstate(over="raise"):
            return array.astype(np.float32)
    except FloatingPointError as fault:
        raise InputError(
            f"{where}: {array.dtype} holds values past the largest float32, 3.4e38"
        ) from fault


def _to_whole(array: Array, dtype: np.dtype[Any], where: str) -> Array:
    limits = np.iinfo(dtype)
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise InputError(
                f"{where}: {array.dtype} values {low} to {high} do not fit into {dtype} "
                f"({limits.min} to {limits.max})"
            )
    return array.astype(dtype)


def _to_bool(array: Array, where: str) -> Array:
    strange = array[(array != 0) & (array != 1)]
    if strange.size:
        raise InputError(
            f"{where}: {array.dtype} holds {strange.flat[0]}, wanted bool; 0 and 1 stand for False "
            "and True, and nothing else does: pass x != 0, or x.astype(bool)"
        )
    return array.astype(np.bool_)


def shape_fault(found: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Which shape came and which was wanted, and the likely slip where there is one."""
    text = f"shape is {found}, wanted {wanted}"
    if found == (1, *wanted):
        return f"{text}: a sample has no batch axis here, pass x[0]"
    if found[1:] == wanted:
        return f"{text}: this is a batch of {found[0]}; pass one sample at a time"
    if sorted(found) == sorted(wanted) and len(found) > 1:
        return f"{text}: the axes are in another order; transpose it"
    return text
