"""Pictures, against Pillow and arithmetic by hand."""

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from edgekit.core.contract import Image
from edgekit.core.errors import InputError, MissingDependencyError
from edgekit.data.preprocess import prepare

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 10, 3)).astype(np.uint8)
PLAIN = Image(height=8, width=10)


def by_hand(pixels):
    """ImageNet's normalisation in float64, channels first."""
    return ((pixels / 255 - np.array(MEAN)) / np.array(DEVIATION)).transpose(2, 0, 1)


def test_pixels_are_scaled_and_normalised():
    source = Image(height=8, width=10, mean=MEAN, deviation=DEVIATION)
    found = prepare(PIXELS, source, where="x")
    assert found.dtype == np.float32
    assert found.shape == source.element_shape == (3, 8, 10)
    np.testing.assert_allclose(found, by_hand(PIXELS), rtol=1e-6, atol=1e-7)


def test_layout_and_channel_order_are_as_declared():
    found = prepare(PIXELS, Image(height=8, width=10, layout="NHWC"), where="x")
    np.testing.assert_allclose(found, PIXELS / 255, rtol=1e-6)
    found = prepare(
        PIXELS, Image(height=8, width=10, channel_order="BGR", scale=1.0, mean=(1.0, 2.0, 3.0)),
        where="x",
    )  # fmt: skip
    for channel in range(3):
        wanted = PIXELS[:, :, 2 - channel].astype(np.float64) - (channel + 1)
        np.testing.assert_array_equal(found[channel], wanted)


def test_torchvision_s_own_figures():
    # ToTensor and Normalize of a white and a black pixel, as torchvision documents ImageNet.
    source = Image(height=1, width=1, mean=MEAN, deviation=DEVIATION)
    white = prepare(np.full((1, 1, 3), 255, np.uint8), source, where="x").ravel()
    black = prepare(np.zeros((1, 1, 3), np.uint8), source, where="x").ravel()
    np.testing.assert_allclose(white, [2.2489083, 2.4285715, 2.64], rtol=1e-6)
    np.testing.assert_allclose(black, [-2.117904, -2.0357141, -1.8044444], rtol=1e-6)


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "nearest"])
def test_stretching_is_pillow_s(method):
    source = Image(height=5, width=6, resize=method, scale=1.0)
    picture = PIL.Image.fromarray(PIXELS)
    wanted = np.asarray(picture.resize((6, 5), PIL.Image.Resampling[method.upper()]))
    for raw in (PIXELS, picture):
        found = prepare(raw, source, where="x")
        np.testing.assert_array_equal(found, wanted.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("shape", "resized", "corner"),
    [
        ((8, 10), (4, 5), (0, 0)),  # 5 - 4 = 1: half of it, rounded to even, is 0
        ((8, 16), (4, 8), (0, 2)),
        ((16, 8), (8, 4), (2, 0)),
        ((4, 7), (4, 7), (0, 2)),  # 3 / 2 = 1.5, rounded to even
        ((9, 4), (9, 4), (2, 0)),
        ((4, 4), (4, 4), (0, 0)),
    ],
)
def test_cropping_keeps_the_aspect_and_takes_the_middle(shape, resized, corner):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    picture = PIL.Image.fromarray(pixels).resize(resized[::-1], PIL.Image.Resampling.BILINEAR)
    top, left = corner
    wanted = np.asarray(picture)[top : top + 4, left : left + 4]
    source = Image(height=4, width=4, fit="crop", scale=1.0, layout="NHWC")
    np.testing.assert_array_equal(prepare(pixels, source, where="x"), wanted)


def test_grey_pictures_have_one_channel():
    source = Image(height=8, width=10, channels=1, scale=1.0)
    for raw in (PIXELS[:, :, 0], PIXELS[:, :, :1], PIL.Image.fromarray(PIXELS[:, :, 0])):
        np.testing.assert_array_equal(prepare(raw, source, where="x")[0], PIXELS[:, :, 0])
    small = prepare(PIXELS[:, :, 0], Image(height=4, width=5, channels=1, scale=1.0), where="x")
    wanted = PIL.Image.fromarray(PIXELS[:, :, 0]).resize((5, 4), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(small[0], np.asarray(wanted))


@pytest.mark.parametrize("suffix", ["png", "bmp", "npy"])
def test_files_give_the_same_as_arrays(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    np.save(path, PIXELS) if suffix == "npy" else PIL.Image.fromarray(PIXELS).save(path)
    wanted = prepare(PIXELS, PLAIN, where="x")
    np.testing.assert_array_equal(prepare(path, PLAIN, where="x"), wanted)
    np.testing.assert_array_equal(prepare(str(path), PLAIN, where="x"), wanted)


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "LA", "1"])
def test_other_8_bit_modes_are_converted_as_pillow_does(tmp_path, mode):
    picture = PIL.Image.fromarray(PIXELS).convert(mode)
    wanted = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    source = Image(height=8, width=10, scale=1.0)
    np.testing.assert_array_equal(prepare(picture, source, where="x"), wanted)


