"""Augmentation by name, against the same change done by hand with numpy."""

import dataclasses

import numpy as np
import pytest
import torch

from edgekit.compress.training.augment import AUGMENTATIONS, make_augment
from edgekit.core.contract import Contract, Image, InputContract, OutputContract, Tensor
from edgekit.core.errors import WorkloadError
from edgekit.data.preprocess import prepare

COLOUR = Image(
    height=6, width=5, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225), layout="NCHW"
)


def _contract(image=COLOUR, **others):
    inputs = {"image": image, **others}
    return Contract(
        inputs=tuple(
            InputContract(
                name=name, dtype=kind.dtype, shape=("batch", *kind.element_shape), source=kind
            )
            for name, kind in inputs.items()
        ),
        outputs=(OutputContract(name="y", dtype="float32", shape=("batch", 2)),),
    )


def _pictures(image=COLOUR, count=32, seed=0):
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (count, image.height, image.width, image.channels), np.uint8)
    return raw, torch.from_numpy(np.stack([prepare(one, image, where="test") for one in raw]))


def _apply(spec, values, image=COLOUR, seed=3):
    augment = make_augment(spec, _contract(image))
    return augment({"image": values}, torch.Generator().manual_seed(seed))["image"]


def _prepared(raw, image=COLOUR):
    return torch.from_numpy(np.stack([prepare(one, image, where="test") for one in raw]))


def test_nothing_asked_is_no_augmentation():
    assert make_augment(None, _contract()) is None
    assert make_augment("", _contract()) is None


def test_a_flip_mirrors_some_pictures_and_leaves_the_others():
    _, values = _pictures()
    found = _apply("flip", values)
    same = [torch.equal(a, b) for a, b in zip(found, values, strict=True)]
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(found, values, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 4 < sum(mirrored) < 28


def test_a_vertical_flip_mirrors_the_rows():
    _, values = _pictures()
    found = _apply("flip-vertical", values)
    assert all(
        torch.equal(a, b) or torch.equal(a, b.flip(1)) for a, b in zip(found, values, strict=True)
    )
    assert not torch.equal(found, values)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_a_crop_is_the_preprocessed_crop_of_the_picture_with_a_black_border(layout, order):
    image = dataclasses.replace(COLOUR, layout=layout, channel_order=order)
    raw, values = _pictures(image)
    found = _apply("crop:2", values, image)
    bordered = np.pad(raw, ((0, 0), (2, 2), (2, 2), (0, 0)))
    moves = set()
    for index, picture in enumerate(found):
        matches = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if np.array_equal(
                picture,
                prepare(bordered[index, top : top + 6, left : left + 5], image, where="by hand"),
            )
        ]
        assert len(matches) == 1
        moves.add(matches[0])
    assert len(moves) > 10


def test_cutout_blanks_one_square_with_the_mean():
    _, values = _pictures()
    found = _apply("cutout:3", values)
    for before, after in zip(values, found, strict=True):
        is_cut = (after != before).any(dim=0)
        rows, columns = is_cut.any(dim=1), is_cut.any(dim=0)
        assert torch.equal(is_cut, rows[:, None] & columns[None])
        assert 1 <= int(rows.sum()) <= 3
        assert 1 <= int(columns.sum()) <= 3
        # The declared mean is 0 once it is subtracted.
        assert after[:, is_cut].abs().max() == 0


def test_noise_has_the_deviation_that_was_asked_of_black_to_white():
    image = dataclasses.replace(COLOUR, height=40, width=40)
    grey = np.full((64, 40, 40, 3), 128, np.uint8)
    values = _prepared(grey, image)
    found = _apply("noise:0.05", values, image)
    for channel, deviation in enumerate(image.deviation):
        # A million draws: the deviation of a deviation is below a thousandth of it.
        share = (found - values)[:, channel].std() * deviation
        assert share == pytest.approx(0.05, rel=0.01)


@pytest.mark.parametrize("spec", ["noise:1", "brightness:1", "contrast:1"])
def test_values_stay_between_black_and_white(spec):
    raw, values = _pictures()
    black, white = _prepared(np.zeros_like(raw)), _prepared(np.full_like(raw, 255))
    found = _apply(spec, values)
    assert (found >= black).all()
    assert (found <= white).all()
    assert not torch.equal(found, values)


def test_brightness_moves_all_values_of_a_picture_alike():
    grey = np.full((16, 6, 5, 3), 128, np.uint8)
    values = _prepared(grey)
    moved = (_apply("brightness:0.2", values) - values) * torch.tensor(COLOUR.deviation)[
        :, None, None
    ]
    flat = moved.flatten(1)
    # float32 rounding at values near 2.
    assert torch.allclose(flat, flat[:, :1].expand_as(flat), atol=1e-6)
    assert float(flat.abs().max()) <= 0.2 + 1e-6
    assert len(set(flat[:, 0].tolist())) == 16


