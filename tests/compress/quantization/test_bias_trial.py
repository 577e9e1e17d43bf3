"""Corrected biases are kept where outputs on unseen samples come nearer, else taken back."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.compress.quantization.awq import awq
from edgekit.compress.quantization.round import round_weights
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps import Awq, Round, Rounding
from tests.compress.benches import (
    SIDE,
    SILENT,
    TinyCnn,
    TinyMlp,
    assert_same_state,
    bench_of,
    fit,
    seeded,
    state_of,
    write,
)

INT4 = Rounding(precision="int4")
PLAIN = Round(method="nearest", is_bias_corrected=False, rounding=INT4)
AUTO = Round(method="nearest", rounding=INT4)


def said_by(step, settings, bench):
    said = []
    result = step(settings, bench, Reporter(stage="t", listener=said.append))
    return result, " ".join(event.message for event in said)


def images(data, half):
    """Every second calibration picture."""
    rows = next(iter(data.calibration.batches(data.calibration.count)))["image"]
    return torch.from_numpy(rows[half::2])


@torch.no_grad()
def lost(model, reference, inputs):
    wanted = reference(inputs).double()
    return float((model(inputs).double() - wanted).square().sum() / wanted.square().sum())


def unlike(digits, folder, count=64):
    """Samples of which every first is bright noise and every second is black."""
    draws = np.random.default_rng(0)
    peaks = [16, 0]
    noise = [draws.integers(0, peaks[at % 2], (SIDE, SIDE), endpoint=True) for at in range(count)]
    samples = [(item.astype(np.uint8), 0) for item in noise]
    return replace(digits, calibration=write(samples, folder))


@pytest.fixture(scope="module")
def mlp(digits):
    return fit(seeded(TinyMlp), digits, epochs=3)


@pytest.fixture(scope="module")
def cnn(digits):
    return fit(seeded(TinyCnn), digits, epochs=3)


def test_a_correction_that_helps_unseen_samples_is_kept(mlp, digits, tmp_path):
    result, said = said_by(round_weights, AUTO, bench_of(copy.deepcopy(mlp), digits, tmp_path))
    plain = round_weights(PLAIN, bench_of(copy.deepcopy(mlp), digits, tmp_path), SILENT).model
    trial, unseen = result.values["bias_trial"], images(digits, 1)
    assert trial["is_kept"]
    assert trial["plain"] == pytest.approx(lost(plain, mlp, unseen), rel=1e-5)
    assert trial["corrected"] == pytest.approx(lost(result.model, mlp, unseen), rel=1e-5)
    assert trial["corrected"] < trial["plain"]
    assert "corrected biases kept: squared error of the outputs" in said
    assert f"{trial['corrected']:.3e} of their squares with" in said
    assert f"{trial['plain']:.3e} without" in said


def test_the_means_come_from_the_other_half(mlp, digits, tmp_path):
    result = round_weights(AUTO, bench_of(copy.deepcopy(mlp), digits, tmp_path), SILENT)
    new, old = result.model.layers[1], mlp.layers[1]
    mean = images(digits, 0).flatten(1).mean(0)
    expected = (old.weight - new.weight) @ mean
    assert torch.allclose(new.bias - old.bias, expected, atol=1e-6)


def test_a_correction_that_harms_unseen_samples_is_taken_back_to_the_bit(cnn, digits, tmp_path):
    data = unlike(digits, tmp_path / "unlike")
    result, said = said_by(round_weights, AUTO, bench_of(copy.deepcopy(cnn), data, tmp_path))
    plain = round_weights(PLAIN, bench_of(copy.deepcopy(cnn), data, tmp_path), SILENT)
    trial = result.values["bias_trial"]
    assert not trial["is_kept"]
    assert trial["plain"] == pytest.approx(lost(plain.model, cnn, images(data, 1)), rel=1e-5)
    assert trial["corrected"] > trial["plain"]
    assert result.values["bias_corrections"] == {}
    assert result.model.depthwise.bias is None
    assert_same_state(state_of(result.model), state_of(plain.model))
    assert "biases left as they are: squared error" in said
    assert "means of outputs corrected" not in said


def test_what_is_asked_for_is_not_tried(cnn, digits, tmp_path):
    data = unlike(digits, tmp_path / "unlike")
    asked = replace(AUTO, is_bias_corrected=True)
    result = round_weights(asked, bench_of(copy.deepcopy(cnn), data, tmp_path), SILENT)
    assert result.values["bias_trial"] is None
    assert result.values["bias_corrections"]["first"]["place"] == "batch norm"


def test_awq_tries_it_too(mlp, digits, tmp_path):
    settings = Awq(rounding=INT4)
    kept, said = said_by(awq, settings, bench_of(copy.deepcopy(mlp), digits, tmp_path))
    assert kept.values["bias_trial"]["is_kept"]
    assert "corrected biases kept" in said
    data = unlike(digits, tmp_path / "unlike")
    left = awq(settings, bench_of(copy.deepcopy(mlp), data, tmp_path), SILENT)
    plain = replace(settings, is_bias_corrected=False)
    other = awq(plain, bench_of(copy.deepcopy(mlp), data, tmp_path), SILENT)
    assert not left.values["bias_trial"]["is_kept"]
    assert other.values["bias_trial"] is None
    assert_same_state(state_of(left.model), state_of(other.model))


def test_adaround_is_corrected_behind_its_last_layer(mlp, digits, tmp_path):
    learned = Round(
        method="adaround", rounding=INT4, adaround=replace(AUTO.adaround, iterations=20)
    )
    result = round_weights(learned, bench_of(copy.deepcopy(mlp), digits, tmp_path / "a"), SILENT)
    without = replace(learned, is_bias_corrected=False)
    bench = bench_of(copy.deepcopy(mlp), digits, tmp_path / "b")
    plain = round_weights(without, bench, SILENT).model
    for number in (1, 3, 5):
        assert torch.equal(result.model.layers[number].weight, plain.layers[number].weight)
    unseen = images(digits, 1)
    assert result.values["bias_trial"]["plain"] == pytest.approx(lost(plain, mlp, unseen), rel=1e-5)


def test_two_runs_choose_and_correct_alike(mlp, digits, tmp_path):
    one, other = (
        round_weights(AUTO, bench_of(copy.deepcopy(mlp), digits, tmp_path), SILENT)
        for _ in range(2)
    )
    assert one.values["bias_trial"] == other.values["bias_trial"]
    assert_same_state(state_of(one.model), state_of(other.model))


def test_one_sample_leaves_none_to_judge_on(mlp, digits, tmp_path):
    data = unlike(digits, tmp_path / "one", count=1)
    result, said = said_by(round_weights, AUTO, bench_of(copy.deepcopy(mlp), data, tmp_path))
    trial = {"is_kept": False, "plain": None, "corrected": None}
    assert result.values["bias_trial"] == trial
    assert "biases left as they are: one calibration sample leaves none to judge on" in said


@pytest.mark.parametrize(("settings", "step"), [(Round, "round"), (Awq, "awq")])
def test_a_choice_that_is_none_is_refused(settings, step):
    with pytest.raises(StepError, match=f"{step}: is_bias_corrected is 'always'; it must be true"):
        settings(is_bias_corrected="always")
