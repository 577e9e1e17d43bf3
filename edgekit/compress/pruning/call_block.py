"""A module whose ``forward`` is data: the calls that its code made, with sizes that can be changed.

Some modules have sizes in their code that no attribute holds: ``reshape(b, n, c)`` after heads are
gone, the zeros that pad the shortcut of a CIFAR ResNet. Such a module is replaced by its own calls,
one after another, with the new sizes in them. It keeps the children, parameters and plain
attributes of the module that it was, and can be written down and read back (``state``).
"""

import builtins
import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import get_overridable_functions

from edgekit.compress.state import MAKEABLE, class_name
from edgekit.core.errors import StepError

# A value as plain data: numbers, strings, None, and tuples that begin with one of these tags.
NODE, SLICE, LIST, TUPLE, DICT, DTYPE, TRAINING, ELLIPSIS = (
    "node", "slice", "list", "tuple", "dict", "dtype", "training", "ellipsis",
)  # fmt: skip
_MODULES: Mapping[str, Any] = {
    "functional": functional,
    "torch": torch,
    "operator": operator,
    "math": math,
    "builtins": builtins,
}
_MAKERS = (
    "arange", "empty", "eye", "full", "full_like", "linspace", "ones", "ones_like", "rand", "randn",
    "tensor", "tril_indices", "triu_indices", "zeros", "zeros_like", "empty_like",
)  # fmt: skip
_BUILTINS = (
    "abs", "bool", "float", "getattr", "int", "len", "max", "min", "pow", "round", "slice", "sum",
)  # fmt: skip
_REQUIRED = "required"

# One call: its name, "function" | "method" | "module" | "attribute", what, arguments, keywords.
Call = tuple[str, str, str, Any, Any]


class CallBlock(nn.Module):
    """Calls what another module's ``forward`` called, in the same order."""

    def __init__(
        self, inputs: tuple[tuple[str, str, Any], ...], calls: tuple[Call, ...], output: Any
    ) -> None:
        """inputs: name, "required" or "optional", and the default, of each argument in order.

        output: what is returned, as plain data.
        """
        super().__init__()
        self.inputs, self.calls, self.output = inputs, calls, output
        self.replaced = ""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the replaced module gave."""
        values = self.bind(args, kwargs)
        for call in self.calls:
            values[call[0]] = self.run(call, values)
        return self.value(self.output, values)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name.

        Raises: TypeError for a call that does not fit.
        """
        names = [name for name, _, _ in self.inputs]
        values = dict(zip(names, args, strict=False)) | dict(kwargs)
        unknown = [name for name in kwargs if name not in names]
        if unknown or len(args) > len(names):
            raise TypeError(f"{self.replaced or 'CallBlock'} takes {', '.join(names)}")
        for name, need, default in self.inputs:
            if name in values:
                continue
            if need == _REQUIRED:
                raise TypeError(f"{self.replaced or 'CallBlock'} needs '{name}'")
            values[name] = self.value(default, {})
        return values

    def run(self, call: Call, values: Mapping[str, Any]) -> Any:
        """Make one call."""
        _, kind, what, args, kwargs = call
        given = self.value(args, values)
        named = self.value(kwargs, values)
        if kind == "module":
            return self.get_submodule(what)(*given, **named)
        if kind == "attribute":
            return operator.attrgetter(what)(self)
        if kind == "method":
            return getattr(given[0], what)(*given[1:], **named)
        return function_of(what)(*given, **named)

    def value(self, plain: Any, values: Mapping[str, Any]) -> Any:
        """A value from plain data and the results of calls."""
        if not isinstance(plain, tuple):
            return plain
        tag, *rest = plain
        if tag == NODE:
            return values[rest[0]]
        if tag == TRAINING:
            return self.training
        if tag == DTYPE:
            return getattr(torch, rest[0])
        if tag == ELLIPSIS:
            return ...
        if tag == DICT:
            return {key: self.value(item, values) for key, item in rest}
        items = [self.value(item, values) for item in rest]
        made: Mapping[str, Callable[[list[Any]], Any]] = {
            SLICE: lambda parts: slice(*parts), LIST: list, TUPLE: tuple,
        }  # fmt: skip
        return made[tag](items)

    def extra_repr(self) -> str:
        """What it was."""
        return f"replaced={self.replaced}, calls={len(self.calls)}"


