"""The protobuf wire format: the fields of a message, read in place with every length checked.

A nested message lies inside its parent, so work is bounded by file size times depth; depth is
bounded by the reader that descends. Fields are charged to a budget so that time stays bounded.
Source: protobuf.dev, "Encoding".
"""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import InputError

_MOST_FIELDS = 2_000_000
_VARINT_BYTES = 10
_PIECE_BYTES = 1 << 20

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Budget:
    """How many fields may still be read from one file."""

    __slots__ = ("left",)

    def __init__(self, fields: int = _MOST_FIELDS) -> None:
        self.left = fields


class Message:
    """One message: ``data[start:end]`` of a file; ``name`` opens every message to the user."""

    __slots__ = ("budget", "data", "end", "name", "start")

    def __init__(
        self, data: memoryview, name: str, *, start: int, end: int, budget: Budget
    ) -> None:
        self.data = data
        self.name = name
        self.start = start
        self.end = end
        self.budget = budget

    def fail(self, offset: int, what: str) -> InputError:
        """An error that names the file and the offset."""
        return InputError(
            f"{self.name}: {what} at byte {offset} of {len(self.data)}; "
            "the file is cut off, damaged, or neither .tflite nor .onnx"
        )

    def fields(self) -> "Iterator[tuple[int, Field]]":
        """(field number, value) in the order of the file."""
        at = self.start
        while at < self.end:
            self.budget.left -= 1
            if self.budget.left < 0:
                raise self.fail(at, f"more than {_MOST_FIELDS} fields")
            key, place = self._varint(at)
            number, wire = key >> 3, key & 7
            if not number:
                raise self.fail(at, "field number 0")
            field, at = self._field(wire, place)
            yield number, field

    def collect(self) -> "dict[int, list[Field]]":
        """All fields by number, each in the order of the file."""
        found: dict[int, list[Field]] = {}
        for number, field in self.fields():
            found.setdefault(number, []).append(field)
        return found

    def _field(self, wire: int, at: int) -> "tuple[Field, int]":
        if wire == VARINT:
            value, end = self._varint(at)
            return Field(self, wire, at, end, value), end
        if wire == BYTES:
            size, begin = self._varint(at)
            end = begin + size
            at = begin
        elif wire in (FIXED32, FIXED64):
            end = at + (4 if wire == FIXED32 else 8)
        else:
            raise self.fail(at, f"wire type {wire}")
        if end > self.end:
            raise self.fail(at, f"a field of {end - at} bytes does not fit")
        return Field(self, wire, at, end, 0), end

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        for place in range(at, min(at + _VARINT_BYTES, self.end)):
            byte = self.data[place]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, place + 1
            shift += 7
        raise self.fail(at, "a number without an end")


class Field:
    """The value of one field, decoded on demand as the schema says."""

    __slots__ = ("_value", "end", "message", "start", "wire")

    def __init__(self, message: Message, wire: int, start: int, end: int, value: int) -> None:
        self.message = message
        self.wire = wire
        self.start = start
        self.end = end
        self._value = value

    def _expect(self, wire: int) -> None:
        if self.wire != wire:
            raise self.message.fail(self.start, f"wire type {self.wire} where {wire} belongs")

    def integer(self) -> int:
        """A signed 64-bit or 32-bit integer, or an enum."""
        self._expect(VARINT)
        return self._value - (1 << 64) if self._value >> 63 else self._value

    def real(self) -> float:
        """A 32-bit float."""
        self._expect(FIXED32)
        value: float = struct.unpack_from("<f", self.message.data, self.start)[0]
        return value

    def blob(self) -> memoryview:
        """Bytes, seen in place."""
        self._expect(BYTES)
        return self.message.data[self.start : self.end]

    def text(self) -> str:
        """A string; bytes that are no UTF-8 are replaced."""
        return bytes(self.blob()).decode("utf-8", "replace")

    @property
    def size_bytes(self) -> int:
        """What the value takes in the file."""
        return self.end - self.start

    def nested(self) -> Message:
        """A message in this field."""
        self._expect(BYTES)
        whole = self.message
        return Message(whole.data, whole.name, start=self.start, end=self.end, budget=whole.budget)

    def integers(self) -> NDArray[np.int64]:
        """One integer, or packed ones."""
        if self.wire == VARINT:
            return np.array([self.integer()], np.int64)
        return _packed_varints(self.blob(), self)

    def fixed(self, dtype: str) -> NDArray[np.float32] | NDArray[np.float64]:
        """One float or double, or packed ones."""
        kind = np.dtype(dtype)
        if self.wire != BYTES:
            self._expect(FIXED32 if kind.itemsize == 4 else FIXED64)
        content = self.message.data[self.start : self.end]
        if content.nbytes % kind.itemsize:
            raise self.message.fail(self.start, f"{content.nbytes} bytes of {kind.name}")
        found: NDArray[np.float32] = np.frombuffer(content, kind)
        return found


def _packed_varints(content: memoryview, field: Field) -> NDArray[np.int64]:
    """All varints of a packed field, a piece at a time so that the scratch space stays small."""
    raw = np.frombuffer(content, np.uint8)
    pieces, at = [np.zeros(0, np.int64)], 0
    while at < len(raw):
        piece = raw[at : at + _PIECE_BYTES]
        ends = np.flatnonzero(piece < 0x80)
        if not len(ends):
            raise field.message.fail(field.start + at, "a number without an end")
        starts = np.concatenate(([0], ends[:-1] + 1))
        if (ends - starts).max() >= _VARINT_BYTES:
            raise field.message.fail(field.start + at, "a number of more than 10 bytes")
        used = int(ends[-1]) + 1
        pieces.append(_varints(piece[:used], starts, ends))
        at += used
    return np.concatenate(pieces)


def _varints(
    raw: NDArray[np.uint8], starts: NDArray[np.intp], ends: NDArray[np.intp]
) -> NDArray[np.int64]:
    digit = np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)
    bits = (raw & np.uint8(0x7F)).astype(np.uint64) << (digit.astype(np.uint64) * np.uint64(7))
    return np.bitwise_or.reduceat(bits, starts).view(np.int64)
