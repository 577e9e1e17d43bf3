import copy
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit.compress.judge import Judge
from edgekit.compress.pruning.prune import prune
from edgekit.compress.state import load_state, save_state
from edgekit.core.errors import StepError
from edgekit.core.progress import Event, Reporter
from edgekit.core.steps import Prune, Train
from tests.compress.benches import SILENT, bench_of
from tests.compress.networks import TinyResNet
from tests.compress.pruning import killed_pruning

QUICK = Train(epochs=2, batch_size=100, learning_rate=5e-3)
NONE = Train(epochs=0)


def bench_with(model, digits, checkpoints, **changes):
    return bench_of(model, digits, checkpoints, **changes)


def heard(events):
    return Reporter(stage="prune", listener=events.append)


def tensors(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def test_half_of_the_macs_go_and_training_wins_most_of_the_score_back(
    fitted_cnn, digits, checkpoints
):
    bench = bench_with(fitted_cnn, digits, checkpoints)
    settings = Prune(goal="macs", iterations=2, round_to=4, recover=Train(epochs=6, batch_size=64))
    result = prune(settings, bench, SILENT)
    first, last = result.points[0], result.points[-1]
    assert last.macs <= 0.5 * first.macs
    cuts = [point.score for point in result.points if point.name.endswith("cut")]
    assert last.score > min(cuts) + 0.1
    assert Judge(bench).score(result.model) == last.score
    assert not result.model.training


def test_every_point_is_recorded(fitted_cnn, digits, checkpoints):
    bench = bench_with(fitted_cnn, digits, checkpoints)
    settings = Prune(iterations=2, round_to=2, schedule="linear", recover=QUICK)
    points = prune(settings, bench, SILENT).points
    assert [point.name for point in points] == [
        "start", "round 1 cut", "round 1", "round 2 cut", "round 2",
    ]  # fmt: skip
    assert [point.is_kept for point in points] == [False] * 4 + [True]
    parameters = [point.parameters for point in points]
    assert parameters[0] > parameters[1] == parameters[2] > parameters[3] == parameters[4]
    assert all(point.score is not None and point.macs > 0 for point in points)


@pytest.mark.parametrize("schedule", ["linear", "cubic"])
def test_rounds_end_where_one_shot_ends(schedule, fitted_cnn, digits, tmp_path):
    sizes = []
    for name in ("one-shot", schedule):
        bench = bench_with(fitted_cnn, digits, tmp_path / name)
        rounds = 1 if name == "one-shot" else 3
        settings = Prune(
            schedule=name, iterations=rounds, round_to=2, importance="l1", recover=NONE
        )
        model = prune(settings, bench, SILENT).model
        sizes.append([tuple(value.shape) for value in model.parameters()])
    assert sizes[0] == sizes[1]


def test_pruning_without_training_takes_the_model_as_it_is(fitted_cnn, digits, checkpoints):
    bench = bench_with(fitted_cnn, digits, checkpoints, training=None)
    before = copy.deepcopy(fitted_cnn.state_dict())
    result = prune(Prune(round_to=4, recover=NONE), bench, SILENT)
    rows = result.model.stem.out_channels
    assert rows == 8
    assert all(torch.equal(value, before[key]) for key, value in fitted_cnn.state_dict().items())


def test_channel_counts_are_what_the_target_likes(fitted_cnn, digits, checkpoints):
    bench = bench_with(fitted_cnn, digits, checkpoints, channel_multiple=8)
    model = prune(Prune(ratio=0.3, recover=NONE), bench, SILENT).model
    widths = {m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert {width % 8 for width in widths} == {0}


def test_layers_heads_and_widths_of_a_transformer_go_together(
    fitted_transformer, digits, checkpoints
):
    bench = bench_with(fitted_transformer, digits, checkpoints)
    settings = Prune(
        units=("heads", "ffn"), head_ratio=0.25, ffn_ratio=0.5, drop_layers=1, recover=QUICK
    )
    result = prune(settings, bench, SILENT)
    (layer,) = result.model.layers
    assert layer.attention.num_heads == 3
    assert layer.attention.query.out_features == 24
    assert layer.ffn_in.out_features == 32
    assert result.values["dropped"][0].startswith("layers.")


@pytest.mark.parametrize(("share", "gone"), [(0.5, 2), (0.99, 3), (1.0, 4)])
def test_a_share_of_the_layers_that_can_go_is_rounded_down(share, gone, digits, checkpoints):
    """Three blocks of one shape, of which one stays; then two after the one that changes it."""
    bench = bench_with(TinyResNet(blocks=(3, 3)), digits, checkpoints)
    settings = Prune(units=("layers",), depth_ratio=share, recover=NONE)
    assert len(prune(settings, bench, SILENT).values["dropped"]) == gone


def test_no_layer_goes_that_is_ignored_or_holds_what_is(digits, checkpoints):
    bench = bench_with(TinyResNet(blocks=(3, 3)), digits, checkpoints)
    ignore = ("^stage1", r"stage2\.1\.first")
    settings = Prune(units=("layers",), depth_ratio=1.0, ignore=ignore, recover=NONE)
    assert prune(settings, bench, SILENT).values["dropped"] == ["stage2.2"]


def test_a_share_of_no_layers_is_said_beside_other_units_and_refused_alone(
    fitted_cnn, digits, checkpoints
):
    bench, events = bench_with(fitted_cnn, digits, checkpoints), []
    prune(Prune(depth_ratio=0.5, ratio=0.3, recover=NONE), bench, heard(events))
    assert any("no layer went: depth_ratio 0.5" in event.message for event in events)
    alone = Prune(units=("layers",), depth_ratio=0.5, recover=NONE)
    with pytest.raises(StepError, match=r"depth_ratio is 0\.5, and of the layers .* none"):
        prune(alone, bench, SILENT)


def test_layers_alone_go_in_one_round(fitted_transformer, digits, checkpoints):
    bench = bench_with(fitted_transformer, digits, checkpoints)
    settings = Prune(units=("layers",), drop_layers=1, iterations=2, recover=QUICK)
    result = prune(settings, bench, SILENT)
    assert len(result.model.layers) == 1
    assert len(result.points) == 3


def test_stops_at_the_last_round_inside_the_limit(fitted_cnn, digits, checkpoints):
    bench = bench_with(fitted_cnn, digits, checkpoints, drop_limit=30.0)
    events: list[Event] = []
    settings = Prune(
        ratio=0.9, iterations=9, schedule="linear", round_to=1, is_within_limit=True, recover=NONE
    )
    result = prune(settings, bench, heard(events))
    kept = next(point for point in result.points if point.is_kept)
    assert Judge(bench).judge(result.model).drop <= 30
    assert kept.parameters == sum(value.numel() for value in result.model.parameters())
    # The round that went too far is recorded too.
    assert result.points[-1].parameters < kept.parameters
    assert any("stopped after round" in event.message for event in events)


def test_no_round_inside_the_limit_is_an_error_that_says_by_how_much(
    fitted_cnn, digits, checkpoints
):
    bench = bench_with(fitted_cnn, digits, checkpoints, drop_limit=0.1)
    settings = Prune(ratio=0.9, round_to=1, is_within_limit=True, recover=NONE)
    with pytest.raises(StepError, match=r"first of 1 rounds lost \d+.* limit is 0\.1"):
        prune(settings, bench, SILENT)


def test_masks_stay_true_through_pruning_and_training(fitted_cnn, digits, checkpoints):
    masks = {}
    with torch.no_grad():
        for name in ("first.weight", "second.weight", "pointwise.weight"):
            weight = fitted_cnn.get_parameter(name)
            masks[name] = weight.abs() > weight.abs().median()
            weight.mul_(masks[name])
    bench = bench_with(fitted_cnn, digits, checkpoints, masks=masks)
    result = prune(Prune(round_to=4, recover=QUICK), bench, SILENT)
    assert set(result.masks) == set(masks)
    for name, mask in result.masks.items():
        weight = result.model.get_parameter(name)
        assert mask.shape == weight.shape
        assert not weight[~mask.bool()].any()
        assert weight[mask.bool()].abs().min() > 0


@pytest.mark.parametrize("importance", ["l1", "l2", "group-norm", "bn-scale", "taylor", "hessian"])
def test_importances_keep_more_of_the_score_than_chance(importance, fitted_cnn, digits, tmp_path):
    def score(settings, seed):
        folder = tmp_path / f"{settings.importance}{seed}"
        bench = bench_with(fitted_cnn, digits, folder, seed=seed)
        return prune(settings, bench, SILENT).points[-1].score

    settings = Prune(importance=importance, ratio=0.3, round_to=1, recover=NONE)
    chance = [score(replace(settings, importance="random"), seed) for seed in range(5)]
    assert score(settings, 0) > sum(chance) / len(chance)


def test_result_can_be_written_down(fitted_transformer, digits, checkpoints, tmp_path):
    bench = bench_with(fitted_transformer, digits, checkpoints)
    settings = Prune(units=("channels", "heads"), drop_layers=1, recover=NONE)
    result = prune(settings, bench, SILENT)
    folder = tmp_path / "state"
    folder.mkdir()
    save_state(result.model, bench.model, folder, result.masks)
    inputs = bench.example(4)
    loaded = bench.call(load_state(bench.model, folder).model, inputs)["scores"]
    assert torch.equal(loaded, bench.call(result.model, inputs)["scores"])


def test_the_same_seed_gives_the_same_model(fitted_cnn, digits, tmp_path):
    settings = Prune(importance="random", ratio=0.4, round_to=2, iterations=2, recover=QUICK)
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        bench = bench_with(copy.deepcopy(fitted_cnn), digits, tmp_path / name, seed=seed)
        found.append(tensors(prune(settings, bench, SILENT).model))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert any(not torch.equal(value, found[2][name]) for name, value in found[0].items())


def test_a_killed_run_goes_on_with_the_round_that_it_was_in(digits, tmp_path):
    data = Path(digits.training.path).parent
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.compress.pruning.killed_pruning",
            str(data),
            str(tmp_path / "killed"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    for line in child.stdout:
        if "round 3 of 3" in line:
            child.send_signal(signal.SIGKILL)
            break
    child.wait()
    assert child.returncode == -signal.SIGKILL
    events: list[Event] = []
    resumed = killed_pruning.run(data, tmp_path / "killed", events.append)
    whole = killed_pruning.run(data, tmp_path / "whole")
    told = [event.message for event in events]
    assert "round 2 was done before; its result is taken" in told
    assert not any("round 1 of 3" in message for message in told)
    ours, theirs = tensors(resumed.model), tensors(whole.model)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    scores = [[point.score for point in result.points] for result in (resumed, whole)]
    assert scores[0] == scores[1]


def test_rounds_of_other_settings_are_not_taken_up(fitted_cnn, digits, checkpoints):
    bench = bench_with(fitted_cnn, digits, checkpoints)
    prune(Prune(ratio=0.5, round_to=2, recover=NONE), bench, SILENT)
    events: list[Event] = []
    result = prune(Prune(ratio=0.25, round_to=2, recover=NONE), bench, heard(events))
    assert result.model.stem.out_channels == 12
    assert any("other settings, data or weights" in event.message for event in events)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (Prune(), {"training": None}, "recover asks for 10 epochs, and .* no training data"),
        (
            Prune(importance="taylor", recover=NONE),
            {"training": None},
            "importance 'taylor' needs training data",
        ),
        (Prune(is_within_limit=True, recover=NONE), {}, "no selection data with targets"),
        (Prune(ignore=("steam",), recover=NONE), {}, "'steam' matches no layer; .*'stem'"),
        (Prune(ratio=0.01, recover=NONE), {}, "nothing went: the model has 5,866 parameters"),
        (
            Prune(goal="bytes", keep=100, recover=NONE),
            {},
            "100 bytes cannot be reached: with all that may go gone, .* bytes stay",
        ),
        (Prune(units=("heads",), recover=NONE), {}, "nothing of heads may go"),
        (
            Prune(head_ratio=0.5, recover=NONE),
            {},
            "head_ratio is 0.5, and nothing of heads may go in this model",
        ),
        (Prune(drop_layers=3, recover=NONE), {}, "drop_layers is 3, and 0 layers may go"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_says_why(
    settings, changes, message, fitted_cnn, digits, checkpoints
):
    with pytest.raises(StepError, match=message):
        prune(settings, bench_with(fitted_cnn, digits, checkpoints, **changes), SILENT)
