"""The flatbuffers wire format, read in place with every offset checked.

Flatbuffers may share parts, so a small file can describe a huge tree. Every table and element
that is visited is charged to a budget that grows with the file: time and memory stay bounded.
Source: flatbuffers.dev, "FlatBuffer Internals" (tables, vtables, vectors, strings).
"""

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgekit.core.errors import InputError

if TYPE_CHECKING:
    from edgekit.graph.model import Array

_FREE_VISITS = 50_000
_VISITS_PER_BYTE = 1
_MOST_VISITS = 2_000_000
# A table costs more than an entry of a vector, in the file and in time.
_VISITS_PER_TABLE = 4
# A string costs one visit for so many of its bytes.
_STRING_BYTES_PER_VISIT = 64
_UINT16 = struct.Struct("<H")
_INT32 = struct.Struct("<i")
_UINT32 = struct.Struct("<I")
_SCALARS = {code: struct.Struct("<" + code) for code in "bBhHiIqQf?"}


class FlatBuffer:
    """Bytes in flatbuffers format; ``name`` opens every message."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data = memoryview(data).toreadonly()
        self.name = name
        self._visits_left = min(_FREE_VISITS + _VISITS_PER_BYTE * len(data), _MOST_VISITS)
        self._strings: dict[int, str] = {}

    def fail(self, offset: int, what: str) -> InputError:
        """An error that names the file and the offset."""
        return InputError(
            f"{self.name}: {what} at byte {offset} of {len(self.data)}; "
            "the file is cut off or damaged"
        )

    def charge(self, visits: int, offset: int) -> None:
        """Take visits from the budget.

        Raises: InputError when it is spent.
        """
        self._visits_left -= visits
        if self._visits_left < 0:
            raise self.fail(offset, "more parts than a file of this size can hold")

    def scalar(self, code: str, offset: int) -> int | float | bool:
        """One scalar by its struct code."""
        form = _SCALARS[code]
        self._check(offset, form.size)
        value: int | float | bool = form.unpack_from(self.data, offset)[0]
        return value

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise self.fail(offset, f"{size} bytes do not fit")

    def follow(self, offset: int) -> int:
        """The place that the relative offset stored at ``offset`` points to."""
        self._check(offset, 4)
        return offset + int(_UINT32.unpack_from(self.data, offset)[0])

    def root(self) -> "Table":
        """The root table."""
        return self.table(self.follow(0))

    def table(self, offset: int) -> "Table":
        """The table that starts at ``offset``."""
        self.charge(_VISITS_PER_TABLE, offset)
        self._check(offset, 4)
        vtable = offset - int(_INT32.unpack_from(self.data, offset)[0])
        self._check(vtable, 4)
        size = int(_UINT16.unpack_from(self.data, vtable)[0])
        if size < 4 or size % 2:
            raise self.fail(vtable, f"a field table of {size} bytes")
        self._check(vtable, size)
        return Table(self, offset, vtable, size)

    def vector(self, offset: int, item_bytes: int) -> tuple[int, int]:
        """(first item's offset, number of items) of the vector at ``offset``."""
        self._check(offset, 4)
        count = int(_UINT32.unpack_from(self.data, offset)[0])
        self._check(offset + 4, count * item_bytes)
        return offset + 4, count

    def string(self, offset: int) -> str:
        """The string at ``offset``; bytes that are no UTF-8 are replaced."""
        known = self._strings.get(offset)
        if known is not None:
            return known
        start, count = self.vector(offset, 1)
        self.charge(1 + count // _STRING_BYTES_PER_VISIT, offset)
        text = bytes(self.data[start : start + count]).decode("utf-8", "replace")
        self._strings[offset] = text
        return text


class Table:
    """One table; fields by their number in the schema."""

    __slots__ = ("_buffer", "_offset", "_vtable", "_vtable_bytes")

    def __init__(self, buffer: FlatBuffer, offset: int, vtable: int, vtable_bytes: int) -> None:
        self._buffer = buffer
        self._offset = offset
        self._vtable = vtable
        self._vtable_bytes = vtable_bytes

    @property
    def offset(self) -> int:
        """Where the table starts."""
        return self._offset

    def place(self, field: int) -> int:
        """The offset of a field's value, 0 where it is absent."""
        entry = 4 + 2 * field
        if entry + 2 > self._vtable_bytes:
            return 0
        relative = int(_UINT16.unpack_from(self._buffer.data, self._vtable + entry)[0])
        return self._offset + relative if relative else 0

    def integer(self, field: int, code: str, default: int = 0) -> int:
        """An integer field."""
        place = self.place(field)
        return int(self._buffer.scalar(code, place)) if place else default

    def value(self, field: int, code: str, default: float | bool) -> int | float | bool:
        """A scalar field of any type."""
        place = self.place(field)
        return self._buffer.scalar(code, place) if place else default

    def text(self, field: int) -> str:
        """A string field, "" where it is absent."""
        place = self.place(field)
        return self._buffer.string(self._buffer.follow(place)) if place else ""

    def table(self, field: int) -> "Table | None":
        """A table field."""
        place = self.place(field)
        return self._buffer.table(self._buffer.follow(place)) if place else None

    def tables(self, field: int) -> "Iterator[Table]":
        """The tables of a vector field."""
        place = self.place(field)
        if place:
            start, count = self._buffer.vector(self._buffer.follow(place), 4)
            for item in range(count):
                yield self._buffer.table(self._buffer.follow(start + 4 * item))

    def array(self, field: int, dtype: str) -> "Array | None":
        """A vector of scalars, seen in place; None where it is absent."""
        place = self.place(field)
        if not place:
            return None
        kind = np.dtype(dtype)
        start, count = self._buffer.vector(self._buffer.follow(place), kind.itemsize)
        return np.frombuffer(self._buffer.data, kind, count=count, offset=start)

    def integers(self, field: int) -> tuple[int, ...]:
        """A vector of 32-bit integers, () where it is absent."""
        found = self.array(field, "<i4")
        if found is None:
            return ()
        self._buffer.charge(len(found), self._offset)
        return tuple(found.tolist())

    def blob(self, field: int) -> memoryview | None:
        """A vector of bytes, seen in place; None where it is absent."""
        place = self.place(field)
        if not place:
            return None
        start, count = self._buffer.vector(self._buffer.follow(place), 1)
        return self._buffer.data[start : start + count]
