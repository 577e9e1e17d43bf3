"""Tensors: what is taken, what is cast and what is refused."""

import contextlib
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.contract import Tensor
from edgekit.core.errors import InputError
from edgekit.data.preprocess import cast_exactly, prepare, shape_fault

SOURCE = Tensor(shape=(2, 3))
ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_importing_it_imports_numpy_alone():
    import subprocess

    code = (
        "import sys, edgekit.data.preprocess\n"
        "print([m for m in ('PIL', 'soundfile', 'soxr', 'tokenizers', 'wave') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_array_of_the_right_kind_passes():
    found = prepare(ARRAY, SOURCE, where="x")
    np.testing.assert_array_equal(found, ARRAY)
    assert found.dtype == np.float32


@pytest.mark.parametrize("give", [ARRAY.tolist(), ARRAY.astype(np.float64), ARRAY[::-1][::-1]])
def test_lists_and_other_floats_become_the_tensor(give):
    found = prepare(give, SOURCE, where="x")
    np.testing.assert_array_equal(found, ARRAY)
    assert found.flags.c_contiguous


def test_torch_tensors_are_taken():
    import torch

    np.testing.assert_array_equal(prepare(torch.from_numpy(ARRAY), SOURCE, where="x"), ARRAY)
    with pytest.raises(InputError, match="cannot be read as an array"):
        prepare(torch.ones(2, 3, requires_grad=True), SOURCE, where="x")


def test_files_are_read(tmp_path):
    np.save(tmp_path / "x.npy", ARRAY)
    np.savez(tmp_path / "x.npz", x=ARRAY)
    for path in (tmp_path / "x.npy", str(tmp_path / "x.npz")):
        np.testing.assert_array_equal(prepare(path, SOURCE, where="x"), ARRAY)


def test_a_scalar_tensor_keeps_its_shape():
    assert prepare(3.0, Tensor(shape=()), where="x").shape == ()


def test_files_that_cannot_be_read_are_named(tmp_path):
    np.savez(tmp_path / "two.npz", a=ARRAY, b=ARRAY)
    np.save(tmp_path / "pickle.npy", np.array([object()]), allow_pickle=True)
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00\x01\x00[")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not a zip")
    (tmp_path / "folder.npy").mkdir()
    cases = {
        "gone.npy": "there is no file",
        "x.txt": r"not a \.npy or \.npz",
        "two.npz": r"holds \['a', 'b'\]; it must hold one",
        "pickle.npy": "allow_pickle",
        "bad.npy": "cannot be read",
        "bad.npz": "cannot be read",
        "folder.npy": "cannot be read",
    }
    for name, reason in cases.items():
        with pytest.raises(InputError, match=f"here: .*{reason}"):
            prepare(tmp_path / name, SOURCE, where="here")


@given(st.binary(max_size=80), st.sampled_from([".npy", ".npz"]), st.integers(0, 150))
def test_any_file_is_an_array_or_an_input_error(tmp_path_factory, noise, suffix, at):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    save = np.save if suffix == ".npy" else np.savez
    save(path, ARRAY)
    data = path.read_bytes()
    path.write_bytes(data[:at] + noise + data[at + len(noise) :])
    with contextlib.suppress(InputError):
        prepare(path, SOURCE, where="x")


@pytest.mark.parametrize(
    ("give", "reason"),
    [
        (ARRAY[None], "a sample has no batch axis here"),
        (np.zeros((4, 2, 3), np.float32), "this is a batch of 4"),
        (ARRAY.T, "the axes are in another order"),
        (ARRAY[:1], r"shape is \(1, 3\), wanted \(2, 3\)"),
        (ARRAY.astype(np.uint8), r"predict\(\)"),
        (ARRAY.astype(np.int64), "dtype is int64, wanted float32"),
        ([[1, 2], [3]], "cannot be read"),
        ({"x": 1}, "not an array of numbers"),
        ([["a", "b", "c"]] * 2, "not an array of numbers"),
    ],
)
def test_near_misses_say_what_came_and_what_was_wanted(give, reason):
    with pytest.raises(InputError, match=f"here: .*{reason}"):
        prepare(give, SOURCE, where="here")


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="str is no kind of input"):
        prepare(ARRAY, "image", where="x")


@pytest.mark.parametrize(
    ("have", "want", "is_taken"),
    [
        ("float32", "float32", True),
        ("float16", "float32", True),
        ("float64", "float32", True),
        (">f4", "float32", True),
        ("float32", "float16", False),
        ("float32", "float64", False),
        ("int32", "float32", False),
        ("bool", "int64", False),
        ("float32", "int64", False),
        ("uint8", "int64", True),
        ("int64", "int8", True),
        ("uint8", "bool", False),
        ("bool", "bool", True),
    ],
)
def test_only_casts_that_keep_the_numbers_are_made(have, want, is_taken):
    array = np.array([0, 1, 100 if have != "bool" else 1]).astype(have)
    if is_taken:
        found = cast_exactly(array, np.dtype(want), where="x")
        assert found.dtype == np.dtype(want)
        np.testing.assert_array_equal(found, array)
    else:
        with pytest.raises(InputError, match=f"wanted {want}"):
            cast_exactly(array, np.dtype(want), where="x")


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.sampled_from(["int8", "uint8", "int32"]))
def test_whole_numbers_survive_a_cast_or_it_is_refused(values, dtype):
    array = np.array(values, dtype=np.int64)
    limits = np.iinfo(dtype)
    if all(limits.min <= value <= limits.max for value in values):
        assert cast_exactly(array, np.dtype(dtype), where="x").tolist() == values
    else:
        with pytest.raises(InputError, match="do not fit"):
            cast_exactly(array, np.dtype(dtype), where="x")


def test_zeros_and_ones_become_a_mask_and_other_numbers_do_not():
    mask = cast_exactly(np.array([0, 1, 1], np.int64), np.dtype(bool), where="x")
    assert mask.dtype == bool
    assert mask.tolist() == [False, True, True]
    with pytest.raises(InputError, match="int64 holds -1, wanted bool; 0 and 1 stand for"):
        cast_exactly(np.array([0, -1]), np.dtype(bool), where="x")


def test_overflow_is_refused_and_infinities_stay():
    with pytest.raises(InputError, match="past the largest float32"):
        cast_exactly(np.array([1e39]), np.dtype("float32"), where="x")
    found = cast_exactly(np.array([np.inf, np.nan]), np.dtype("float32"), where="x")
    assert np.isposinf(found[0])
    assert np.isnan(found[1])


def test_equal_shapes_with_nothing_to_add():
    assert shape_fault((5,), (3,)) == "shape is (5,), wanted (3,)"
