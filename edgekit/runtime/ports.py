"""Checks one tensor each way between the contract and the artifact, and has it scaled."""

from typing import Any

import numpy as np

from edgekit.core.contract import InputContract, OutputContract, Shape
from edgekit.core.errors import InputError, SessionError
from edgekit.data.preprocess import as_array, cast_exactly
from edgekit.runtime.engine import Array, EngineTensor
from edgekit.runtime.scaling import reading, storing


class InputPort:
    """One input of a contract, tied to one input of an artifact. Everything is decided at init."""

    __slots__ = ("_convert", "_dtype", "_inner", "_is_static", "contract", "name", "position")

    def __init__(self, contract: InputContract, tensor: EngineTensor, position: int) -> None:
        """Tie them together.

        Raises: SessionError when the artifact's tensor cannot hold the contract's.
        """
        where = f"input '{contract.name}'"
        _check_shape(contract.shape, tensor, where)
        self.contract = contract
        self.name = contract.name
        self.position = position
        self._dtype = np.dtype(contract.dtype)
        self._inner = contract.shape[1:]
        self._is_static = all(isinstance(size, int) for size in self._inner)
        self._convert = storing(self._dtype, tensor, where=where)

    def take(self, value: Any) -> Array:
        """A batch that the user handed over, checked, in the contract's dtype.

        Raises: SessionError for another shape or dtype.
        """
        array = value if type(value) is np.ndarray else self._from_anything(value)
        if array.dtype != self._dtype:
            array = self._cast(array)
        inner = array.shape[1:]
        is_right = inner == self._inner if self._is_static else self._fits(inner)
        if not is_right or not array.shape or array.shape[0] == 0:
            raise SessionError(self._explain_shape(array.shape))
        return array

    def to_stored(self, array: Array) -> Array:
        """The artifact's own values of a checked array.

        Raises: SessionError for NaN where the artifact takes integers.
        """
        return self._convert(array)

    def sizes(self, array: Array) -> list[tuple[str, int]]:
        """The named axes of this input, and what they are in a checked array."""
        named = zip(self._inner, array.shape[1:], strict=True)
        return [(axis, size) for axis, size in named if isinstance(axis, str)]

    def _from_anything(self, value: Any) -> Array:
        try:
            return as_array(value, where=f"input '{self.name}'")
        except InputError as fault:
            raise SessionError(str(fault)) from fault

    def _cast(self, array: Array) -> Array:
        try:
            return cast_exactly(array, self._dtype, where=f"input '{self.name}'")
        except InputError as fault:
            raise SessionError(str(fault)) from fault

    def _fits(self, inner: tuple[int, ...]) -> bool:
        return len(inner) == len(self._inner) and all(
            size > 0 if isinstance(wanted, str) else size == wanted
            for size, wanted in zip(inner, self._inner, strict=True)
        )

    def _explain_shape(self, shape: tuple[int, ...]) -> str:
        wanted = ", ".join(str(size) for size in ("n", *self._inner))
        text = f"input '{self.name}': shape is {shape}, wanted ({wanted})"
        if self._fits(shape):
            return f"{text}: the batch axis is missing; pass x[None]"
        if shape and shape[0] == 0:
            return f"{text}: a batch of 0 has nothing to run"
        return text


class OutputPort:
    """One output of a contract, tied to one output of an artifact."""

    __slots__ = ("_convert", "contract", "name", "position")

    def __init__(self, contract: OutputContract, tensor: EngineTensor, position: int) -> None:
        """Tie them together.

        Raises: SessionError when the artifact's tensor is not the contract's.
        """
        where = f"output '{contract.name}'"
        _check_shape(contract.shape, tensor, where)
        self.contract = contract
        self.name = contract.name
        self.position = position
        self._convert = reading(np.dtype(contract.dtype), tensor, where=where)

    def give(self, stored: Array, rows: int) -> Array:
        """The contract's values of what the artifact gave for ``rows`` samples.

        Raises: SessionError when the artifact gave another number of samples.
        """
        if stored.ndim == 0 or stored.shape[0] != rows:
            raise SessionError(
                f"output '{self.name}': the artifact gave shape {stored.shape} for {rows} samples"
            )
        return self._convert(stored)


def _check_shape(shape: Shape, tensor: EngineTensor, where: str) -> None:
    is_same = len(shape) == len(tensor.shape) and all(
        isinstance(wanted, str) or found in (-1, wanted)
        for wanted, found in zip(shape[1:], tensor.shape[1:], strict=True)
    )
    if not is_same:
        raise SessionError(
            f"{where}: the artifact's tensor '{tensor.name}' has shape {tensor.shape}, "
            f"the contract {shape}"
        )