def test_a_prepared_array_passes_as_it_is():
    ready = np.random.default_rng(2).standard_normal((3, 8, 10))
    found = prepare(ready, PLAIN, where="x")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, ready.astype(np.float32))


def test_whole_number_tensors_take_whole_number_levels():
    found = prepare(PIXELS, Image(height=8, width=10, scale=1.0, dtype="uint8"), where="x")
    np.testing.assert_array_equal(found, PIXELS.transpose(2, 0, 1))
    shifted = Image(height=8, width=10, scale=1.0, mean=(128.0,), dtype="int8")
    wanted = (PIXELS.astype(np.int16) - 128).astype(np.int8).transpose(2, 0, 1)
    np.testing.assert_array_equal(prepare(PIXELS, shifted, where="x"), wanted)
    for bad in (
        Image(height=8, width=10, dtype="uint8"),
        Image(height=8, width=10, scale=2.0, dtype="uint8"),
    ):
        with pytest.raises(InputError, match="are not whole numbers of uint8"):
            prepare(PIXELS, bad, where="x")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (PIXELS.transpose(2, 0, 1), r"channels come last in raw pixels: x\.transpose\(1, 2, 0\)"),
        (PIXELS[:, :, 0], r"wanted \(height, width, 3\)"),
        (PIXELS[None], r"wanted \(height, width, 3\)"),
        (PIXELS[:0], r"wanted \(height, width, 3\)"),
        (PIXELS.astype(np.int32), "neither raw pixels"),
        (PIXELS.astype(np.float32), "nor prepared"),
        (PIL.Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 200), "mode is 'I;16'"),
        (object(), "not an array of numbers"),
    ],
)
def test_near_misses_say_what_is_wanted(raw, reason):
    with pytest.raises(InputError, match=f"here: .*{reason}"):
        prepare(raw, PLAIN, where="here")


def test_files_that_are_no_pictures_are_named(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    PIL.Image.fromarray(PIXELS).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:80])
    PIL.Image.fromarray(PIXELS[:, :, 0].astype(np.uint16)).save(tmp_path / "deep.png")
    for name, reason in {
        "gone.jpg": "there is no file",
        "text.png": "no picture",
        "cut.png": "no picture",
        "deep.png": "mode is",
    }.items():
        with pytest.raises(InputError, match=f"{reason}"):
            prepare(tmp_path / name, PLAIN, where="here")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    PIL.Image.fromarray(PIXELS).save(tmp_path / "x.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(InputError, match="no picture that Pillow reads"):
        prepare(tmp_path / "x.png", PLAIN, where="here")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mean": (0.0, 0.0)}, "2 values of mean for 3 channels"),
        ({"deviation": (1.0, 1.0, 1.0, 1.0)}, "4 values of deviation"),
        ({"deviation": (0.0,)}, "divides by zero"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(changes, reason):
    with pytest.raises(InputError, match=reason):
        prepare(PIXELS, Image(height=8, width=10, **changes), where="x")


def test_without_pillow_raw_pixels_work_and_files_name_the_extra():
    code = """
import sys
sys.modules["PIL"] = None
import numpy as np
from edgekit.core.contract import Image
from edgekit.core.errors import MissingDependencyError
from edgekit.data.preprocess import prepare
prepare(np.zeros((2, 2, 3), np.uint8), Image(height=2, width=2), where="x")
for raw in ("x.png", np.zeros((4, 4, 3), np.uint8)):
    try:
        prepare(raw, Image(height=2, width=2), where="x")
    except MissingDependencyError as fault:
        print(fault)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("pip install 'edgekit[image]'") == 2
    assert issubclass(MissingDependencyError, Exception)