def function_of(name: str) -> Callable[..., Any]:
    """A function by the name under which it was written down.

    Raises: StepError for a name that is none of torch's.
    """
    found = _functions().get(name)
    if found is None:
        raise StepError(f"a written call names '{name}', which is no function of torch")
    return found


def name_of(function: Callable[..., Any]) -> str | None:
    """The name under which a function can be written down; None if there is none."""
    leaf = getattr(function, "__name__", "")
    names = [f"{place}:{leaf}" for place in _MODULES]
    return next((name for name in names if _functions().get(name) is function), None)


@cache
def _functions() -> dict[str, Callable[..., Any]]:
    """What may be called by name: functions of tensors and numbers, and nothing that runs code."""
    on_tensors = get_overridable_functions()
    known = {
        "functional": [item.__name__ for item in on_tensors[functional]],
        "torch": [*(item.__name__ for item in on_tensors[torch]), *_MAKERS],
        "operator": operator.__all__,
        "math": [name for name in vars(math) if not name.startswith("_")],
        "builtins": _BUILTINS,
    }
    found = {
        f"{place}:{leaf}": getattr(_MODULES[place], leaf, None)
        for place, leaves in known.items()
        for leaf in leaves
    }
    return {name: function for name, function in found.items() if callable(function)}


def to_plain(value: Any, node: Callable[[Any], str | None]) -> Any:
    """A value as plain data; ``node`` gives the name of a call's result, None for other values.

    Raises: TypeError for a value that cannot be written down.
    """
    name = node(value)
    if name is not None:
        return (NODE, name)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, slice):
        return (SLICE, *(to_plain(item, node) for item in (value.start, value.stop, value.step)))
    if isinstance(value, Mapping):
        return (DICT, *((str(key), to_plain(item, node)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        tag = LIST if isinstance(value, list) else TUPLE
        return (tag, *(to_plain(item, node) for item in value))
    if isinstance(value, torch.dtype):
        return (DTYPE, str(value).removeprefix("torch."))
    if value is ...:
        return (ELLIPSIS,)
    raise TypeError(f"a {type(value).__name__} cannot be written down")


def block_like(
    module: nn.Module, calls: Sequence[Call], output: Any, inputs: Sequence[tuple[str, str, Any]]
) -> CallBlock:
    """A block of calls with the children, parameters, buffers and attributes of a module."""
    block = CallBlock(tuple(inputs), tuple(calls), output)
    block.replaced = getattr(module, "replaced", "") or type(module).__name__
    for name, value in vars(module).items():
        if not name.startswith("_") and name not in vars(block) and not callable(value):
            setattr(block, name, value)
    for name, parameter in module._parameters.items():  # noqa: SLF001  # None among them
        block.register_parameter(name, parameter)
    for name, buffer in module._buffers.items():  # noqa: SLF001
        is_kept = name not in module._non_persistent_buffers_set  # noqa: SLF001
        block.register_buffer(name, buffer, persistent=is_kept)
    for name, child in module.named_children():
        block.add_module(name, child)
    block.training = module.training
    return block


def signature_of(module: nn.Module) -> list[tuple[str, str, Any]]:
    """The arguments of a module's ``forward`` as a block wants them.

    Raises: TypeError for one that takes any number of arguments.
    """
    found = []
    for item in inspect.signature(module.forward).parameters.values():
        if item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD):
            raise TypeError(f"forward of {type(module).__name__} takes any arguments")
        is_required = item.default is item.empty
        default = None if is_required else to_plain(item.default, lambda _: None)
        found.append((item.name, _REQUIRED if is_required else "optional", default))
    return found


def _make(attributes: dict[str, Any]) -> nn.Module:
    block = CallBlock(attributes["inputs"], attributes["calls"], attributes["output"])
    block.replaced = attributes["replaced"]
    return block


MAKEABLE[class_name(CallBlock)] = _make
