"""Arrays from files that a user hands over: .npy, and .npz with one array."""

import struct
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import InputError
from edgekit.data.preprocess import as_array

Array = NDArray[Any]

# What numpy and the zip module raise for files that are not what they look like.
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    SyntaxError,
    TokenError,
    MemoryError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def load_array(path: Path, *, where: str) -> Array:
    """The array of a .npy file, or the only one of a .npz file; pickles are refused.

    Raises: InputError.
    """
    if path.suffix not in (".npy", ".npz"):
        raise InputError(f"{where}: '{path}' is not a .npy or .npz file")
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return as_array(loaded, where=f"{where}: {path}")
        with loaded:
            names = sorted(loaded.files)
            if len(names) != 1:
                raise InputError(f"{where}: '{path}' holds {names}; it must hold one array")
            return as_array(loaded[names[0]], where=f"{where}: {path}")
    except FileNotFoundError as fault:
        raise InputError(f"{where}: there is no file '{path}'") from fault
    except _UNREADABLE as fault:
        raise InputError(f"{where}: '{path}' cannot be read: {fault}") from fault
