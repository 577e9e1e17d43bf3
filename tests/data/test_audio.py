"""Sound, against soundfile, soxr and arithmetic by hand."""

import subprocess
import sys
import wave

import numpy as np
import pytest
import soundfile
import soxr

from edgekit.core.contract import Audio
from edgekit.core.errors import InputError
from edgekit.data.preprocess import prepare

RATE = 8000
SOUND = (np.sin(np.arange(400) / 5) * 20_000).astype(np.int16)
SOURCE = Audio(rate_hz=RATE, samples=400)


def write(path, frames: bytes, *, width=2, channels=1, rate=RATE):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(frames)
    return path


def test_int16_becomes_minus_one_to_one():
    found = prepare(SOUND, SOURCE, where="x")
    assert found.shape == (1, 400)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], SOUND / 32768)
    flat = prepare(SOUND, Audio(rate_hz=RATE, samples=400, add_channel=False), where="x")
    np.testing.assert_array_equal(flat, found[0])


def test_sound_is_cut_or_padded_with_silence_then_normalised():
    long = prepare(SOUND, Audio(rate_hz=RATE, samples=300), where="x")
    np.testing.assert_array_equal(long[0], SOUND[:300] / 32768)
    short = prepare(SOUND, Audio(rate_hz=RATE, samples=500, mean=0.5, deviation=2.0), where="x")
    padded = np.concatenate([SOUND / 32768, np.zeros(100)])
    np.testing.assert_allclose(short[0], (padded - 0.5) / 2, rtol=1e-6)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_files_are_read_as_soundfile_reads_them(tmp_path, subtype, channels):
    values = np.random.default_rng(0).uniform(-1, 1, (400, channels))
    soundfile.write(tmp_path / "x.wav", values, RATE, subtype=subtype)
    wanted, _ = soundfile.read(tmp_path / "x.wav", dtype="float64", always_2d=True)
    found = prepare(tmp_path / "x.wav", SOURCE, where="x")
    np.testing.assert_allclose(found[0], wanted.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("name", ["x.flac", "float.wav"])
def test_other_formats_are_soundfile_s(tmp_path, name):
    subtype = "FLOAT" if name.endswith("wav") else None
    soundfile.write(tmp_path / name, SOUND / 32768, RATE, subtype=subtype)
    found = prepare(str(tmp_path / name), SOURCE, where="x")
    np.testing.assert_allclose(found[0], SOUND / 32768, atol=1e-4)


def test_another_rate_is_resampled_by_soxr(tmp_path):
    path = write(tmp_path / "x.wav", SOUND.tobytes(), rate=16000)
    wanted = soxr.resample((SOUND / 32768).astype(np.float32), 16000, RATE)
    found = prepare(path, Audio(rate_hz=RATE, samples=200), where="x")
    np.testing.assert_allclose(found[0], wanted, atol=1e-6)


def test_spoken_digits_pass(data_dir):
    data = np.load(data_dir / "fsdd_dev_jackson_nicolas.npz")
    sound = next(data[name] for name in data.files if data[name].dtype == np.int16)
    found = prepare(sound[:4000], Audio(rate_hz=RATE, samples=8000), where="x")
    np.testing.assert_array_equal(found[0, :4000], sound[:4000] / 32768)


def test_npy_files_and_prepared_arrays_pass(tmp_path):
    np.save(tmp_path / "x.npy", SOUND)
    np.testing.assert_array_equal(
        prepare(tmp_path / "x.npy", SOURCE, where="x"), prepare(SOUND, SOURCE, where="x")
    )
    ready = np.random.default_rng(0).standard_normal((1, 400))
    np.testing.assert_array_equal(prepare(ready, SOURCE, where="x"), ready.astype(np.float32))


@pytest.mark.parametrize(
    "raw", [SOUND.astype(np.int32), SOUND[None], np.zeros(400), np.zeros((1, 399), np.float32)]
)
def test_other_arrays_are_refused(raw):
    with pytest.raises(InputError, match=r"here: .*neither raw sound \(int16, one axis, 8000 Hz\)"):
        prepare(raw, SOURCE, where="here")


def test_files_that_are_no_sound_are_named(tmp_path):
    (tmp_path / "text.wav").write_text("hello")
    write(tmp_path / "empty.wav", b"")
    soundfile.write(tmp_path / "void.wav", np.zeros(0), RATE, subtype="FLOAT")
    (tmp_path / "folder.wav").mkdir()
    for name, reason in {
        "gone.wav": "there is no file",
        "text.wav": "no sound",
        "empty.wav": "no sound",
        "void.wav": "holds no sound",
        "folder.wav": "cannot be read",
    }.items():
        with pytest.raises(InputError, match=reason):
            prepare(tmp_path / name, SOURCE, where="here")


def test_without_the_extra_wav_works_and_the_rest_names_it(tmp_path):
    write(tmp_path / "good.wav", SOUND.tobytes())
    write(tmp_path / "rate.wav", SOUND.tobytes(), rate=16000)
    (tmp_path / "x.flac").write_bytes(b"fLaC")
    code = """
import sys
sys.modules["soundfile"] = sys.modules["soxr"] = None
from edgekit.core.contract import Audio
from edgekit.core.errors import MissingDependencyError
from edgekit.data.preprocess import prepare
source = Audio(rate_hz=8000, samples=400)
prepare(sys.argv[1] + "/good.wav", source, where="x")
for name in ("rate.wav", "x.flac"):
    try:
        prepare(sys.argv[1] + "/" + name, source, where="x")
    except MissingDependencyError as fault:
        print(fault)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("pip install 'edgekit[audio]'") == 2
