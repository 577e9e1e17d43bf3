import numpy as np
import pytest
from PIL import Image as Pillow

from edgekit.core.contract import Audio, Image, Tensor, Text
from edgekit.core.errors import WorkloadError
from edgekit.data.checks import check_disjoint, write_checked
from edgekit.data.folders import read_folder

IMAGE = {"image": Image(height=4, width=4)}
ROW = {"x": Tensor(shape=(2,))}
RNG = np.random.default_rng(0)


def picture(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(pixels).save(path)
    return pixels


def all_items(found):
    return [*found.calibration, *found.evaluation]


def checked(found, inputs, tmp_path):
    sets = {
        name: write_checked(
            part, inputs, tmp_path / name, set_name=name, needs_target=found.has_target
        )
        for name, part in (("calibration", found.calibration), ("evaluation", found.evaluation))
    }
    check_disjoint(sets)
    return sets


def test_class_folders_become_labels_in_order(tmp_path):
    for i in range(10):
        picture(tmp_path / "data" / ("cat", "dog")[i % 2] / f"{i}.png", i)
    (tmp_path / "data" / ".DS_Store").write_bytes(b"x")
    found = read_folder(tmp_path / "data", None, IMAGE)
    assert found.labels == ("cat", "dog")
    assert len(found.calibration) == 2
    assert len(found.evaluation) == 8
    for path, label in all_items(found):
        assert path.parent.name == found.labels[label]
    sets = checked(found, IMAGE, tmp_path)
    assert sets["evaluation"].dataset.count == 8


def test_numbered_class_folders_are_ordered_by_number(tmp_path):
    for i in (0, 2, 10):
        picture(tmp_path / "data" / str(i) / "a.png", i)
    found = read_folder(tmp_path / "data", None, IMAGE)
    assert found.labels == ("0", "2", "10")
    assert {(path.parent.name, int(label)) for path, label in all_items(found)} == {
        ("0", 0),
        ("2", 1),
        ("10", 2),
    }


def test_equal_samples_fall_on_the_same_side(tmp_path):
    for i in range(30):
        picture(tmp_path / "data" / "a" / f"{i}.png", i % 6)
    found = read_folder(tmp_path / "data", None, IMAGE)
    checked(found, IMAGE, tmp_path)
    assert len(found.calibration) % 5 == 0


def test_the_split_depends_on_content_and_seed_and_on_nothing_else(tmp_path):
    for place in ("one", "two"):
        for i in range(20):
            picture(tmp_path / place / "a" / f"{i}.png", i)
    names = [
        [path.name for path, _ in read_folder(tmp_path / place, None, IMAGE, seed=seed).calibration]
        for place, seed in (("one", 0), ("two", 0), ("one", 1))
    ]
    assert names[0] == names[1]
    assert names[0] != names[2]


def test_a_large_set_gives_at_most_512_for_calibration(tmp_path):
    np.savez(tmp_path / "a.npz", x=RNG.normal(size=(5000, 2)).astype(np.float32))
    found = read_folder(tmp_path / "a.npz", None, ROW)
    assert len(found.calibration) == 512
    assert len(found.evaluation) == 4488
    assert not found.has_target


def test_a_flat_folder_takes_labels_from_a_csv(tmp_path):
    for i in range(6):
        picture(tmp_path / "data" / f"{i}.png", i)
    (tmp_path / "l.csv").write_text(
        "file,label\n" + "".join(f"{i}.png,{'bird' if i < 2 else 'ant'}\n" for i in range(6))
    )
    found = read_folder(tmp_path / "data", tmp_path / "l.csv", IMAGE)
    assert found.labels == ("ant", "bird")
    assert {(path.name, int(label)) for path, label in all_items(found)} == {
        (f"{i}.png", int(i < 2)) for i in range(6)
    }


def test_a_flat_folder_without_labels_has_no_targets(tmp_path):
    for i in range(3):
        picture(tmp_path / "data" / f"{i}.png", i)
    found = read_folder(tmp_path / "data", None, IMAGE)
    assert not found.has_target
    assert len(all_items(found)) == 3


@pytest.mark.parametrize("header", ["", "a,b,label\n"])
def test_a_csv_of_features_with_the_label_last(tmp_path, header):
    lines = "".join(f"{i},{i + 0.5},{i % 3}\n" for i in range(12))
    (tmp_path / "a.csv").write_text(header + lines)
    found = read_folder(tmp_path / "a.csv", None, ROW)
    rows = sorted((*map(float, item["x"]), int(item["target"])) for item in all_items(found))
    assert rows == [(i, i + 0.5, i % 3) for i in range(12)]
    sets = checked(found, ROW, tmp_path)
    assert sets["evaluation"].dataset.arrays["x"].dtype == "float32"


def test_a_csv_may_have_no_labels_or_have_them_elsewhere(tmp_path):
    (tmp_path / "a.csv").write_text("".join(f"{i},{i}\n" for i in range(5)))
    assert not read_folder(tmp_path / "a.csv", None, ROW).has_target
    (tmp_path / "l.csv").write_text("y\n" + "".join(f"{i}.5\n" for i in range(5)))
    found = read_folder(tmp_path / "a.csv", tmp_path / "l.csv", ROW)
    assert all(item["target"] == item["x"][0] + 0.5 for item in all_items(found))


def test_a_csv_of_whole_numbers_and_class_names(tmp_path):
    inputs = {"x": Tensor(shape=(2, 1), dtype="int64")}
    (tmp_path / "a.csv").write_text("1,2,no\n3,4,yes\n")
    found = read_folder(tmp_path / "a.csv", None, inputs)
    assert found.labels == ("no", "yes")
    items = sorted((item["x"].ravel().tolist(), int(item["target"])) for item in all_items(found))
    assert items == [([1, 2], 0), ([3, 4], 1)]


def test_npz_by_input_name_or_as_x_and_y(tmp_path):
    x, y = RNG.normal(size=(9, 2)).astype(np.float32), np.arange(9)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    found = read_folder(tmp_path / "a.npz", None, {"other": Tensor(shape=(2,))})
    assert sorted(int(item["target"]) for item in all_items(found)) == list(range(9))
    assert all((item["other"] == x[item["target"]]).all() for item in all_items(found))
    two = {"x": Tensor(shape=(2,)), "b": Tensor(shape=(1,))}
    np.savez(tmp_path / "b.npz", x=x, b=y[:, None].astype(np.float32))
    (tmp_path / "l.csv").write_text("".join(f"{'pq'[i % 2]}\n" for i in range(9)))
    found = read_folder(tmp_path / "b.npz", tmp_path / "l.csv", two)
    assert found.labels == ("p", "q")
    assert all(int(item["b"][0]) % 2 == item["target"] for item in all_items(found))


def test_a_folder_with_one_table_stands_for_it(tmp_path):
    (tmp_path / "d").mkdir()
    np.savez(tmp_path / "d" / "a.npz", x=RNG.normal(size=(9, 2)).astype(np.float32))
    assert len(read_folder(tmp_path / "d", None, ROW).evaluation) == 7


def test_real_pictures_from_an_npz(data_dir, tmp_path):
    with np.load(data_dir / "cifar10_test_dev200_lossless.npz") as file:
        pictures, labels = file[file.files[0]], file[file.files[1]]
    np.savez(tmp_path / "a.npz", x=pictures, y=labels)
    inputs = {"image": Image(height=32, width=32)}
    sets = checked(read_folder(tmp_path / "a.npz", None, inputs), inputs, tmp_path)
    assert sets["calibration"].dataset.count == 40
    assert sets["evaluation"].dataset.arrays["image"].shape == (3, 32, 32)


def test_sound_text_and_arrays_have_their_own_suffixes(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full(2, i, np.float32))
    assert len(all_items(read_folder(tmp_path, None, ROW))) == 3
    with pytest.raises(WorkloadError, match=r"0.npy: not a sample of this input; \.txt files are"):
        read_folder(tmp_path, None, {"t": Text(tokenizer="t", length=3)})
    assert len(all_items(read_folder(tmp_path, None, {"a": Audio(rate_hz=1, samples=2)}))) == 3


def refuse(message, data, inputs=None, labels=None):
    with pytest.raises(WorkloadError, match=message):
        read_folder(data, labels, inputs or ROW)


def test_what_cannot_be_read_is_refused(tmp_path):
    refuse("no such file or folder", tmp_path / "none")
    (tmp_path / "a.json").write_text("{}")
    refuse(r"data are a folder, a \.csv or a \.npz, not '\.json'", tmp_path / "a.json")
    (tmp_path / "a.npz").write_bytes(b"PK nonsense")
    refuse("not a readable npz", tmp_path / "a.npz")
    np.savez(tmp_path / "o.npz", x=np.array([None, {}]))
    refuse("not a readable npz of plain arrays", tmp_path / "o.npz")
    np.savez(tmp_path / "w.npz", z=np.zeros((3, 2)))
    refuse("no array for input 'x'; it holds z", tmp_path / "w.npz")
    np.savez(tmp_path / "s.npz", x=np.zeros((3, 2)), y=np.zeros(2))
    refuse(r"targets of shape \[2\] for 3 samples", tmp_path / "s.npz")
    two = {"x": Tensor(shape=(2,)), "b": Tensor(shape=(2,))}
    np.savez(tmp_path / "t.npz", x=np.zeros((3, 2)), b=np.zeros((2, 2)))
    refuse("arrays of different length", tmp_path / "t.npz", two)
    np.savez(tmp_path / "e.npz", x=np.zeros((3, 2), np.float32))
    refuse("3 samples with 1 different ones; at least 2", tmp_path / "e.npz")
    refuse("'a.npz' lies beside 'a.json'; a folder of data holds samples, or one", tmp_path)
    (tmp_path / "d").mkdir()
    refuse("the model has 2 inputs", tmp_path / "d", two)


def test_tables_that_do_not_fit_are_refused(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("1,2,3,4\n")
    refuse(r"row 1: 4 features; the model wants 2", table)
    table.write_text("a,b\n1,two\n")
    refuse("a feature is no number", table)
    table.write_text("a,b\n")
    refuse("no rows of features", table)
    table.write_text("")
    refuse("no rows of features", table)
    table.write_text("1.5,2\n")
    refuse("features are not all int64", table, {"x": Tensor(shape=(2,), dtype="int64")})
    table.write_bytes(b"\xff\xfe\x00")
    refuse("not a readable CSV", table)
    table.write_text("1,2,\n3,4,x\n")
    refuse("label 1 is empty", table)
    table.write_text("1,2\n3,4\n5,6\n")
    (tmp_path / "l.csv").write_text("1\n")
    refuse("1 lines for 3 samples", table, labels=tmp_path / "l.csv")


def test_folders_that_are_mixed_up_are_refused(tmp_path):
    picture(tmp_path / "a" / "x.png", 0)
    picture(tmp_path / "loose.png", 1)
    refuse("'loose.png' lies beside class folders", tmp_path, IMAGE)
    (tmp_path / "b").mkdir()
    (tmp_path / "loose.png").unlink()
    refuse(r"b: no \.png.* files in it", tmp_path, IMAGE)
    picture(tmp_path / "f" / "x.png", 0)
    (tmp_path / "l.csv").write_text("y.png,1\n")
    refuse("no label for 'x.png'", tmp_path / "f", IMAGE, tmp_path / "l.csv")
    (tmp_path / "l.csv").write_text("x.png\n")
    refuse("line 1: 1 columns; write file,label", tmp_path / "f", IMAGE, tmp_path / "l.csv")
