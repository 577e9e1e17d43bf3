import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch.utils.data import DataLoader, TensorDataset

from edgekit.core.contract import Audio, Image, Tensor, Text
from edgekit.core.errors import WorkloadError
from edgekit.data.samples import iterate_samples, to_array

ONE = {"x": Tensor(shape=(3,))}
TWO = {"a": Tensor(shape=(3,)), "b": Tensor(shape=(2,), dtype="int64")}
GREY = {"image": Image(height=4, width=5, channels=1)}
COLOUR = {"image": Image(height=4, width=5)}


def read(iterable, inputs=None, *, needs_target=False):
    inputs = ONE if inputs is None else inputs
    return list(iterate_samples(iterable, inputs, set_name="evaluation", needs_target=needs_target))


def refuse(message, iterable, inputs=None, **kwargs):
    with pytest.raises(WorkloadError, match=message):
        read(iterable, inputs, **kwargs)


X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    "data",
    [
        X,
        list(X),
        [X],
        [X[:3], X[3:]],
        X.tolist(),
        torch.from_numpy(X),
        list(torch.from_numpy(X)),
        [(x,) for x in X],
        [{"x": x} for x in X],
        [({"x": x},) for x in X],
        (x for x in X),
        DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=3),
        TensorDataset(torch.from_numpy(X)),
        [torch.from_numpy(X).requires_grad_()],
    ],
)
def test_inputs_alone_come_in_many_shapes(data):
    samples = read(data)
    assert [set(sample) for sample in samples] == [{"x"}] * 4
    assert np.array_equal([sample["x"] for sample in samples], X)
    assert samples[0]["x"].dtype == np.float32


@pytest.mark.parametrize(
    "data",
    [
        list(zip(X, Y, strict=True)),
        list(zip(X.tolist(), Y.tolist(), strict=True)),
        zip(X, Y, strict=True),
        [(X, Y)],
        [[torch.from_numpy(X), torch.from_numpy(Y)]],
        [{"x": x, "target": y} for x, y in zip(X, Y, strict=True)],
        [({"x": x}, y) for x, y in zip(X, Y, strict=True)],
        [((x,), y) for x, y in zip(X, Y, strict=True)],
        DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=3),
    ],
)
def test_labelled_samples_come_in_many_shapes(data):
    samples = read(data, needs_target=True)
    assert np.array_equal([sample["x"] for sample in samples], X)
    assert [int(sample["target"]) for sample in samples] == Y.tolist()
    assert samples[0]["target"].shape == ()


A, B = X, np.arange(8, dtype=np.int64).reshape(4, 2)


@pytest.mark.parametrize(
    "data",
    [
        [((a, b), y) for a, b, y in zip(A, B, Y, strict=True)],
        [(a, b, y) for a, b, y in zip(A, B, Y, strict=True)],
        [((A, B), Y)],
        [([A, B], Y)],
        [({"b": b, "a": a}, y) for a, b, y in zip(A, B, Y, strict=True)],
        [(a.tolist(), b.tolist(), int(y)) for a, b, y in zip(A, B, Y, strict=True)],
        DataLoader(TensorDataset(*map(torch.from_numpy, (A, B, Y))), batch_size=2),
    ],
)
def test_several_inputs_come_in_many_shapes(data):
    samples = read(data, TWO, needs_target=True)
    assert np.array_equal([sample["a"] for sample in samples], A)
    assert np.array_equal([sample["b"] for sample in samples], B)
    assert [int(sample["target"]) for sample in samples] == Y.tolist()


def test_several_inputs_without_target():
    for data in ([(A[0], B[0])], [{"a": A[0], "b": B[0]}], [((A[0], B[0]),)]):
        (sample,) = read(data, TWO)
        assert set(sample) == {"a", "b"}


