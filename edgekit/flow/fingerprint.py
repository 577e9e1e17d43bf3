"""What a user's function is, as a digest: so that a cached step notices when it changes."""

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

from edgekit.store import file_digest

PLAIN = (str, bytes, int, float, bool, type(None))
# Objects that hold objects that hold objects are not followed for ever.
DEEPEST = 12


def fingerprint(value: Any) -> str | None:
    """sha256 of a name, or of a callable's code with all that it holds; None if it cannot be told.

    A function is its code, its defaults, what it closes over and the file that defines it; an
    object is its class and its attributes.
    """
    content = hashlib.sha256()
    try:
        _add(content, value, depth=0)
    except _UnknownError:
        return None
    return content.hexdigest()


class _UnknownError(Exception):
    """Something whose content cannot be told from outside."""


def _add(content: "hashlib._Hash", value: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise _UnknownError
    content.update(f"{type(value).__module__}.{type(value).__qualname__}:".encode())
    if isinstance(value, PLAIN):
        content.update(repr(value).encode())
    elif hasattr(value, "detach"):  # a tensor
        content.update(value.detach().cpu().numpy().tobytes())
    elif hasattr(value, "tobytes"):  # a numpy array
        content.update(value.tobytes())
    else:
        for part in _parts(value):
            _add(content, part, depth + 1)
    content.update(b";")


def _parts(value: Any) -> tuple[Any, ...]:
    """What makes up something that is not plain."""
    for kind, parts in _PARTS.items():
        if isinstance(value, kind):
            return parts(value)
    if value is Ellipsis:
        return ()
    if not hasattr(value, "__dict__"):
        raise _UnknownError
    return (type(value), vars(value))


def _of_mapping(value: Mapping[Any, Any]) -> tuple[Any, ...]:
    return tuple(part for key in sorted(value, key=repr) for part in (key, value[key]))


def _of_code(code: CodeType) -> tuple[Any, ...]:
    return (code.co_code, code.co_names, code.co_varnames, code.co_consts)


def _of_function(function: FunctionType) -> tuple[Any, ...]:
    cells = tuple(cell.cell_contents for cell in function.__closure__ or ())
    defaults = (function.__defaults__, function.__kwdefaults__)
    return (_file_of(function), function.__code__, *defaults, cells)


_PARTS: dict[Any, Callable[[Any], tuple[Any, ...]]] = {
    CodeType: _of_code,
    FunctionType: _of_function,
    MethodType: lambda value: (value.__func__, value.__self__),
    functools.partial: lambda value: (value.func, value.args, value.keywords),
    Mapping: _of_mapping,
    (list, tuple): tuple,
    (set, frozenset): lambda value: tuple(sorted(value, key=repr)),
    type: lambda value: (_file_of(value),),
}


def _file_of(value: Any) -> str:
    """sha256 of the file that defines something; what comes with a package goes by its name."""
    try:
        path = inspect.getsourcefile(value)
    except TypeError:
        path = None
    if path is None or not Path(path).is_file():
        # Built in, or typed at a prompt: the name and the code are all that there is.
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    return file_digest(Path(path))
