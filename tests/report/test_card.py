"""The model card: from the manifest alone, the same bytes each time."""

from dataclasses import replace

import pytest

from edgekit.core.contract import Audio, Image, InputContract, Output, OutputContract, Tensor, Text
from edgekit.core.strategy import PlannedStep, Strategy
from edgekit.report.card import meaning_text, model_card, processing_text
from tests.bundle import samples


def card(**changes: object) -> str:
    """The card of the sample manifest with some fields changed."""
    return model_card(samples.manifest(**changes))


def test_the_same_manifest_gives_the_same_bytes():
    assert card() == card()


def test_order_of_versions_and_files_does_not_matter():
    a, b = {"edgekit": "0.1.0", "onnx": "1"}, {"onnx": "1", "edgekit": "0.1.0"}
    assert card(versions=a) == card(versions=b)
    lineage = samples.manifest().lineage
    left = replace(lineage, files={"x.toml": "1" * 64, "a.toml": "2" * 64})
    right = replace(lineage, files={"a.toml": "2" * 64, "x.toml": "1" * 64})
    assert card(lineage=left) == card(lineage=right)


def test_it_says_what_for_and_how_to_open_it():
    text = card(description="Tells yes from no.", license="MIT")
    assert text.startswith("# sample\n")
    assert "Tells yes from no." in text
    assert "**License**: MIT" in text
    assert "device `phone`, target `litert`" in text
    assert 'session.predict({"x": x})' in text
    assert "edgekit run BUNDLE x=x.npy" in text


def test_what_was_not_given_is_said_to_be_missing():
    text = card()
    assert "No description was given." in text
    assert "**License**: not stated" in text


def test_steps_are_listed_with_the_skipped_ones():
    strategy = Strategy(
        steps=(
            PlannedStep(
                name="quantize",
                is_run=True,
                reason="8 bits are fastest",
                settings={"precision": "int8", "overrides": [{"pattern": "^a$"}], "empty": []},
            ),
            PlannedStep(name="distil", is_run=False, reason="no training data"),
        )
    )
    text = card(strategy=strategy, anti_patterns=("INT4 is slow",))
    assert "1. `quantize` (precision int8, overrides " in text
    assert "8 bits are fastest" in text
    assert "2. `distil` was **skipped**: no training data" in text
    assert "Known weakness: INT4 is slow" in text
    assert "empty" not in text


def test_a_step_that_there_was_no_need_of_is_told_with_the_reason():
    step = PlannedStep(name="smooth", is_run=False, is_unneeded=True, reason="a conv net")
    text = card(strategy=Strategy(steps=(step,)))
    assert "1. `smooth` had no need to run: a conv net" in text


def test_no_steps_are_said_to_be_none():
    assert "No step was asked for." in card(strategy=Strategy(steps=()))


def test_waived_limits_are_said_loudly():
    assert "WAIVED" not in card()
    assert "**WAIVED BY THE USER: `latency_ratio`.**" in card(waived=("latency_ratio",))


def test_limits_stand_there_without_figures():
    text = card(limits=(*samples.LIMITS, samples.PENDING))
    assert "| `flash_bytes` | at most 500 kB | emulator or device |" in text
    assert "0.55" not in text
    assert "are in `evidence.json`" in text


def test_lineage_hashes_are_whole_and_empty_ones_left_out():
    text = card()
    assert f"| calibration data | `{'c' * 64}` |" in text
    assert "selection data" not in text


def test_a_users_text_cannot_break_the_markdown():
    text = card(name="a | b", description="<script>\n# not a heading\n`x` *y*")
    assert text.startswith("# a \\| b\n")
    assert "<script>" not in text
    assert "\n# not a heading" not in text
    assert "\\`x\\` \\*y\\*" in text


def test_several_components_are_told_apart():
    first = samples.manifest().components[0]
    text = card(components=(first, replace(first, name="second")))
    assert "### main" in text
    assert "### second" in text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Tensor(shape=(4,)), "taken as it is"),
        (
            Image(height=8, width=8, channels=1, scale=1 / 16),
            "picture, stretch to 8 x 8 (bilinear), one channel, pixels * 1/16, NCHW",
        ),
        (
            Image(
                height=224,
                width=192,
                mean=(0.485, 0.456, 0.406),
                deviation=(0.229, 0.224, 0.225),
                fit="crop",
                channel_order="BGR",
                layout="NHWC",
            ),
            "picture, crop to 224 x 192 (bilinear), BGR, pixels * 1/255, less mean "
            "(0.485, 0.456, 0.406), over deviation (0.229, 0.224, 0.225), NHWC",
        ),
        (Image(height=1, width=1, scale=0.3), "pixels * 0.3"),
        (Audio(rate_hz=8000, samples=4000), "mono sound at 8000 Hz, 4000 samples in -1..1"),
        (
            Audio(rate_hz=8000, samples=4000, mean=0.1, deviation=0.5),
            "less mean 0.1, over deviation 0.5",
        ),
        (
            Text(tokenizer="assets/tokenizer.json", length=64, part="mask"),
            "mask of `assets/tokenizer.json`, cut or padded with 0 to 64 tokens",
        ),
    ],
)
def test_processing_is_told_in_words(source, said):
    assert said in processing_text(source)


@pytest.mark.parametrize("kind", [Image(height=2, width=2), Audio(rate_hz=8, samples=8)])
def test_the_example_uses_a_file_of_the_inputs_kind(kind):
    component = samples.manifest().components[0]
    given = InputContract(name="x", dtype="float32", shape=(1, 4), source=kind)
    contract = replace(component.contract, inputs=(given,))
    suffix = {"image": "png", "audio": "wav"}[kind.kind]
    assert f"x=x.{suffix}" in card(components=(replace(component, contract=contract),))


def _output(**meaning: object) -> OutputContract:
    return OutputContract(name="y", dtype="float32", shape=(1, 2), meaning=Output(**meaning))


def test_outputs_say_activation_and_labels():
    assert meaning_text(_output()) == "the scores"
    shown = meaning_text(_output(labels=("a|b", "c"), activation="sigmoid"))
    assert shown == "sigmoid of the scores of 2 labels: a\\|b, c"


def test_many_labels_are_counted():
    labels = tuple(f"class {index}" for index in range(1000))
    shown = meaning_text(_output(labels=labels))
    assert "1000 labels: class 0, " in shown
    assert shown.endswith("class 19 and 980 more")
