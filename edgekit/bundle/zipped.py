"""The one zip encoding of a bundle, and a reader that takes nothing else.

Entries are stored, sorted, dated 1980-01-01 and carry no extra fields, so the same files give the
same bytes. The reader walks the entries in order and compares every header, the central directory
and the end with what the writer would write: whatever a zip could smuggle in beside its files
(links, folders, overlaps, bombs, second directories, gaps) differs from that and is refused.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12, 4.3.16, 4.4.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from edgekit.bundle.paths import path_fault
from edgekit.core.errors import BundleError, OutputError
from edgekit.core.units import format_bytes

# Past these a zip needs the Zip64 extension, which the reader does not take.
MAXIMUM_ZIP_BYTES = 2**32 - 1
MAXIMUM_ZIP_ENTRIES = 2**16 - 1

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCAL_SIGNATURE, _CENTRAL_SIGNATURE, _END_SIGNATURE = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_VERSION_NEEDED = 10
_MADE_BY_UNIX = 3 << 8 | _VERSION_NEEDED
_DATE = 1 << 5 | 1  # 1980-01-01, the first day that a zip can name
_PLAIN_FILE = 0o100644 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One stored file: where its header starts and what is in it."""

    path: str
    crc: int
    size: int
    offset: int

    def local(self) -> bytes:
        name = self.path.encode("ascii")
        fields = (_VERSION_NEEDED, 0, 0, 0, _DATE, self.crc, self.size, self.size, len(name), 0)
        return _LOCAL.pack(_LOCAL_SIGNATURE, *fields) + name

    def central(self) -> bytes:
        name = self.path.encode("ascii")
        fields = (_VERSION_NEEDED, 0, 0, 0, _DATE, self.crc, self.size, self.size, len(name))
        places = (0, 0, 0, 0, _PLAIN_FILE, self.offset)
        return _CENTRAL.pack(_CENTRAL_SIGNATURE, _MADE_BY_UNIX, *fields, *places) + name

    @property
    def end(self) -> int:
        """Where the next header starts."""
        return self.offset + _LOCAL.size + len(self.path) + self.size


def encode_zip(contents: Mapping[str, bytes]) -> Iterator[bytes]:
    """The zip of some files, piece by piece.

    Raises: OutputError past 4 GiB or 65,535 files.
    """
    total = sum(_LOCAL.size + _CENTRAL.size + 2 * len(p) + len(c) for p, c in contents.items())
    if total + _END.size > MAXIMUM_ZIP_BYTES or len(contents) > MAXIMUM_ZIP_ENTRIES:
        raise OutputError(
            f"the bundle has {format_bytes(total)} in {len(contents)} files; a zip holds at most "
            f"{format_bytes(MAXIMUM_ZIP_BYTES)} and {MAXIMUM_ZIP_ENTRIES} files: ship the folder"
        )
    entries: list[_Entry] = []
    for path in sorted(contents):
        content = contents[path]
        offset = entries[-1].end if entries else 0
        entry = _Entry(path=path, crc=zlib.crc32(content), size=len(content), offset=offset)
        entries.append(entry)
        yield entry.local()
        yield content
    yield _closing(entries)


def decode_zip(file: BinaryIO, size_bytes: int, *, where: str) -> dict[str, bytes]:
    """The files of a zip that ``encode_zip`` could have written, by path.

    ``size_bytes`` is what the file has: no entry may claim more than is left of it.
    Raises: BundleError for any other bytes.
    """
    contents: dict[str, bytes] = {}
    entries: list[_Entry] = []
    signature = file.read(len(_LOCAL_SIGNATURE))
    while signature == _LOCAL_SIGNATURE:
        offset = entries[-1].end if entries else 0
        header = signature + file.read(_LOCAL.size - len(signature))
        path, size = _read_header(file, header, where)
        if entries and path <= entries[-1].path:
            raise BundleError(f"{where}: entry '{path}' stands twice or out of order")
        if len(contents) >= MAXIMUM_ZIP_ENTRIES or size > size_bytes - offset:
            raise BundleError(f"{where}: entry '{path}' claims {size} bytes, more than are there")
        content = file.read(size)
        entry = _Entry(path=path, crc=zlib.crc32(content), size=len(content), offset=offset)
        if header + path.encode("ascii") != entry.local():
            raise BundleError(f"{where}: entry '{path}' is damaged or {_FOREIGN}")
        entries.append(entry)
        contents[path] = content
        signature = file.read(len(_LOCAL_SIGNATURE))
    closing = _closing(entries)
    if not entries or signature + file.read(len(closing) + 1) != closing:
        raise BundleError(f"{where}: the zip's directory is damaged or {_FOREIGN}")
    return contents


_FOREIGN = "not as edgekit writes it; make the zip with edgekit, not with another tool"


def _read_header(file: BinaryIO, header: bytes, where: str) -> tuple[str, int]:
    if len(header) < _LOCAL.size:
        raise BundleError(f"{where}: the zip ends inside an entry")
    fields = _LOCAL.unpack(header)
    size, name_length = fields[7], fields[9]
    path = file.read(name_length).decode("latin-1")
    fault = path_fault(path)
    if fault:
        raise BundleError(f"{where}: an entry's path {path[:80]!r} {fault}")
    return path, size


def _closing(entries: list[_Entry]) -> bytes:
    central = b"".join(entry.central() for entry in entries)
    start = entries[-1].end if entries else 0
    count = len(entries)
    return central + _END.pack(_END_SIGNATURE, 0, 0, count, count, len(central), start, 0)
