"""Typed values out of located nodes; whatever is wrong names its file, line and key."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

from edgekit.catalog.document import Node
from edgekit.core.codec import nearest
from edgekit.core.errors import InputError, ProfileError

Quantity = TypeVar("Quantity", int, float)


def fail(node: Node, message: str) -> NoReturn:
    """Raise the error for one node."""
    raise ProfileError(f"{node.where}: {message}")


def table(node: Node, *, required: Iterable[str] = (), optional: Iterable[str] = ()) -> Any:
    """The entries of a table that has all required keys and no key besides the optional ones."""
    entries = any_table(node)
    required = tuple(required)
    allowed = (*required, *optional)
    for key, entry in entries.items():
        if key not in allowed:
            fail(entry, f"unknown key '{key}' in {node.label}{nearest(key, allowed)}")
    for key in required:
        if key not in entries:
            fail(node, f"'{key}' is missing in {node.label}")
    return entries


def any_table(node: Node) -> dict[str, Node]:
    """The entries of a table, whatever their keys."""
    if not isinstance(node.value, dict):
        fail(node, f"{node.label} is {_shown(node.value)}, not a table")
    return node.value


def items(node: Node) -> list[Node]:
    """The entries of a list."""
    if not isinstance(node.value, list):
        fail(node, f"{node.label} is {_shown(node.value)}, not a list")
    return node.value


def text(node: Node, *, may_be_empty: bool = False) -> str:
    """A string."""
    if not isinstance(node.value, str):
        fail(node, f"{node.label} is {_shown(node.value)}, not a text in quotes")
    if not node.value.strip() and not may_be_empty:
        fail(node, f"{node.label} is empty")
    return node.value


def texts(node: Node) -> tuple[str, ...]:
    """A list of strings without repeats."""
    found = tuple(text(item) for item in items(node))
    for index, item in enumerate(found):
        if item in found[:index]:
            fail(node, f"{node.label} names '{item}' twice")
    return found


def choice(node: Node, allowed: Sequence[str], what: str) -> str:
    """One of a closed set of names."""
    name = text(node)
    if name not in allowed:
        fail(node, f"'{name}' is no {what}{nearest(name, allowed)}")
    return name


def choices(node: Node, allowed: Sequence[str], what: str) -> tuple[str, ...]:
    """Several of a closed set of names."""
    texts(node)
    return tuple(choice(item, allowed, what) for item in items(node))


def flag(node: Node) -> bool:
    """True or false."""
    if not isinstance(node.value, bool):
        fail(node, f"{node.label} is {_shown(node.value)}, not true or false")
    return node.value


def whole(node: Node, *, least: int, most: int = 2**63 - 1) -> int:
    """A whole number within bounds."""
    if not isinstance(node.value, int) or isinstance(node.value, bool):
        fail(node, f"{node.label} is {_shown(node.value)}, not a whole number")
    if not least <= node.value <= most:
        fail(node, f"{node.label} is {_shown(node.value)}, outside {least} to {most}")
    return node.value


def number(node: Node, *, least: float, most: float = 1e18) -> float:
    """A number within bounds."""
    value = node.value
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        fail(node, f"{node.label} is {_shown(value)}, not a plain number")
    if not math.isfinite(value) or not least <= value <= most:
        fail(node, f"{node.label} is {_shown(value)}, outside {least:g} to {most:g}")
    return float(value)


def quantity(node: Node, parse: Callable[[str], Quantity], units: Iterable[str]) -> Quantity:
    """A number with a unit, such as ``"8 GB"``, in its base unit."""
    shown = ", ".join(units)
    if not isinstance(node.value, str):
        fail(
            node,
            f"{node.label} is {_shown(node.value)}; write a text of a number and one of: {shown}",
        )
    try:
        value = parse(node.value)
    except InputError as wrong:
        fail(node, f"{node.label}: {wrong}")
    except (ValueError, OverflowError):
        fail(
            node,
            f"{node.label}: {_shown(node.value)} is not a number with one of the units {shown}",
        )
    if not math.isfinite(value) or value > 2**63:
        fail(node, f"{node.label}: {_shown(node.value)} is larger than any device")
    return value


def plain(node: Node) -> Any:
    """A node as JSON-like values: tables, lists, texts, finite numbers, true and false."""
    if isinstance(node.value, dict):
        return {key: plain(item) for key, item in node.value.items()}
    if isinstance(node.value, list):
        return [plain(item) for item in node.value]
    is_number = isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
    if is_number:
        number(node, least=-1e18)
    elif not isinstance(node.value, (str, bool)):
        fail(
            node,
            f"{node.label} is {_shown(node.value)}; only texts, numbers, true and false may stand"
            " here",
        )
    return node.value


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    return repr(value)[:60] if isinstance(value, str) else str(value)[:60]
