"""The self-test fails closed, and golden files are read strictly."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundle.manifest import Golden
from edgekit.core.errors import BundleError
from edgekit.runtime.golden import SelfTest, decode_npy, encode_npy, run_self_test

INPUT = np.zeros((2, 3), np.float32)
OUTPUT = np.float32([[1.0, 2.0], [3.0, 4.0]])
GOLDEN = Golden(samples=2, inputs={"x": "x.npy"}, outputs={"y": "y.npy"}, tolerance={"y": 0.1})


def numpy_bytes(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def run(found) -> SelfTest:
    files = {"x.npy": numpy_bytes(INPUT), "y.npy": numpy_bytes(OUTPUT)}
    return run_self_test(GOLDEN, files.__getitem__, lambda _: {"y": found})


@pytest.mark.parametrize(
    ("found", "difference"),
    [
        (OUTPUT, 0.0),
        (OUTPUT + np.float32(0.0625), 0.0625),
        (OUTPUT - np.float32(0.5), 0.5),
        (OUTPUT.astype(np.float64), np.inf),
        (OUTPUT[:1], np.inf),
        (OUTPUT * np.float32(np.nan), np.inf),
        (OUTPUT * np.float32(np.inf), np.inf),
    ],
)
def test_the_largest_difference_decides(found, difference):
    result = run(found)
    assert result.differences == {"y": difference}
    assert result.is_passed == (difference <= 0.1)
    assert result.failed == (() if result.is_passed else ("y",))
    assert ("passed" if result.is_passed else "failed") in str(result)


def test_one_nan_among_equal_values_fails():
    found = OUTPUT.copy()
    found[0, 0] = np.nan
    assert not run(found).is_passed


def test_a_test_of_nothing_does_not_pass():
    assert not SelfTest(samples=1, differences={}, tolerance={}).is_passed


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int16", "uint8", "bool"])
def test_arrays_are_read_and_written_as_numpy_does(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    assert encode_npy(array) == numpy_bytes(array)
    found = decode_npy(numpy_bytes(array), where="x")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert encode_npy(np.float32(3)) == numpy_bytes(np.float32(3))
    for shape in ((), (6,), (1, 2, 3), (2, 0)):
        whole = np.zeros(shape, dtype)
        assert decode_npy(numpy_bytes(whole), where="x").shape == shape


def huge_header() -> bytes:
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }"
    text += b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"1234"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a .npy"),
        (numpy_bytes(INPUT)[:20], "not a .npy"),
        (numpy_bytes(INPUT)[:-1], "do not fill"),
        (numpy_bytes(INPUT) + b"x", "do not fill"),
        (numpy_bytes(np.asfortranarray(np.ones((2, 3)))), "C order"),
        (numpy_bytes(np.array(["text"])), "of numbers"),
        (numpy_bytes(np.array([object()]), allow_pickle=True), "of numbers"),
        (numpy_bytes(INPUT).replace(b"NUMPY\x01", b"NUMPY\x02"), "not a .npy"),
        (huge_header(), "do not fill"),
    ],
)
def test_other_files_are_refused(data, reason):
    with pytest.raises(BundleError, match=reason):
        decode_npy(data, where="x.npy")


@given(st.binary(max_size=100), st.integers(0, 127))
def test_any_bytes_are_an_array_or_a_bundle_error(noise, at):
    data = numpy_bytes(INPUT)
    for candidate in (noise, b"\x93NUMPY\x01\x00" + noise, data[:at] + noise + data[at:]):
        with contextlib.suppress(BundleError):
            decode_npy(candidate, where="x")
