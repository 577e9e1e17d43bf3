"""Pictures to tensors: decode, resize, crop, scale, normalise, lay out.

Resizing and decoding are Pillow's, and only where they are needed. Pixels are taken as stored: an
EXIF orientation is not applied, so that every wrapper in every language sees the same picture.
"""

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.contract import Image
from edgekit.core.errors import InputError, MissingDependencyError
from edgekit.data.preprocess import array_of, cast_exactly, is_path

Array = NDArray[Any]
Pixels = NDArray[np.uint8]

# Modes that Pillow turns into 8-bit RGB or grey without clipping; 16-bit and float ones are not.
_SAFE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")


def prepare_image(value: Any, source: Image, *, where: str) -> Array:
    """One picture as the tensor that ``source`` declares.

    Shapes: uint8 (height, width, channels) or (height, width), a Pillow image, the path of a
    picture or .npy file -> (channels, height, width) or (height, width, channels). A float array
    of the tensor's own shape is taken as prepared.
    Raises: InputError, MissingDependencyError.
    """
    if _is_pillow(value):
        pixels = _pixels_of(value, source, where)
    elif is_path(value) and Path(value).suffix not in (".npy", ".npz"):
        pixels = _decode(Path(value), source, where)
    else:
        array = array_of(value, where=where)
        if array.dtype.kind == "f" and array.shape == source.element_shape:
            return cast_exactly(array, np.dtype(source.dtype), where=where)
        pixels = _raw_pixels(array, source, where)
    return _normalise(_fit(pixels, source), source, where)


def _is_pillow(value: Any) -> bool:
    # Whoever hands over a Pillow image has imported Pillow: no need to import it to ask.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _pillow(why: str) -> Any:
    try:
        from PIL import Image as pillow  # noqa: N813, PLC0415
    except ModuleNotFoundError as missing:
        raise MissingDependencyError(
            f"{why} needs Pillow, which is not installed: pip install 'edgekit[image]'"
        ) from missing
    return pillow


def _decode(path: Path, source: Image, where: str) -> Pixels:
    pillow = _pillow(f"{where}: reading '{path}'")
    try:
        with pillow.open(path) as picture:
            return _pixels_of(picture, source, f"{where}: {path}")
    except FileNotFoundError as fault:
        raise InputError(f"{where}: there is no file '{path}'") from fault
    except InputError:
        raise
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        pillow.DecompressionBombError,
        pillow.DecompressionBombWarning,
    ) as fault:
        raise InputError(f"{where}: '{path}' is no picture that Pillow reads: {fault}") from fault


def _pixels_of(picture: Any, source: Image, where: str) -> Pixels:
    if picture.mode not in _SAFE_MODES:
        raise InputError(
            f"{where}: the picture's mode is '{picture.mode}'; 8-bit ones are taken: "
            f"{', '.join(_SAFE_MODES)}. Convert it first"
        )
    pixels = np.asarray(picture.convert("L" if source.channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], source.channels)


def _raw_pixels(array: Array, source: Image, where: str) -> Pixels:
    shape, channels = array.shape, source.channels
    if array.dtype != np.uint8:
        raise InputError(
            f"{where}: an array of dtype {array.dtype} and shape {shape} is neither raw pixels "
            f"(uint8, height x width x {channels}) nor prepared ({source.dtype}, "
            f"{source.element_shape})"
        )
    if len(shape) == 2 and channels == 1:
        shape = (*shape, 1)
    if len(shape) != 3 or shape[2] != channels or 0 in shape:
        is_channels_first = len(shape) == 3 and shape[0] == channels
        hint = "; channels come last in raw pixels: x.transpose(1, 2, 0)"
        raise InputError(
            f"{where}: shape is {array.shape}, wanted (height, width, {channels})"
            f"{hint if is_channels_first else ''}"
        )
    return array.reshape(shape)


def _fit(pixels: Pixels, source: Image) -> Pixels:
    height, width = pixels.shape[:2]
    if (height, width) == (source.height, source.width):
        return pixels
    if source.fit == "stretch":
        return _resize(pixels, source.height, source.width, source.resize)
    # The tight side becomes exact, the other one is cut: what torchvision's Resize and CenterCrop
    # do, down to the rounding.
    if height * source.width <= width * source.height:
        new_height = source.height
        new_width = max(source.width, width * source.height // height)
    else:
        new_width = source.width
        new_height = max(source.height, height * source.width // width)
    resized = _resize(pixels, new_height, new_width, source.resize)
    top = round((new_height - source.height) / 2)
    left = round((new_width - source.width) / 2)
    return resized[top : top + source.height, left : left + source.width]


def _resize(pixels: Pixels, height: int, width: int, method: str) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    pillow = _pillow(f"resizing {pixels.shape[:2]} pixels to {(height, width)}")
    channels = pixels.shape[2]
    picture = pillow.fromarray(np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels))
    resized = np.asarray(picture.resize((width, height), pillow.Resampling[method.upper()]))
    return resized.reshape(height, width, channels)


def _normalise(pixels: Pixels, source: Image, where: str) -> Array:
    table = _levels(source, where)
    ordered = pixels[:, :, ::-1] if source.channel_order == "BGR" else pixels
    planes = [table[i].take(ordered[:, :, i]) for i in range(source.channels)]
    return np.stack(planes, axis=0 if source.layout == "NCHW" else 2)


@lru_cache(maxsize=32)
def _levels(source: Image, where: str) -> Array:
    """What each of the 256 levels becomes, in each of the tensor's channels."""
    for label, values in (("mean", source.mean), ("deviation", source.deviation)):
        if len(values) not in (1, source.channels):
            raise InputError(
                f"{where}: {len(values)} values of {label} for {source.channels} channels; "
                f"give 1 or {source.channels}"
            )
    if 0.0 in source.deviation:
        raise InputError(f"{where}: a deviation of 0 divides by zero")
    mean = np.broadcast_to(np.asarray(source.mean, dtype=np.float64), source.channels)[:, None]
    deviation = np.broadcast_to(np.asarray(source.deviation, dtype=np.float64), source.channels)[
        :, None
    ]
    # In float64, so that the one rounding is the last.
    levels = (np.arange(256, dtype=np.float64) * source.scale - mean) / deviation
    dtype = np.dtype(source.dtype)
    if dtype.kind != "f":
        whole = np.rint(levels)
        limits = np.iinfo(dtype)
        if np.any(whole != levels) or whole.min() < limits.min or whole.max() > limits.max:
            raise InputError(
                f"{where}: pixels scaled to {levels.min():g}..{levels.max():g} are not whole "
                f"numbers of {dtype}; set scale, mean and deviation, or dtype='float32'"
            )
    return levels.astype(dtype)