class MapStyle(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[index % 4], Y[index % 4]  # never raises IndexError


def test_a_map_style_dataset_ends_where_its_length_says():
    assert len(read(MapStyle())) == 3


def test_a_one_shot_iterable_is_read_exactly_once_and_lazily():
    read_so_far = []

    def generate():
        for x in X:
            read_so_far.append(x)
            yield x

    samples = iterate_samples(generate(), ONE, set_name="s", needs_target=False)
    next(samples)
    assert len(read_so_far) == 1
    assert len(list(samples)) == 3


def test_raw_pictures_are_told_from_ready_ones_and_from_batches():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    expected = pixels.transpose(0, 3, 1, 2) / 255
    ready = expected.astype(np.float32)
    pictures = [Pillow.fromarray(item) for item in pixels]
    for data in (
        pixels,
        [pixels],
        list(pixels),
        ready,
        [ready],
        pictures,
        [(p, 1) for p in pictures],
    ):
        samples = read(data, COLOUR)
        np.testing.assert_allclose([s["image"] for s in samples], expected, rtol=1e-6)


def test_grey_pictures_with_and_without_a_channel_axis():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)
    expected = pixels[:, None] / 255
    for data in (pixels, [pixels], [pixels[..., None]], list(pixels[..., None]), pixels[:, None]):
        samples = read(data, GREY)
        np.testing.assert_allclose([s["image"] for s in samples], expected, rtol=1e-6)


def test_picture_files_are_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    Pillow.fromarray(pixels).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    for item in (path, str(path), (path, 3), [path], [str(path)]):
        (sample,) = read([item], COLOUR)
        np.testing.assert_allclose(sample["image"], pixels.transpose(2, 0, 1) / 255, rtol=1e-6)


def test_sound_is_single_or_a_batch():
    sound = np.arange(16, dtype=np.int16).reshape(2, 8) * 1000
    inputs = {"audio": Audio(rate_hz=8000, samples=8)}
    for data in ([sound], sound, [(sound, [0, 1])]):
        samples = read(data, inputs)
        np.testing.assert_allclose([s["audio"][0] for s in samples], sound / 32768, rtol=1e-6)


