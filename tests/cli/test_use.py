"""run and bench, on a real model."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click import UsageError
from PIL import Image as Picture

from edgekit.cli.use import raw_samples
from edgekit.core.contract import Contract, InputContract, Tensor, Text
from tests.cli.conftest import BIAS, LABELS, WEIGHTS, seal_picture_bundle
from tests.runtime.four_bits import SHAPE, seal_kept_weight
from tests.runtime.test_adapters import make as make_sum_bundle


def _softmax(pixels: np.ndarray) -> np.ndarray:
    """Scores of uint8 pixels by numpy alone."""
    scores = (pixels.reshape(-1).astype(np.float32) / 255) @ WEIGHTS + BIAS
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


@pytest.fixture
def bright(tmp_path):
    """A white picture as a file."""
    path = tmp_path / "bright.png"
    Picture.fromarray(np.full((2, 2), 255, dtype=np.uint8)).save(path)
    return path


def test_run_prints_the_labels_of_a_picture_best_first(picture_bundle, bright, command):
    found = command("run", picture_bundle, bright, "--top", 2)
    probability = _softmax(np.full((2, 2), 255, dtype=np.uint8))[1]
    lines = found.out.splitlines()
    assert found.code == 0
    assert lines[0] == str(bright)
    assert lines[1].split() == ["scores:", "bright", f"{probability:.4f}"]
    assert len(lines) == 3


def test_run_takes_an_adapter_by_name_and_inspect_lists_them(tmp_path, command):
    bundle = make_sum_bundle(tmp_path / "sum.edgekit")
    np.save(tmp_path / "x.npy", np.ones(4, dtype=np.float32))
    given = ("run", bundle, tmp_path / "x.npy", "--json")
    for options, expected in (
        ((), [1, 1, 1, 1]),
        (("--adapter", "polite"), [2, 3, 4, 5]),
        (("--adapter", "none"), [1, 1, 1, 1]),
    ):
        [found] = json.loads(command(*given, *options).out)["predictions"]
        assert found["outputs"]["y"] == expected
    wrong = command(*given, "--adapter", "polit")
    assert wrong.code != 0
    assert "did you mean 'polite'?" in json.loads(wrong.out)["error"]["message"]
    assert "brief, polite" in command("inspect", bundle).out


def test_run_takes_many_inputs_each_on_its_own(picture_bundle, bright, tmp_path, command):
    dark = tmp_path / "dark.npy"
    np.save(dark, np.zeros((2, 2), dtype=np.uint8))
    found = json.loads(command("run", picture_bundle, bright, dark, "--json").out)
    best = [item["labels"]["scores"][0]["label"] for item in found["predictions"]]
    assert best == ["bright", "dark"]
    assert [item["input"] for item in found["predictions"]] == [str(bright), str(dark)]


def test_run_in_json_gives_all_scores(picture_bundle, bright, command):
    [found] = json.loads(command("run", picture_bundle, bright, "--json").out)["predictions"]
    expected = _softmax(np.full((2, 2), 255, dtype=np.uint8))
    np.testing.assert_allclose(found["outputs"]["scores"], expected, rtol=1e-5)
    assert {item["label"] for item in found["labels"]["scores"]} == set(LABELS)


def test_run_takes_inputs_by_name(picture_bundle, bright, command):
    found = command("run", picture_bundle, f"image={bright}", "--top", "1")
    assert "bright" in found.out.splitlines()[1]


def test_run_takes_a_file_with_many_samples(picture_bundle, tmp_path, command):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 2, 2), dtype=np.uint8)
    np.save(tmp_path / "many.npy", pixels)
    words = ("run", picture_bundle, tmp_path / "many.npy", "--batch", "--json")
    found = json.loads(command(*words).out)["predictions"]
    assert [item["input"] for item in found] == [f"{tmp_path / 'many.npy'}[{i}]" for i in range(5)]
    for item, row in zip(found, pixels, strict=True):
        np.testing.assert_allclose(item["outputs"]["scores"], _softmax(row), rtol=1e-5)


def test_run_takes_named_files_with_many_samples(picture_bundle, tmp_path, command):
    np.save(tmp_path / "many.npy", np.zeros((3, 2, 2), dtype=np.uint8))
    words = ("run", picture_bundle, f"image={tmp_path / 'many.npy'}", "--batch", "--json")
    assert len(json.loads(command(*words).out)["predictions"]) == 3


def test_an_empty_batch_is_refused(picture_bundle, tmp_path, command):
    np.save(tmp_path / "none.npy", np.zeros((0, 2, 2), dtype=np.uint8))
    found = command("run", picture_bundle, tmp_path / "none.npy", "--batch")
    assert found.code == 2
    assert "at least one" in found.err


def test_a_path_with_an_equals_sign_is_a_path(picture_bundle, bright, tmp_path, command):
    odd = bright.rename(tmp_path / "a=b.png")
    assert command("run", picture_bundle, odd).code == 0


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ((), "at least one INPUT"),
        (("imge=x.npy",), "did you mean 'image'"),
        (("image=x.npy", "y.npy"), "name every input"),
        (("image=x.npy", "--text", "a"), "name every input"),
        (("image=x.npy", "image=y.npy"), "each once"),
        (("nowhere.png",), "nowhere.png"),
    ],
)
def test_wrong_inputs_are_errors_that_say_what_to_do(inputs, said, picture_bundle, command):
    found = command("run", picture_bundle, *inputs)
    assert (found.code, found.out) == (2, "")
    assert said in found.err


def _contract(**sources):
    inputs = tuple(
        InputContract(name=name, dtype="float32", shape=(1, 3), source=source)
        for name, source in sources.items()
    )
    return Contract(inputs=inputs, outputs=())


def test_files_of_a_model_with_several_inputs_must_be_named():
    several = _contract(left=Tensor(shape=(3,)), right=Tensor(shape=(3,)))
    with pytest.raises(UsageError, match="2 inputs; name them: left=FILE right=FILE"):
        list(raw_samples(["a.npy"], [], several, is_batch=False))
    text = Text(tokenizer="t.json", length=3)
    parts = _contract(ids=text, mask=replace(text, part="mask"))
    (sample,) = raw_samples(["a.txt"], [], parts, is_batch=False)
    assert sample.name == "a.txt"


def test_run_refuses_a_bundle_that_was_changed(picture_bundle, bright, command):
    (picture_bundle / "model" / "model.onnx").write_bytes(b"another")
    assert command("run", picture_bundle, bright).code == 6


def test_run_can_ask_for_proof(picture_bundle, bright, command):
    assert command("run", picture_bundle, bright, "--require", "proven").code == 0


def test_an_output_without_labels_shows_its_first_values():
    from edgekit.cli.use import prediction_lines
    from edgekit.runtime import Prediction

    prediction = Prediction(outputs={"y": np.arange(20, dtype=np.float32)}, labels={})
    lines = list(prediction_lines("x.npy", prediction))
    assert lines[0] == "x.npy"
    assert lines[1].startswith("  y: float32 (20,) [ 0.  1.")
    assert lines[1].endswith("...")


def test_bench_times_a_bundle_alone(picture_bundle, command):
    found = json.loads(command("bench", picture_bundle, "--pairs", "20", "--json").out)
    figures = {item["name"]: item for item in found["figures"]}
    assert set(figures) == {"open_ms", "latency_ms"}
    assert 0 < figures["latency_ms"]["low"] <= figures["latency_ms"]["value"] < 100
    assert figures["latency_ms"]["samples"] == 20
    assert found["against"] == ""
    assert found["host"]["cores"] >= 1


def test_bench_against_itself_finds_a_ratio_near_one(picture_bundle, tmp_path, command):
    other = seal_picture_bundle(tmp_path / "other")
    words = ("bench", picture_bundle, "--against", other, "--pairs", "100", "--json")
    figures = {item["name"]: item for item in json.loads(command(*words).out)["figures"]}
    assert set(figures) == {"open_ms", "latency_ratio", "latency_ms", "latency_against_ms"}
    # Twice the same model: a busy machine disturbs both within a pair alike.
    assert 0.5 < figures["latency_ratio"]["value"] < 2


def test_bench_prints_a_table(picture_bundle, command):
    found = command("bench", picture_bundle, "--pairs", "10")
    assert found.code == 0
    assert "latency_ms" in found.out


def test_run_and_bench_say_on_stderr_what_runs_slower_than_it_should(tmp_path, command):
    bundle = seal_kept_weight(tmp_path / "kept.edgekit")
    np.save(tmp_path / "x.npy", np.zeros(SHAPE, np.float32))
    for words in (("run", bundle, tmp_path / "x.npy"), ("bench", bundle, "--pairs", "10")):
        found = command(*words, "--json")
        assert found.code == 0
        json.loads(found.out)
        assert "note: 1 of 3 weights without a fast kernel for 4 bits stay so" in found.err.replace(
            "note: bench: ", "note: "
        )
