import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekit.core.errors import OutputError, WorkloadError
from edgekit.data.dataset import META, DatasetWriter, add_choices, open_dataset


@pytest.fixture
def folder(tmp_path):
    with DatasetWriter(tmp_path / "set") as writer:
        for i in range(5):
            writer.append({"x": np.full((2, 3), i, np.float32), "target": np.asarray(i, np.int64)})
    return tmp_path / "set"


def test_rows_lie_raw_in_c_order_so_that_numpy_alone_reads_them(folder):
    raw = np.fromfile(folder / "x.bin", "<f4").reshape(5, 2, 3)
    assert (raw == np.arange(5).reshape(5, 1, 1)).all()
    meta = json.loads((folder / META).read_text())
    assert meta["schema"] == 1
    assert meta["count"] == 5
    assert meta["arrays"] == {
        "x": {"dtype": "float32", "shape": [2, 3]},
        "target": {"dtype": "int64", "shape": []},
    }


def test_digest_is_sha256_over_heads_and_bytes_in_order(folder):
    digest = hashlib.sha256()
    for i in range(5):
        digest.update(b"6:target|int64|[]|" + np.int64(i).tobytes())
        digest.update(b"1:x|float32|[2, 3]|" + np.full(6, i, "<f4").tobytes())
    assert open_dataset(folder).digest == digest.hexdigest()


def test_batches_cover_all_samples_and_the_last_may_be_short(folder):
    batches = list(open_dataset(folder).batches(2))
    assert [len(batch["x"]) for batch in batches] == [2, 2, 1]
    assert np.concatenate([batch["target"] for batch in batches]).tolist() == [0, 1, 2, 3, 4]
    assert batches[0]["x"].shape == (2, 2, 3)


def test_batches_of_chosen_names_read_only_these(folder):
    assert [set(batch) for batch in open_dataset(folder).batches(3, ["x"])] == [{"x"}, {"x"}]
    assert list(open_dataset(folder).batches(3, [])) == [{}, {}]


def test_sample_has_no_batch_axis(folder):
    sample = open_dataset(folder).sample(3)
    assert sample["x"].shape == (2, 3)
    assert sample["target"] == 3


def test_changing_a_batch_changes_nothing_on_disk(folder):
    next(open_dataset(folder).batches(5))["x"][:] = 9
    open_dataset(folder).verify()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.sampled_from(
        ["float32", "float64", "float16", "int8", "uint8", "int64", "bool"]
    ).flatmap(lambda dtype: hnp.arrays(dtype, st.tuples(st.integers(1, 5), st.integers(1, 4))))
)
def test_whatever_is_written_comes_back_bit_for_bit(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("set")
    with DatasetWriter(folder) as writer:
        for row in rows:
            writer.append({"a/b:0 ..": row})
    found = np.concatenate([batch["a/b:0 .."] for batch in open_dataset(folder).batches(2)])
    assert found.dtype == rows.dtype
    assert found.tobytes() == rows.tobytes()


def test_big_endian_and_strided_arrays_are_stored_in_the_one_form(tmp_path):
    with DatasetWriter(tmp_path / "a") as writer:
        writer.append({"x": np.arange(6, dtype=">f4").reshape(2, 3).T})
    assert (open_dataset(tmp_path / "a").sample(0)["x"] == np.arange(6).reshape(2, 3).T).all()


def write(path, samples):
    with DatasetWriter(path) as writer:
        for sample in samples:
            writer.append(sample)


def test_an_error_while_writing_leaves_no_dataset(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "a", ({"x": np.full(2, 1 / i)} for i in (1, 0)))
    with pytest.raises(WorkloadError, match="no finished dataset"):
        open_dataset(tmp_path / "a")


def test_a_dataset_is_not_written_over(folder):
    with pytest.raises(OutputError, match="holds a dataset already"):
        DatasetWriter(folder)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"x": np.zeros((2, 3), np.float32)}, "sample 1 has x; sample 0 had target, x"),
        (
            {"x": np.zeros((2, 3), np.float64), "target": np.asarray(1)},
            r"'x' of sample 1 is float64 \[2, 3\]; that of sample 0 is float32 \[2, 3\]",
        ),
        ({"x": np.zeros((3, 3), np.float32), "target": np.asarray(1)}, r"is float32 \[3, 3\]"),
        ({"x": np.array([None]), "target": np.asarray(1)}, "stores booleans, integers and floats"),
        ({"x": np.zeros((0,)), "target": np.asarray(1)}, "at least one element"),
    ],
)
def test_a_sample_unlike_the_first_is_refused(tmp_path, sample, message):
    first = {"x": np.zeros((2, 3), np.float32), "target": np.asarray(0)}
    with pytest.raises(WorkloadError, match=message):
        write(tmp_path / "a", [first, sample])