def tokenizer_file(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "one": 1, "two": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


def test_one_text_feeds_all_parts_of_its_tokenizer(tmp_path):
    file = tokenizer_file(tmp_path)
    inputs = {
        "ids": Text(tokenizer=file, length=3),
        "mask": Text(tokenizer=file, length=3, part="mask"),
    }
    loader = DataLoader([("two", 0), ("one two", 1)], batch_size=2)
    for data in ([("two", 0), ("one two", 1)], loader):
        samples = read(data, inputs, needs_target=True)
        assert [s["ids"].tolist() for s in samples] == [[2, 0, 0], [1, 2, 0]]
        assert [s["mask"].tolist() for s in samples] == [[1, 0, 0], [1, 1, 0]]
        assert [int(s["target"]) for s in samples] == [0, 1]
    assert [s["ids"].tolist() for s in read(["two", "one"], inputs)] == [[2, 0, 0], [1, 0, 0]]
    ready = {"ids": np.array([1, 2, 0]), "mask": np.array([1, 1, 0])}
    assert read([ready], inputs)[0]["ids"].tolist() == [1, 2, 0]


def test_plain_numbers_take_the_dtype_of_the_model():
    (sample,) = read([[1, 2, 3]])
    assert sample["x"].dtype == np.float32
    (scalar,) = read([2.5], {"x": Tensor(shape=())})
    assert scalar["x"] == np.float32(2.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_with_their_place(bad):
    broken = X.copy()
    broken[2, 1] = bad
    refuse(r"evaluation data, sample 2 \(item 0\), 'x': (NaN|infinite) at \[1\]", [broken])
    labels = np.array([0.0, bad])
    refuse(r"sample 1 \(item 1\), 'target': ", zip(X, labels, strict=False))


@pytest.mark.parametrize(
    ("message", "data"),
    [
        ("no samples; at least 1", []),
        (
            r"'x': float32 of shape \[2, 2, 3\]; one sample is float32 \[3\], a batch is \[n, 3\]",
            [X.reshape(2, 2, 3)],
        ),
        (r"'x': .*\(4,\), wanted \(3,\)", [np.zeros(4, np.float32)]),
        ("'x'.*int64, wanted float32", [np.zeros(3, np.int64)]),
        (r"a batch of 0 samples", [np.zeros((0, 3), np.float32)]),
        ("a tuple of 3; the model has 1 input", [(X[0], Y[0], Y[0])]),
        ("'xx' is no input of the model; did you mean 'x'", [{"xx": X[0]}]),
        ("input 'x' is missing", [{"target": 1}]),
        ("a dict is not a set of samples", {"x": X}),
        ("a str is not a set of samples", "data.csv"),
        (r"write zip\(X, Y\)", (X, Y)),
        ("int cannot be iterated", 5),
        ("rows of unequal length", [[[1.0], [1.0, 2.0]]]),
        ("is not a tensor", [np.array(["a", "b", "c"])]),
        ("bfloat16", [torch.zeros(3, dtype=torch.bfloat16)]),
        (r"targets of shape \[3\] for a batch of 4", [(X, Y[:3])]),
        ("'target': str of dtype", [(X[0], "cat")]),
        ("sample 1 .* has no target and sample 0 had one", [(X[0], 1), X[1]]),
        ("sample 1 .* has a target and sample 0 had none", [X[0], (X[1], 1)]),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(message, data):
    refuse(message, data)


def test_lists_of_zeros_and_ones_are_a_mask_and_other_numbers_are_not():
    mask = {"mask": Tensor(shape=(3,), dtype="bool")}
    (found,) = read([[0, 1, True]], mask)
    assert found["mask"].dtype == bool
    assert found["mask"].tolist() == [False, True, True]
    refuse("'mask': the model wants bool; 0 and 1 stand for False and True", [[0, 2, 1]], mask)


def test_a_metric_that_needs_targets_gets_them_or_an_error():
    refuse("sample 0 .*: no target, and the metric needs one", [X[0]], needs_target=True)


@pytest.mark.parametrize(
    ("message", "item"),
    [
        ("'a' is a batch of 4, 'b' is one sample", (A, B[0])),
        ("ndarray of shape .* for a model of 2 inputs", A[0]),
        ("a tuple of 4; the model has 2", (A[0], B[0], 1, 2)),
        ("'b': fractions where the model wants int64", ([1.0, 2.0, 3.0], [0.5, 1.0])),
        ("'b': list of dtype object", ([1.0, 2.0, 3.0], [10**30, 1])),
    ],
)
def test_several_inputs_that_do_not_go_together_are_refused(message, item):
    refuse(message, [item], TWO)


def test_a_number_that_the_model_cannot_hold_is_refused():
    refuse("'x': not int8", [[300, 1]], {"x": Tensor(shape=(2,), dtype="int8")})


def test_channels_first_bytes_are_refused_with_the_layout_that_is_wanted():
    refuse(r"raw pixels are uint8 \[height, width, 3\]", np.zeros((2, 9, 9), np.uint8), COLOUR)
    refuse(
        r"raw sound is int16 \[samples\]",
        [np.zeros(8, np.float32)],
        {"a": Audio(rate_hz=8000, samples=8)},
    )


def test_an_input_may_not_be_called_target():
    refuse("an input is named 'target'", X, {"target": Tensor(shape=(3,))})


def test_to_array_keeps_values():
    assert to_array(torch.tensor([1, 2]), "t").dtype == np.int64


def test_what_a_users_iterable_raises_is_told_with_its_place():
    def broken():
        yield np.zeros(3, np.float32)
        raise KeyError("lost.png")

    with pytest.raises(WorkloadError, match=r"calibration data: reading item 1 raised KeyError"):
        list(
            iterate_samples(
                broken(), {"x": Tensor(shape=(3,))}, set_name="calibration", needs_target=False
            )
        )
