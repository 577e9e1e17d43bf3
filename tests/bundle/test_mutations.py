"""Thousands of broken bundles: no crash, none accepted."""

import io
import random

import pytest

from edgekit.bundle.source import MemorySource
from edgekit.bundle.verify import verify_source
from edgekit.bundle.zipped import decode_zip, encode_zip
from edgekit.core.errors import BundleError
from tests.bundle import samples

FILES = samples.contents()
ZIP = b"".join(encode_zip(FILES))


def changed(data: bytes, draw: random.Random) -> bytes:
    """Some bytes with a few of them flipped, cut, doubled, put in or taken out."""
    kind = draw.randrange(5)
    at = draw.randrange(len(data) + 1)
    span = draw.randrange(1, 20)
    if kind == 0:
        flipped = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + draw.randbytes(span) + data[at:]
    if kind == 3:
        return data[:at] + data[at + span :]
    return data[:at] + data[max(0, at - span) :]


def changed_files(draw: random.Random) -> dict[str, bytes]:
    """The bundle's files with one changed, added, removed, renamed or swapped."""
    files = dict(FILES)
    one, other = draw.sample(sorted(files), 2)
    kind = draw.randrange(7)
    if kind <= 2:
        files[one] = changed(files[one], draw)
    elif kind == 3:
        files[draw.choice(["extra", "model/more", ".hidden", "golden/inputs/z.npy"])] = b""
    elif kind == 4:
        del files[one]
    elif kind == 5:
        files[one + draw.choice(["x", "/x", " ", ".bak"])] = files.pop(one)
    else:
        files[one], files[other] = files[other], files[one]
    return files


def read_folder(seed: int) -> tuple[object, object]:
    files = changed_files(random.Random(seed))
    return files, MemorySource("b", files)


def read_zip(seed: int) -> tuple[object, object]:
    draw = random.Random(seed)
    if draw.random() < 0.3:
        safe = {path: data for path, data in changed_files(draw).items() if path.isascii()}
        data = b"".join(encode_zip(safe))
    else:
        data = changed(ZIP, draw)
    return data, MemorySource("b", decode_zip(io.BytesIO(data), len(data), where="b"))


def test_the_untouched_bundle_is_accepted():
    assert verify_source(MemorySource("b", FILES))
    assert decode_zip(io.BytesIO(ZIP), len(ZIP), where="b") == FILES


@pytest.mark.parametrize("read", [read_folder, read_zip])
@pytest.mark.parametrize("block", range(5))
def test_no_mutant_is_accepted_and_none_crashes(read, block):
    untouched = {read_folder: FILES, read_zip: ZIP}[read]
    for seed in range(block * 1000, block * 1000 + 1000):
        try:
            mutant, source = read(seed)
            verify_source(source)
        except BundleError:
            continue
        # A cut at the end, or two equal bytes swapped, can leave everything as it was.
        assert mutant == untouched, f"seed {seed} was accepted"