def test_no_samples_and_no_arrays_are_errors(tmp_path):
    with pytest.raises(WorkloadError, match="no samples"):
        write(tmp_path / "a", [])
    with pytest.raises(WorkloadError, match="no arrays"):
        write(tmp_path / "b", [{}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2 is not known"),
        ({"count": 0}, "at least one sample"),
        ({"count": 4}, "has 40 bytes; 4 samples of 8 bytes are 32"),
        ({"arrays": {}}, "at least one sample and one array"),
        ({"arrays": {"x": {"dtype": "object", "shape": [6]}}}, "the dtype must be"),
        ({"arrays": {"x": {"dtype": "nope", "shape": [6]}}}, "the dtype must be"),
        ({"arrays": {"x": {"dtype": "float32", "shape": [-6]}}}, "every length 1 or more"),
        ({"arrays": {"../../x": {"dtype": "float32", "shape": [6]}}}, "is missing"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"count": "5"}, "is not a whole number"),
    ],
)
def test_a_description_that_does_not_add_up_is_refused(folder, change, message):
    meta = json.loads((folder / META).read_text())
    (folder / META).write_text(json.dumps({**meta, **change}))
    with pytest.raises(WorkloadError, match=message):
        open_dataset(folder)


def test_a_file_cut_short_or_not_json_is_refused(folder):
    (folder / "x.bin").write_bytes(b"123")
    with pytest.raises(WorkloadError, match="has 3 bytes; 5 samples of 24 bytes are 120"):
        open_dataset(folder)
    (folder / META).write_text("{")
    with pytest.raises(WorkloadError, match="not JSON"):
        open_dataset(folder)


def test_a_file_cut_short_while_in_use_is_refused(folder):
    dataset = open_dataset(folder)
    (folder / "x.bin").write_bytes(b"123")
    with pytest.raises(WorkloadError, match="cut short while in use"):
        list(dataset.batches(2))


def test_one_changed_bit_fails_verification(folder):
    dataset = open_dataset(folder)
    content = bytearray((folder / "x.bin").read_bytes())
    content[50] ^= 1
    (folder / "x.bin").write_bytes(content)
    with pytest.raises(WorkloadError, match="changed after they were written"):
        dataset.verify()


def test_wrong_names_indices_and_sizes_are_refused(folder):
    dataset = open_dataset(folder)
    with pytest.raises(WorkloadError, match="no array 'y'; there are"):
        next(dataset.batches(1, ["y"]))
    with pytest.raises(WorkloadError, match="no sample 5; there are 5"):
        dataset.sample(5)
    with pytest.raises(WorkloadError, match="batch size is 0"):
        next(dataset.batches(0))


ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.mark.parametrize("size", [1, 2, 4, 64])
def test_every_sample_meets_every_choice(folder, size):
    before = open_dataset(folder)
    dataset = add_choices(folder, "adapter", ROWS)
    assert (dataset.count, dataset.repeats) == (15, 3)
    batches = list(dataset.batches(size))
    assert [len(batch["target"]) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    found = {name: np.concatenate([item[name] for item in batches]) for name in dataset.arrays}
    assert found["target"].tolist() == np.repeat(np.arange(5), 3).tolist()
    np.testing.assert_array_equal(found["adapter"], np.tile(ROWS, (5, 1)))
    np.testing.assert_array_equal(found["x"][:, 0, 0], np.repeat(np.arange(5), 3))
    for index in (0, 7, 14):
        sample = dataset.sample(index)
        assert all((sample[name] == found[name][index]).all() for name in found)
    alone = dataset.without_choices()
    assert (alone.count, alone.digest) == (5, before.digest)
    assert alone.arrays == before.arrays


def test_choices_alone_or_none_of_them_can_be_read(folder):
    dataset = add_choices(folder, "adapter", ROWS)
    (batch,) = dataset.batches(64, ["adapter"])
    np.testing.assert_array_equal(batch["adapter"], np.tile(ROWS, (5, 1)))
    (batch,) = dataset.batches(64, ["target"])
    assert list(batch) == ["target"]


def test_choices_take_their_own_room_alone(folder):
    before = {file.name: file.stat().st_size for file in folder.glob("*.bin")}
    add_choices(folder, "adapter", ROWS)
    after = {file.name: file.stat().st_size for file in folder.glob("*.bin")}
    assert after == before | {"adapter.bin": ROWS.nbytes}


def test_other_choices_are_another_digest_and_changed_ones_are_found(folder):
    dataset = add_choices(folder, "adapter", ROWS)
    assert dataset.digest != dataset.without_choices().digest
    dataset.verify()
    (folder / "adapter.bin").write_bytes((ROWS + 1).tobytes())
    with pytest.raises(WorkloadError, match="changed after they were written"):
        open_dataset(folder).verify()
    with pytest.raises(WorkloadError, match="read by batches"):
        dataset.file("x")
    with pytest.raises(WorkloadError, match="'adapter' cannot be added"):
        add_choices(folder, "adapter", ROWS)
