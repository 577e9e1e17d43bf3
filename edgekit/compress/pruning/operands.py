"""The arguments and results of one operator call, as rules read them."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


class Operands:
    """One call of an operator."""

    def __init__(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        self.func, self.args, self.kwargs, self.result = func, args, kwargs, result
        self.tensors = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
        self.outputs = [item for item in tree_leaves(result) if isinstance(item, Tensor)]

    @property
    def first(self) -> Tensor:
        """The first argument, where it is a tensor; else the first tensor of all."""
        return self.args[0] if self.args and isinstance(self.args[0], Tensor) else self.tensors[0]

    def __getitem__(self, index: int) -> Any:
        """An argument by its position, however it was given."""
        argument = self.func._schema.arguments[index]  # noqa: SLF001  # torch has no other way
        if argument.name in self.kwargs:
            return self.kwargs[argument.name]
        return self.args[index] if index < len(self.args) else argument.default_value

    def named(self, name: str) -> Any:
        """An argument by the name that the operator's schema gives it."""
        for index, argument in enumerate(self.func._schema.arguments):  # noqa: SLF001
            if argument.name == name:
                return self[index]
        return None


def axis_of(axis: int, ndim: int) -> int:
    """An axis counted from the front."""
    return axis % ndim if ndim else 0


def as_dims(dims: Any, ndim: int) -> list[int]:
    """The axes that an operator was given, counted from the front; none for None."""
    if dims is None:
        return []
    chosen = [dims] if isinstance(dims, int) else list(dims)
    return [axis_of(axis, ndim) for axis in chosen]
