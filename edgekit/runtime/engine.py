"""What every engine offers a session: tensors by position, and one blocking run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# What NDArray[Any] stands for; numpy.typing itself would be one more import of every start.
Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTensor:
    """An input or output of an artifact as its engine sees it.

    shape: -1 where the axis may vary. scale: 0.0 for a tensor that is not quantized; else the real
    value is ``(stored - zero_point) * scale``.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    scale: float = 0.0
    zero_point: int = 0


class Engine(Protocol):
    """A loaded artifact. Not safe for several threads: the session holds the lock.

    An engine may have ``notes``, a tuple of texts: what it runs otherwise than it should.
    """

    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        """Load exactly these bytes.

        Raises: SessionError when the native parser refuses them.
        """

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Outputs in the artifact's order for inputs in the artifact's order and dtypes."""

    def close(self) -> None:
        """Give the memory back."""


def engine_notes(engine: Engine) -> tuple[str, ...]:
    """What an engine says of how it runs its model; most say nothing."""
    notes: tuple[str, ...] = getattr(engine, "notes", ())
    return notes
