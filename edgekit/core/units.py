"""Bytes and times as people write them: ``100 MB``, ``4 MiB``, ``2.5 ms``, ``0.5 point``.

Decimal prefixes are powers of 1000 and binary ones (KiB, MiB, GiB) powers of 1024.
"""

import re

from edgekit.core.errors import InputError

BYTE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
MILLISECOND_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
HERTZ_UNITS = {"Hz": 1, "kHz": 10**3, "MHz": 10**6, "GHz": 10**9}
POINT_UNITS = {"point": 1.0, "points": 1.0}

_QUANTITY = (
    r"^\s*([0-9]{1,18}(?:_[0-9]{3})*(?:\.[0-9]{1,18})?(?:e[+-]?[0-9]{1,2})?)\s*([A-Za-z]+)\s*$"
)


def parse_quantity(text: str, units: dict[str, float] | dict[str, int]) -> float:
    """The value of ``text`` in the base unit of ``units``.

    Raises: InputError when the text is no number with one of the units; it lists them.
    """
    match = re.match(_QUANTITY, text)
    if match is None or match.group(2) not in units:
        allowed = ", ".join(units)
        raise InputError(f"'{text}' is not a quantity; write a number and one of: {allowed}")
    return float(match.group(1).replace("_", "")) * units[match.group(2)]


def parse_bytes(text: str) -> int:
    """Whole bytes of a text such as ``256 KiB``."""
    return round(parse_quantity(text, BYTE_UNITS))


def parse_milliseconds(text: str) -> float:
    """Milliseconds of a text such as ``20 ms``."""
    return parse_quantity(text, MILLISECOND_UNITS)


def parse_hertz(text: str) -> int:
    """Hertz of a text such as ``133 MHz``."""
    return round(parse_quantity(text, HERTZ_UNITS))


def format_bytes(count: float) -> str:
    """Bytes for a person: ``512 B``, ``17.2 kB``, ``4.1 MB`` (decimal prefixes)."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if abs(count) >= size:
            return (
                f"{count / size:.3g} {unit}"
                if abs(count) < 1000 * size
                else f"{count / size:.0f} {unit}"
            )
    return f"{count:.0f} B"


def format_quantity(value: float, unit: str) -> str:
    """A value with its unit as reports print it."""
    if unit == "bytes":
        return format_bytes(value)
    shown = f"{value:.4g}"
    if unit == "points" and shown == "1":
        return "1 point"
    return f"{shown} {'x' if unit == 'ratio' else unit}".strip()