def test_contrast_keeps_the_mean_of_a_picture():
    rng = np.random.default_rng(0)
    raw = rng.integers(118, 138, (8, 6, 5, 3)).astype(np.uint8)
    values = _prepared(raw)
    found = _apply("contrast:0.1", values)
    # Far from black and white nothing is clipped; float32 sums of 90 values.
    assert torch.allclose(found.mean(dim=(1, 2, 3)), values.mean(dim=(1, 2, 3)), atol=1e-5)
    spread = found.std(dim=(1, 2, 3)) / values.std(dim=(1, 2, 3))
    assert ((spread > 0.899) & (spread < 1.101)).all()


def test_integer_pictures_keep_their_dtype_and_range():
    image = Image(height=6, width=5, mean=(0.0,), scale=1.0, dtype="uint8")
    _, values = _pictures(image)
    for name, known in AUGMENTATIONS.items():
        spec = name + {"": "", "pixels": ":2", "share": ":0.3"}[known.unit]
        found = _apply(spec, values, image)
        assert found.dtype == torch.uint8
        assert found.shape == values.shape


def test_changes_follow_one_another_in_the_order_written():
    _, values = _pictures()
    draws = torch.Generator().manual_seed(3)
    first = make_augment("crop:1", _contract())({"image": values}, draws)
    second = make_augment("cutout:2", _contract())(first, draws)["image"]
    assert torch.equal(_apply(" crop : 1 ,cutout:2", values), second)


def test_the_same_seed_gives_the_same_pictures_and_the_input_stays():
    _, values = _pictures()
    kept = values.clone()
    spec = "flip, crop:2, cutout:2, noise:0.1, brightness:0.1, contrast:0.1"
    assert torch.equal(_apply(spec, values), _apply(spec, values))
    assert not torch.equal(_apply(spec, values), _apply(spec, values, seed=4))
    assert torch.equal(values, kept)


def test_other_inputs_stay_as_they_are():
    _, values = _pictures()
    extra = torch.rand(32, 4)
    augment = make_augment("flip, noise:0.5", _contract(extra=Tensor(shape=(4,))))
    found = augment({"image": values, "extra": extra}, torch.Generator().manual_seed(0))
    assert torch.equal(found["extra"], extra)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("flipp", "'flipp' is not known; did you mean 'flip'"),
        ("flip,", "'' is not known"),
        ("mixup:0.2", "'mixup' is not known"),
        ("flip:2", "flip takes no number; write 'flip'"),
        ("crop", "crop takes a number, its pixels; write 'crop:4'"),
        ("crop:x", "crop takes a number"),
        ("crop:1.5", "whole number from 1 to 4"),
        ("crop:5", "whole number from 1 to 4"),
        ("cutout:0", "whole number from 1 to 4"),
        ("noise:0", "above 0, at most 1"),
        ("noise:nan", "above 0, at most 1"),
        ("brightness:2", "above 0, at most 1"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_training(spec, message):
    with pytest.raises(WorkloadError, match=message):
        make_augment(spec, _contract())


def test_names_need_a_picture():
    plain = Contract(
        inputs=(
            InputContract(name="x", dtype="float32", shape=("batch", 4), source=Tensor(shape=(4,))),
        ),
        outputs=(),
    )
    with pytest.raises(WorkloadError, match="no input is an Image; give a callable"):
        make_augment("flip", plain)


def test_neither_a_name_nor_a_callable_is_refused():
    with pytest.raises(WorkloadError, match="augment: int is none; give names"):
        make_augment(3, _contract())


def test_a_callable_gets_inputs_and_generator():
    _, values = _pictures()

    def half(inputs, generator):
        return {"image": inputs["image"] * torch.rand(1, generator=generator)}

    found = _apply(half, values)
    drawn = torch.rand(1, generator=torch.Generator().manual_seed(3))
    assert torch.equal(found, values * drawn)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda inputs, draws: inputs["image"], "returned Tensor; it must return tensors by"),
        (lambda inputs, draws: {}, "returned ; it must return tensors by input name: image"),
        (lambda inputs, draws: {"image": 3}, "made 'image' int of float32"),
        (lambda inputs, draws: {"image": inputs["image"][:1]}, r"float32 \[1, 3, 6, 5\] of"),
        (lambda inputs, draws: {"image": inputs["image"].double()}, "made 'image' float64"),
        (lambda inputs, draws: inputs["picture"], "raised KeyError"),
    ],
)
def test_what_a_callable_returns_is_checked(function, message):
    with pytest.raises(WorkloadError, match=message):
        _apply(function, _pictures()[1])
