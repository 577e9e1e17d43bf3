"""The adapters of a bundle, ready for its engine; which one runs is said call by call."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgekit.core.codec import nearest
from edgekit.core.contract import NO_ADAPTER
from edgekit.core.errors import BundleError, SessionError
from edgekit.runtime.engine import Array
from edgekit.runtime.golden import decode_npy
from edgekit.runtime.ports import InputPort

# One name for all samples of a call, or one for each; None is the session's own.
Choice = str | Sequence[str] | None


class AdapterPort:
    """The input of an artifact that takes the adapter. Holds no state: threads may share it."""

    __slots__ = ("_rows", "names", "position")

    def __init__(
        self, port: InputPort, files: Mapping[str, str], read: Callable[[str], bytes]
    ) -> None:
        """Read every adapter. files: path in the bundle by name.

        Raises: BundleError for a file that is no vector of the contract's length.
        """
        length = int(port.contract.shape[1])
        vectors = {name: _vector(read(path), path, length) for name, path in files.items()}
        vectors.update(dict.fromkeys(NO_ADAPTER, np.zeros(length, np.float32)))
        self.position = port.position
        self.names = tuple(sorted(files))
        # Scaled once, so that another adapter costs a call no more than the same one again.
        self._rows = {name: port.to_stored(row[None]) for name, row in vectors.items()}

    def stored(self, choice: str | Sequence[str], rows: int) -> Array:
        """The artifact's own values for a batch.

        Raises: SessionError for a name that the bundle has not, and for another number of names
        than samples.
        """
        if isinstance(choice, str):
            return np.repeat(self._row(choice), rows, axis=0) if rows > 1 else self._row(choice)
        if len(choice) != rows:
            raise SessionError(f"{len(choice)} adapters are named for a batch of {rows}")
        return np.concatenate([self._row(name) for name in choice])

    def check(self, choice: str | Sequence[str]) -> None:
        """Refuse a name that the bundle has not.

        Raises: SessionError with the nearest one.
        """
        for name in (choice,) if isinstance(choice, str) else choice:
            self._row(name)

    def _row(self, name: str) -> Array:
        row = self._rows.get(name)
        if row is None:
            near = nearest(str(name), [*self.names, NO_ADAPTER[-1]])
            raise SessionError(f"the bundle has no adapter {name!r}{near}")
        return row


def _vector(content: bytes, path: str, length: int) -> Array:
    array = decode_npy(content, where=path)
    if array.dtype != np.float32 or array.shape != (length,):
        raise BundleError(
            f"{path}: {array.dtype} of shape {array.shape}; an adapter of this model is float32 of "
            f"shape ({length},)"
        )
    if not np.isfinite(array).all():
        raise BundleError(f"{path}: holds NaN or infinite values")
    return array
