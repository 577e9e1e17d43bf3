"""Sound to tensors: read, mix down, resample, cut or pad, normalise.

PCM wav files are read with the standard library; other files need soundfile, other rates soxr.
"""

import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.contract import Audio
from edgekit.core.errors import InputError, MissingDependencyError
from edgekit.data.preprocess import array_of, cast_exactly, is_path

Array = NDArray[Any]
Sound = NDArray[np.float32]


def prepare_audio(value: Any, source: Audio, *, where: str) -> Array:
    """One sound as the tensor that ``source`` declares.

    Shapes: int16 (samples,) at the declared rate, or the path of a sound or .npy file of any rate
    and length -> (1, samples) or (samples,). A float array of the tensor's own shape is taken as
    prepared.
    Raises: InputError, MissingDependencyError.
    """
    if is_path(value) and Path(value).suffix not in (".npy", ".npz"):
        sound, rate_hz = _read(Path(value), where)
        return _finish(_resample(sound, rate_hz, source.rate_hz, where), source)
    array = array_of(value, where=where)
    if array.dtype.kind == "f" and array.shape == source.element_shape:
        return cast_exactly(array, np.dtype(source.dtype), where=where)
    if array.dtype != np.int16 or array.ndim != 1:
        raise InputError(
            f"{where}: an array of dtype {array.dtype} and shape {array.shape} is neither raw "
            f"sound (int16, one axis, {source.rate_hz} Hz) nor prepared ({source.dtype}, "
            f"{source.element_shape})"
        )
    return _finish(array.astype(np.float32) / np.float32(2**15), source)


def _finish(sound: Sound, source: Audio) -> Array:
    padded = np.zeros(source.samples, dtype=np.float32)
    kept = sound[: source.samples]
    padded[: len(kept)] = kept
    normal = (padded - np.float32(source.mean)) / np.float32(source.deviation)
    return normal.reshape(source.element_shape).astype(source.dtype, copy=False)


def _read(path: Path, where: str) -> tuple[Sound, int]:
    try:
        with wave.open(str(path), "rb") as file:
            frames = file.readframes(file.getnframes())
            parts = (file.getsampwidth(), file.getnchannels(), file.getframerate())
    except FileNotFoundError as fault:
        raise InputError(f"{where}: there is no file '{path}'") from fault
    except OSError as fault:
        raise InputError(f"{where}: '{path}' cannot be read: {fault}") from fault
    except (wave.Error, EOFError):
        # Not PCM, or no wav at all: a format of soundfile's, perhaps.
        return _read_with_soundfile(path, where)
    width, channels, rate_hz = parts
    whole = len(frames) - len(frames) % (width * channels)
    if width not in (1, 2, 3, 4) or whole == 0 or rate_hz < 1:
        raise InputError(f"{where}: '{path}' is no sound: {8 * width} bits, {len(frames)} bytes")
    sound = _decode_pcm(frames[:whole], width).reshape(-1, channels)
    return _mix_down(sound), rate_hz


def _decode_pcm(frames: bytes, width: int) -> Sound:
    """Samples in -1..1 of little-endian PCM; 8 bits are unsigned (RIFF MCI 1.0, page 60)."""
    if width == 1:
        return (np.frombuffer(frames, dtype=np.uint8).astype(np.float32) - 128) / np.float32(128)
    # Each sample fills the upper bytes of 32 bits, so that one scale serves all widths.
    wide = np.zeros((len(frames) // width, 4), dtype=np.uint8)
    wide[:, 4 - width :] = np.frombuffer(frames, dtype=np.uint8).reshape(-1, width)
    scaled: Sound = (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    return scaled


def _mix_down(sound: Sound) -> Sound:
    if sound.shape[1] == 1:
        return sound[:, 0]
    mixed: Sound = sound.mean(axis=1, dtype=np.float64).astype(np.float32)
    return mixed


def _read_with_soundfile(path: Path, where: str) -> tuple[Sound, int]:
    try:
        import soundfile  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise MissingDependencyError(
            f"{where}: '{path}' is no PCM wav file; other sound needs soundfile: "
            "pip install 'edgekit[audio]'"
        ) from missing
    try:
        sound, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, ValueError) as fault:
        raise InputError(f"{where}: '{path}' is no sound that can be read: {fault}") from fault
    if not len(sound):
        raise InputError(f"{where}: '{path}' holds no sound")
    return _mix_down(sound), int(rate_hz)


def _resample(sound: Sound, rate_hz: int, wanted_hz: int, where: str) -> Sound:
    if rate_hz == wanted_hz:
        return sound
    try:
        import soxr  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise MissingDependencyError(
            f"{where}: the sound is at {rate_hz} Hz, wanted {wanted_hz} Hz; resampling needs "
            "soxr: pip install 'edgekit[audio]'"
        ) from missing
    resampled: Sound = soxr.resample(sound, rate_hz, wanted_hz)
    return resampled
