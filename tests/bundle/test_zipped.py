"""The one zip encoding, held against Python's own zipfile, and attacks on its reader."""

import io
import struct
import zipfile

import pytest

from edgekit.bundle import zipped
from edgekit.bundle.zipped import decode_zip, encode_zip
from edgekit.core.errors import BundleError, OutputError

FILES = {"b/c.bin": bytes(range(200)), "a.txt": b"hello", "empty": b""}


def encode(files) -> bytes:
    return b"".join(encode_zip(files))


def decode(data: bytes) -> dict[str, bytes]:
    return decode_zip(io.BytesIO(data), len(data), where="b.zip")


def foreign(write, **options) -> bytes:
    """A zip that zipfile writes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as file:
        write(file)
    return stream.getvalue()


def test_zipfile_reads_what_is_written():
    with zipfile.ZipFile(io.BytesIO(encode(FILES))) as file:
        assert file.testzip() is None
        assert {name: file.read(name) for name in file.namelist()} == FILES
        assert file.namelist() == sorted(FILES)
        assert all(info.compress_type == zipfile.ZIP_STORED for info in file.infolist())


def test_the_same_files_give_the_same_bytes_in_any_order():
    assert encode(dict(reversed(FILES.items()))) == encode(FILES)


def test_what_is_written_is_read():
    assert decode(encode(FILES)) == FILES


@pytest.mark.parametrize("path", ["../x", "/x", "a\\b", "C:/x", "a/", "x\x00y", ""])
def test_paths_that_leave_or_hide_are_refused(path):
    data = encode({"abc": b"1"})
    evil = data.replace(
        struct.pack("<H", 3) + b"\0\0abc", struct.pack("<H", len(path)) + b"\0\0" + path.encode()
    )
    with pytest.raises(BundleError, match="path"):
        decode(evil)


def test_a_link_is_refused():
    def write(file):
        info = zipfile.ZipInfo("a", (1980, 1, 1, 0, 0, 0))
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc/passwd")

    with pytest.raises(BundleError, match="not as edgekit writes it"):
        decode(foreign(write))


def test_a_folder_entry_is_refused():
    with pytest.raises(BundleError, match="path 'a/'"):
        decode(foreign(lambda file: file.mkdir("a")))


def test_compressed_content_is_refused():
    data = foreign(lambda file: file.writestr("a", b"0" * 10**6), compression=zipfile.ZIP_DEFLATED)
    assert len(data) < 10_000
    with pytest.raises(BundleError, match="damaged or not as edgekit"):
        decode(data)


def test_another_tools_zip_of_the_same_files_is_refused():
    with pytest.raises(BundleError, match="another tool"):
        decode(foreign(lambda file: [file.writestr(*item) for item in sorted(FILES.items())]))


def test_an_entry_cannot_claim_more_than_there_is():
    data = bytearray(encode({"a": b"123"}))
    data[18:22] = struct.pack("<L", 2**32 - 1)
    with pytest.raises(BundleError, match="claims 4294967295 bytes"):
        decode(bytes(data))


def test_entries_twice_or_out_of_order_are_refused():
    one, other = encode({"a": b"1"}), encode({"b": b"2"})
    local = zipped._LOCAL.size + 2
    for data in (one[:local] * 2 + one[local:], other[:local] + one[:local] + one[local:]):
        with pytest.raises(BundleError, match="twice or out of order"):
            decode(data)


@pytest.mark.parametrize("change", [lambda d: b"x" + d, lambda d: d + b"x", lambda d: d + d])
def test_bytes_before_or_after_are_refused(change):
    with pytest.raises(BundleError):
        decode(change(encode(FILES)))


def test_every_truncation_is_refused():
    data = encode(FILES)
    for end in range(len(data)):
        with pytest.raises(BundleError):
            decode(data[:end])


def test_every_flipped_bit_is_refused():
    data = encode({"a": b"1", "b": b"23"})
    for index in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[index] ^= 1 << bit
            with pytest.raises(BundleError):
                decode(bytes(changed))


def test_an_empty_zip_is_refused():
    with pytest.raises(BundleError, match="directory"):
        decode(foreign(lambda file: None))


def test_a_bundle_past_the_zips_limits_is_refused(monkeypatch):
    monkeypatch.setattr(zipped, "MAXIMUM_ZIP_BYTES", 300)
    with pytest.raises(OutputError, match="ship the folder"):
        encode(FILES)
    monkeypatch.setattr(zipped, "MAXIMUM_ZIP_ENTRIES", 1)
    with pytest.raises(OutputError, match="in 2 files"):
        encode({"a": b"", "b": b""})
