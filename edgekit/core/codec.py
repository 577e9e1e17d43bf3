"""Frozen dataclasses to plain values (JSON, TOML) and strictly back.

``from_plain`` accepts exactly what the annotations say: an unknown key, a missing field or a value
of another type is an error that names the place and suggests the nearest allowed name. Unions of
dataclasses are told apart by the class variable ``kind`` of each.
"""

import hashlib
import json
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgekit.core.errors import InputError

T = TypeVar("T")
_KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def to_plain(value: Any) -> Any:
    """``value`` as dicts, lists, strings, numbers and booleans; None fields are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = getattr(type(value), "kind", None)
        plain: dict[str, Any] = {} if kind is None else {"kind": kind}
        for item in fields(value):
            content = getattr(value, item.name)
            if content is not None:
                plain[item.name] = to_plain(content)
        return plain
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_plain(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"{type(value).__name__} has no plain form")


def canonical_json(value: Any) -> bytes:
    """The one JSON encoding of a value: sorted keys, no spaces, UTF-8, one newline at the end.

    Raises: ValueError for NaN and infinities, which JSON cannot hold.
    """
    text = json.dumps(
        to_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


def digest_of(value: Any) -> str:
    """sha256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def nearest(name: str, allowed: Sequence[str]) -> str:
    """``; did you mean 'x'?`` where a name is close to an allowed one, else the allowed names."""
    # Imported here: only a message needs it, and every bundle that is opened imports this module.
    import difflib  # noqa: PLC0415

    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; allowed: {', '.join(sorted(allowed))}"


def from_plain(cls: type[T], plain: Any, *, where: str, error: type[Exception] = InputError) -> T:
    """A value of ``cls`` from its plain form, strictly; ``where`` opens every message.

    Raises: ``error`` for unknown keys, missing fields and values of the wrong type.
    """
    result: T = _build(cls, plain, where, error)
    return result


def _build(hint: Any, plain: Any, where: str, error: type[Exception]) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return plain
    if origin is Literal:
        return _literal(get_args(hint), plain, where, error)
    if origin in (Union, types.UnionType):
        return _union(get_args(hint), plain, where, error)
    if origin is tuple:
        return _tuple(get_args(hint), plain, where, error)
    if origin in (dict, Mapping):
        value_hint = get_args(hint)[1]
        _expect(isinstance(plain, dict), "a table", plain, where, error)
        return {
            key: _build(value_hint, item, f"{where}.{key}", error) for key, item in plain.items()
        }
    bare = origin or hint
    if is_dataclass(bare):
        return _dataclass(hint, plain, where, error)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return hint(_literal(tuple(item.value for item in hint), plain, where, error))
    return _scalar(hint, plain, where, error)


def _scalar(hint: Any, plain: Any, where: str, error: type[Exception]) -> Any:
    if hint is float and isinstance(plain, int) and not isinstance(plain, bool):
        return float(plain)
    is_bool_as_number = isinstance(plain, bool) and hint is not bool
    wanted = _KINDS.get(hint, f"a {hint.__name__}")
    _expect(isinstance(plain, hint) and not is_bool_as_number, wanted, plain, where, error)
    _expect(
        not isinstance(plain, float) or math.isfinite(plain), "a finite number", plain, where, error
    )
    return plain


def _literal(allowed: tuple[Any, ...], plain: Any, where: str, error: type[Exception]) -> Any:
    for item in allowed:
        if type(item) is type(plain) and item == plain:
            return item
    names = [str(item) for item in allowed]
    near = nearest(str(plain), names)
    # The nearest name is a guess: who asks for "int16" is not helped by "int8" alone.
    rest = "" if "; allowed: " in near else f" allowed: {', '.join(sorted(names))}"
    raise error(f"{where}: {plain!r} is not allowed{near}{rest}")


def _union(members: tuple[Any, ...], plain: Any, where: str, error: type[Exception]) -> Any:
    if plain is None and type(None) in members:
        return None
    kinds = {get_origin(item) or item for item in members if hasattr(item, "kind")}
    if kinds:
        by_kind = {item.kind: item for item in kinds}
        _expect(isinstance(plain, dict), "a table", plain, where, error)
        chosen = _literal(tuple(by_kind), plain.get("kind"), f"{where}.kind", error)
        return _build(by_kind[chosen], plain, where, error)
    rest = [item for item in members if item is not type(None)]
    if len(rest) == 1:
        return _build(rest[0], plain, where, error)
    for member in rest:
        if isinstance(plain, member) and not (isinstance(plain, bool) and member is int):
            return plain
    names = " or ".join(item.__name__ for item in rest)
    raise error(f"{where}: {plain!r} is not {names}")


def _tuple(members: tuple[Any, ...], plain: Any, where: str, error: type[Exception]) -> Any:
    _expect(isinstance(plain, (list, tuple)), "a list", plain, where, error)
    if len(members) == 2 and members[1] is Ellipsis:
        members = (members[0],) * len(plain)
    _expect(len(members) == len(plain), f"{len(members)} entries", plain, where, error)
    pairs = zip(members, plain, strict=True)
    return tuple(_build(hint, item, f"{where}[{i}]", error) for i, (hint, item) in enumerate(pairs))


def _dataclass(hint: Any, plain: Any, where: str, error: type[Exception]) -> Any:
    cls = get_origin(hint) or hint
    _expect(isinstance(plain, dict), "a table", plain, where, error)
    hints = _field_hints(cls)
    bound = dict(zip(getattr(cls, "__parameters__", ()), get_args(hint), strict=False))
    content = dict(plain)
    if hasattr(cls, "kind") and "kind" not in hints:
        _literal((cls.kind,), content.pop("kind", cls.kind), f"{where}.kind", error)
    for key in content:
        if key not in hints:
            raise error(f"{where}: unknown key '{key}'{nearest(str(key), list(hints))}")
    values = {
        key: _build(bound.get(hints[key], hints[key]), item, f"{where}.{key}", error)
        for key, item in content.items()
    }
    for item in fields(cls):
        is_needed = item.default is MISSING and item.default_factory is MISSING
        if item.name in values or not is_needed:
            continue
        if type(None) in get_args(hints[item.name]):
            values[item.name] = None  # to_plain leaves an absent value out
        else:
            raise error(f"{where}: '{item.name}' is missing")
    return cls(**values)


@cache
def _field_hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {name: hints[name] for name in (item.name for item in fields(cls))}


def _expect(holds: bool, wanted: str, plain: Any, where: str, error: type[Exception]) -> None:
    if not holds:
        shown = repr(plain)
        raise error(f"{where}: {shown[:80]} is not {wanted}")
