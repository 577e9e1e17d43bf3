"""The training loop, against loops written by hand and against itself after kills."""

import copy
import dataclasses
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from edgekit.compress.judge import Judge
from edgekit.compress.training import pace
from edgekit.compress.training.batches import epoch_order, stream_seed
from edgekit.compress.training.checkpoint import FILE
from edgekit.compress.training.objective import label_objective, teacher_objective
from edgekit.compress.training.train import train
from edgekit.compress.training.training_run import DIVERGED
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps import Train
from tests.compress.benches import (
    SILENT,
    TinyCnn,
    TinyMlp,
    TinyTransformer,
    assert_same_state,
    bench_of,
    cnn_bench,
    mlp_bench,
    seeded,
    state_of,
    write,
)
from tests.compress.training import killed_training

ROOT = Path(__file__).parents[3]


def _train(bench, settings, objective=None, **more):
    return train(bench.model, objective or label_objective(bench), bench, settings, SILENT, **more)


# Against a bare loop.


def _bare_loop(model, data, settings, *, seed, memory_format=torch.contiguous_format):
    """What a torch user writes; only the order of the samples is edgekit's."""
    rows = next(data.batches(data.count))
    images, labels = torch.from_numpy(rows["image"]), torch.from_numpy(rows["target"])
    weights = [value for value in model.parameters() if value.ndim > 1]
    vectors = [value for value in model.parameters() if value.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, settings.learning_rate, momentum=settings.momentum)
    else:
        optimizer = torch.optim.AdamW(groups, settings.learning_rate)
    size = settings.batch_size
    steps = settings.epochs * math.ceil(data.count / size)
    warmup = round(steps * settings.warmup_ratio)
    schedule = SequentialLR(
        optimizer,
        [
            LinearLR(optimizer, 1 / warmup, 1.0, total_iters=warmup - 1),
            CosineAnnealingLR(optimizer, steps - warmup),
        ],
        milestones=[warmup],
    )
    model.to(memory_format=memory_format).train()
    for epoch in range(settings.epochs):
        order = epoch_order(data.count, seed=stream_seed(seed, "train"), epoch=epoch)
        for part in order.split(size):
            loss = functional.cross_entropy(model(images[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            if settings.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimizer.step()
            schedule.step()
    return model.to(memory_format=torch.contiguous_format).eval()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.2])
@pytest.mark.parametrize(
    ("make", "memory_format"),
    [(TinyMlp, torch.contiguous_format), (TinyCnn, torch.channels_last)],
)
def test_the_weights_are_those_of_a_loop_written_by_hand(
    digits, checkpoints, optimizer, clip_norm, make, memory_format
):
    rate = 0.05 if optimizer == "sgd" else 5e-3
    settings = Train(
        epochs=2,
        batch_size=100,
        optimizer=optimizer,
        learning_rate=rate,
        warmup_ratio=0.25,
        clip_norm=clip_norm,
        weight_decay=0.1,
    )
    bench = bench_of(seeded(make), digits, checkpoints, seed=11)
    trained = _train(bench, settings)
    by_hand = _bare_loop(
        seeded(make), digits.training, settings, seed=11, memory_format=memory_format
    )
    assert trained.points[-1].is_kept  # else these are the weights of an earlier epoch
    for name, value in by_hand.state_dict().items():
        # The learning rate is computed by recursion there and by the formula here: the last bits
        # of 24 steps.
        assert torch.allclose(bench.model.state_dict()[name], value, rtol=1e-5, atol=1e-6), name


def test_a_constant_rate_gives_the_same_bits_as_a_loop_written_by_hand(digits, checkpoints):
    settings = Train(epochs=1, batch_size=100, schedule="constant", warmup_ratio=0, clip_norm=0)
    bench = mlp_bench(digits, checkpoints)
    _train(bench, settings)
    model, rows = seeded(TinyMlp), next(digits.training.batches(1200))
    images, labels = torch.from_numpy(rows["image"]), torch.from_numpy(rows["target"])
    groups = [
        {"params": [value for value in model.parameters() if value.ndim > 1]},
        {"params": [value for value in model.parameters() if value.ndim == 1], "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(groups, 1e-3, weight_decay=1e-4)
    for part in epoch_order(1200, seed=stream_seed(0, "train"), epoch=0).split(100):
        optimizer.zero_grad()
        functional.cross_entropy(model(images[part]), labels[part]).backward()
        optimizer.step()
    assert_same_state(state_of(bench.model), state_of(model))


# What is kept.


def test_the_weights_of_the_best_epoch_are_kept(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)
    # A rate that ruins what the first epochs learned.
    ruin = Train(epochs=6, batch_size=64, learning_rate=0.5, schedule="constant", clip_norm=0)
    trained = _train(bench, ruin)
    scores = [point.score for point in trained.points]
    kept = [point for point in trained.points if point.is_kept]
    assert len(kept) == 1
    assert trained.score == kept[0].score == max(scores)
    assert scores[-1] < max(scores)
    assert Judge(bench).score(bench.model) == trained.score
    assert not any(module.training for module in bench.model.modules())


def test_a_lower_metric_is_better_where_it_says_so(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints, metric="nll")
    trained = _train(bench, Train(epochs=3, learning_rate=1e-2))
    assert trained.score == min(point.score for point in trained.points)
    assert trained.score < trained.points[0].score


def test_the_start_is_kept_where_training_only_harms(digits, fitted_mlp, checkpoints):
    bench = bench_of(fitted_mlp, digits, checkpoints)
    before = state_of(fitted_mlp)
    trained = _train(bench, Train(epochs=1, learning_rate=10.0, clip_norm=0, warmup_ratio=0))
    assert trained.points[0].is_kept
    assert_same_state(state_of(fitted_mlp), before)


def test_of_equal_epochs_the_latest_is_kept(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints, metric=lambda outputs, target: 0.0 * target)
    trained = _train(bench, Train(epochs=3))
    assert [point.is_kept for point in trained.points] == [False, False, False, True]


def test_training_stops_after_so_many_epochs_without_a_better_metric(digits, checkpoints):
    scores, calls = [0.1, 0.5, 0.5, 0.4, 0.9, 0.9], []

    def metric(outputs, target):
        calls.append(1)  # 400 samples are 4 batches
        return np.full(len(target), scores[(len(calls) - 1) // 4])

    bench = mlp_bench(digits, checkpoints, metric=metric)
    trained = _train(bench, Train(epochs=20, patience=2))
    # The start, then 0.5; equal and worse do not count as better, and 0.9 is never reached.
    assert [point.score for point in trained.points] == pytest.approx([0.1, 0.5, 0.5, 0.4])


def test_every_epoch_is_a_point_with_its_loss_and_size(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    rows = next(digits.training.batches(1200))
    model = copy.deepcopy(bench.model).train()
    scores = model(torch.from_numpy(rows["image"]))
    loss = functional.cross_entropy(scores, torch.from_numpy(rows["target"])).item()
    trained = _train(bench, Train(epochs=2, batch_size=1200, learning_rate=1e-9))
    assert [point.name for point in trained.points] == [
        "train start",
        "train epoch 1",
        "train epoch 2",
    ]
    assert {point.parameters for point in trained.points} == {
        sum(value.numel() for value in bench.model.parameters())
    }
    # 8x8 places: stem 9*16, two of 9*16*16; 4x4 places: depthwise 9*16, pointwise 16*32; 32*10.
    assert trained.points[0].macs == 64 * (144 + 2 * 2304) + 16 * (144 + 512) + 320
    assert trained.points[0].loss is None
    # In one batch of all samples, in another order.
    assert trained.points[1].loss == pytest.approx(loss, rel=1e-4)
    assert trained.seconds >= sum(point.seconds for point in trained.points) * 0.99 > 0


def test_no_epochs_only_judge_and_mask(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints, training=None)
    keeps = torch.zeros_like(bench.model.layers[1].weight, dtype=torch.bool)
    trained = _train(
        bench, Train(epochs=0), lambda *_: pytest.fail("trained"), masks={"layers.1.weight": keeps}
    )
    assert [point.is_kept for point in trained.points] == [True]
    assert (bench.model.layers[1].weight == 0).all()
    assert trained.score == Judge(bench).score(bench.model)


# Moving average, masks, batch norm, frozen weights.


def test_the_average_is_judged_and_kept(digits, checkpoints):
    settings = Train(epochs=1, batch_size=300, schedule="constant", warmup_ratio=0, clip_norm=0)
    averaged = mlp_bench(digits, checkpoints / "a")
    _train(averaged, dataclasses.replace(settings, ema_decay=0.9))
    # By hand: the weights after each of the 4 batches, and the recursion over them.
    plain, seen = mlp_bench(digits, checkpoints / "b"), []
    start = state_of(plain.model)
    _train(plain, settings, after_batch=lambda _: seen.append(state_of(plain.model)))
    expected = start
    for step, weights in enumerate(seen, start=1):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = {
            name: decay * expected[name] + (1 - decay) * value for name, value in weights.items()
        }
    for name, value in averaged.model.state_dict().items():
        # Two ways of rounding the same sum.
        assert torch.allclose(value, expected[name], atol=1e-6), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_masked_weights_are_exactly_zero_at_every_batch(digits, checkpoints, optimizer, ema_decay):
    bench = cnn_bench(digits, checkpoints)
    masks = {
        name: torch.rand(value.shape, generator=torch.Generator().manual_seed(1)) < 0.3
        for name, value in bench.model.named_parameters()
        if value.ndim > 1
    }
    zeros = []

    def look(_):
        weights = dict(bench.model.named_parameters())
        zeros.append(all(bool((weights[name][~keeps] == 0).all()) for name, keeps in masks.items()))

    settings = Train(
        epochs=2,
        optimizer=optimizer,
        learning_rate=0.3 if optimizer == "sgd" else 1e-2,
        weight_decay=0.1,
        ema_decay=ema_decay,
    )
    trained = _train(bench, settings, masks=masks, after_batch=look)
    assert zeros == [True] * 20
    weights = dict(bench.model.named_parameters())
    for name, keeps in masks.items():
        assert (weights[name][~keeps] == 0).all()
        assert (weights[name][keeps] != 0).all()
    assert trained.score > trained.points[0].score


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_mask_that_changes_on_the_way_is_heeded_from_then_on(digits, checkpoints, ema_decay):
    bench = mlp_bench(digits, checkpoints)
    weight = bench.model.layers[1].weight
    keeps = torch.ones_like(weight, dtype=torch.bool)
    gradients = []

    def change(done):
        gradients.append(weight.grad is not None)
        keeps[:, done - 1] = False

    settings = Train(epochs=1, batch_size=100, learning_rate=1e-2, ema_decay=ema_decay)
    trained = _train(bench, settings, masks={"layers.1.weight": keeps}, after_batch=change)
    assert trained.points[1].is_kept
    assert gradients == [True] * 12
    assert (weight[:, :12] == 0).all()
    assert (weight[:, 12:] != 0).any()


def test_masks_that_changed_are_at_the_end_those_of_the_best_weights(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)
    weight = bench.model.layers[1].weight
    keeps = torch.ones_like(weight, dtype=torch.bool)

    def change(done):
        # The second epoch lets go of all that feeds one layer.
        keeps[:, :8] = done > 10
        if done > 10:
            keeps[:, 8:] = False

    settings = Train(epochs=2, learning_rate=1e-2)
    masks = {"layers.1.weight": keeps}
    trained = _train(bench, settings, masks=masks, after_batch=change)
    assert [point.is_kept for point in trained.points] == [False, True, False]
    for _ in range(2):
        assert (weight[~keeps] == 0).all()
        assert (weight[:, 8:] != 0).any()
        # A finished training that is taken up again gives the same masks.
        bench = mlp_bench(digits, checkpoints)
        weight = bench.model.layers[1].weight
        keeps.fill_(True)
        assert _train(bench, settings, masks=masks, after_batch=change) == trained


def test_a_last_batch_of_one_sample_trains(digits, checkpoints):
    class Pooled(TinyCnn):
        """Batch norm after the pooling: one sample has no variance there."""

        def __init__(self):
            super().__init__()
            self.classifier = nn.Sequential(nn.BatchNorm1d(32), self.classifier)

    bench = bench_of(seeded(Pooled), digits, checkpoints)
    # 1200 = 109 * 11 + 1.
    _train(bench, Train(epochs=1, batch_size=11))


def test_batches_of_one_sample_and_batch_norm_are_refused(digits, checkpoints):
    with pytest.raises(StepError, match=r"batches of 1 sample.*'stem_norm'.*set batch_size to 2"):
        _train(cnn_bench(digits, checkpoints), Train(epochs=1, batch_size=1))


def test_batches_of_one_sample_train_a_model_without_batch_norm(digits, checkpoints, tmp_path):
    few = write(
        [(torch.full((8, 8), i, dtype=torch.uint8).numpy(), i) for i in range(5)], tmp_path / "few"
    )
    trained = _train(mlp_bench(digits, checkpoints, training=few), Train(epochs=1, batch_size=1))
    assert len(trained.points) == 2


def test_statistics_of_frozen_batch_norm_and_frozen_weights_stay(digits, fitted_cnn, checkpoints):
    fitted_cnn.requires_grad_(False)
    fitted_cnn.classifier.requires_grad_(True)
    before = state_of(fitted_cnn)
    bench = bench_of(fitted_cnn, digits, checkpoints)
    _train(bench, Train(epochs=2, learning_rate=1e-2), teacher_objective(bench, 0.5))
    changed = {
        name
        for name, value in fitted_cnn.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"classifier.weight", "classifier.bias"}
    assert not any(value.requires_grad for value in fitted_cnn.stem.parameters())


def test_judging_leaves_batch_norm_alone(digits, checkpoints):
    # One batch moves the statistics once: mean = 0.9 * 0 + 0.1 * batch mean.
    bench = cnn_bench(digits, checkpoints)
    rows = torch.from_numpy(next(digits.training.batches(1200))["image"])
    expected = 0.1 * bench.model.stem(rows).mean(dim=(0, 2, 3)).detach()
    _train(
        bench,
        Train(epochs=1, batch_size=1200, learning_rate=1e-12),
    )
    assert torch.allclose(bench.model.stem_norm.running_mean, expected, atol=1e-5)
    assert int(bench.model.stem_norm.num_batches_tracked) == 1


def test_label_smoothing_reaches_the_loss(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)
    plain = _train(bench, Train(epochs=1, batch_size=1200, learning_rate=1e-9))
    bench = mlp_bench(digits, checkpoints / "smooth")
    smooth = _train(
        bench,
        Train(epochs=1, batch_size=1200, learning_rate=1e-9),
        label_objective(bench, label_smoothing=0.5),
    )
    rows = next(digits.training.batches(1200))
    scores = seeded(TinyMlp)(torch.from_numpy(rows["image"]))
    uniform = -torch.log_softmax(scores, 1).mean().item()
    expected = 0.5 * plain.points[1].loss + 0.5 * uniform
    assert smooth.points[1].loss == pytest.approx(expected, rel=1e-5)


# Faults.


def _spoiled(bench, at, value):
    """The label loss, and something else at one batch."""
    plain, calls = label_objective(bench), []

    def objective(model, batch):
        calls.append(1)
        loss = plain(model, batch)
        return loss * value if len(calls) == at else loss

    return objective


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_says_where(digits, checkpoints, value):
    bench = mlp_bench(digits, checkpoints)
    settings = Train(epochs=3, batch_size=100, learning_rate=0.25, clip_norm=0.0)
    message = (
        rf"test, round-2: the loss is {value} in epoch 2 of 3, batch 3 of 12; training stops, and "
        r"the last good checkpoint is kept in .*round-2\. Lower learning_rate \(now 0.25\) or "
        r"clip_norm \(now 0, which clips nothing\)"
    )
    with pytest.raises(StepError, match=message):
        _train(bench, settings, _spoiled(bench, 15, value), name="round-2")
    stored = torch.load(checkpoints / "round-2" / FILE, weights_only=True)
    assert (stored["epoch"], stored["batch"]) == (1, 0)
    assert all(bool(value.isfinite().all()) for value in stored["tensors"].values())


@pytest.mark.parametrize("factor", [1e4, 100.0])
def test_a_loss_that_grows_past_all_use_stops_although_it_is_finite(digits, checkpoints, factor):
    bench, settings = mlp_bench(digits, checkpoints), Train(epochs=2, learning_rate=1e-3)
    plain, calls = label_objective(bench), []

    def objective(model, batch):
        calls.append(1)
        return plain(model, batch) * (1.0 if len(calls) == 1 else factor)

    if factor < DIVERGED:
        assert _train(bench, settings, objective).epochs == 2
        return
    message = (
        r"test, train: the loss grew from 2\.\d+ in the first batch to \S+ on average in epoch 1 "
        r"of 2; training stops, .* Lower learning_rate \(now 0.001\)"
    )
    with pytest.raises(StepError, match=message):
        _train(bench, settings, objective)


def test_a_loss_that_was_next_to_nothing_may_grow(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)
    plain, calls = label_objective(bench), []

    def objective(model, batch):
        calls.append(1)
        return plain(model, batch) * (1e-9 if len(calls) == 1 else 1.0)

    assert _train(bench, Train(epochs=1), objective).epochs == 1


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_lost(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)

    def objective(model, batch):
        # The square root has an infinite slope at 0, and 0 * inf is NaN; the loss itself is 0.
        return (bench.call(model, batch.inputs)["scores"] * 0).abs().sqrt().mean()

    before = state_of(bench.model)
    with pytest.raises(StepError, match="the norm of the gradient is nan in epoch 1 of 2, batch 1"):
        _train(bench, Train(epochs=2), objective)
    assert_same_state(state_of(bench.model), before)


def test_an_objective_that_gives_no_scalar_is_refused(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)
    with pytest.raises(StepError, match=r"test, train: the loss has shape \[128, 10\]"):
        _train(bench, Train(epochs=1), lambda model, batch: model(batch.inputs["image"]))


def test_a_mask_of_another_model_is_refused_before_any_training(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)
    with pytest.raises(StepError, match=r"mask 'layers.9.weight': no such parameter"):
        _train(bench, Train(), masks={"layers.9.weight": torch.ones(2, dtype=torch.bool)})
    assert not checkpoints.exists()


# Randomness.


class Dropout(TinyTransformer):
    def __init__(self):
        super().__init__(dropout=0.5)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(digits, checkpoints):
    found = []
    for index, seed in enumerate((3, 3, 4)):
        bench = bench_of(seeded(Dropout), digits, checkpoints / str(index), seed=seed)
        torch.rand(index)  # what was drawn before is of no account
        _train(bench, Train(epochs=1, batch_size=300))
        found.append(state_of(bench.model))
    assert_same_state(found[0], found[1])
    assert not torch.equal(found[0]["classifier.weight"], found[2]["classifier.weight"])


def test_the_callers_own_random_numbers_go_on_as_if_nothing_had_happened(digits, checkpoints):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    bench = bench_of(seeded(Dropout), digits, checkpoints)
    _train(bench, Train(epochs=1, batch_size=600))
    assert torch.equal(torch.rand(3), expected)


# Resuming.


def _start(data, out, optimizer):
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-m", "tests.compress.training.killed_training"]
    return subprocess.Popen(
        [*command, data, out, optimizer, threads], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


# After the first batch, in the middle of an epoch, and soon after a new one has begun.
@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "kills"), [("adamw", (1, 4, 3)), ("sgd", (5,))])
def test_a_training_killed_again_and_again_ends_with_the_same_bits(
    digits, tmp_path, optimizer, kills
):
    data = digits.training.path.parent
    whole = killed_training.run(data, tmp_path / "whole", optimizer)
    out = tmp_path / "killed"
    out.mkdir()
    for batches in kills:
        with _start(data, out, optimizer) as process:
            for _ in range(batches):
                assert process.stdout.readline()
            process.kill()
    with _start(data, out, optimizer) as process:
        said = list(process.stdout)
    assert process.returncode == 0
    assert said[0].startswith("note train: goes on from epoch")
    assert 0 < sum(line.startswith("progress") for line in said) < 18
    assert_same_state(torch.load(out / "trained.pt"), state_of(whole))
    assert int((whole.first.weight == 0).sum()) > 100


def test_ctrl_c_keeps_the_batch_that_was_done_and_the_rest_is_the_same(
    digits, checkpoints, monkeypatch
):
    monkeypatch.setattr(pace, "INTERVAL_SECONDS", 0.0)
    settings = Train(epochs=2, batch_size=100, learning_rate=1e-2)
    whole = cnn_bench(digits, checkpoints / "whole")
    _train(whole, settings)
    stopped = cnn_bench(digits, checkpoints / "stopped")
    said = []

    def listen(event):
        said.append(event)
        if len(said) == 17:
            signal.raise_signal(signal.SIGINT)

    reporter = Reporter(stage="train", listener=listen)
    with pytest.raises(KeyboardInterrupt):
        train(stopped.model, label_objective(stopped), stopped, settings, reporter)
    stored = torch.load(checkpoints / "stopped" / "train" / FILE, weights_only=True)
    assert (stored["epoch"], stored["batch"]) == (1, 5)
    again = cnn_bench(digits, checkpoints / "stopped")
    trained = train(again.model, label_objective(again), again, settings, reporter)
    assert_same_state(state_of(again.model), state_of(whole.model))
    assert sum(event.kind == "progress" for event in said) == 24
    assert len(trained.points) == 3


def test_a_finished_training_is_not_done_again(digits, checkpoints):
    settings = Train(epochs=2)
    bench = mlp_bench(digits, checkpoints)
    first = _train(bench, settings)
    again = mlp_bench(digits, checkpoints)
    second = _train(again, settings, lambda *_: pytest.fail("trained again"))
    assert first == second
    assert_same_state(state_of(bench.model), state_of(again.model))


@pytest.mark.parametrize(
    "change",
    [
        {"settings": Train(epochs=2, learning_rate=2e-3)},
        {"seed": 1},
        {"weights": 5},
        {"name": "other"},
    ],
)
def test_another_training_does_not_take_up_the_checkpoint(digits, checkpoints, change):
    settings = Train(epochs=2)
    _train(mlp_bench(digits, checkpoints), settings)
    model = seeded(TinyMlp, change.get("weights", 0))
    bench = bench_of(model, digits, checkpoints, seed=change.get("seed", 0))
    calls, plain = [], label_objective(bench)

    def objective(*given):
        calls.append(1)
        return plain(*given)

    _train(bench, change.get("settings", settings), objective, name=change.get("name", "train"))
    assert len(calls) == 20


# The user's own loop.


def test_a_loop_of_the_users_own_trains_instead(digits, checkpoints):
    seen = []

    def trainer(model, batches, loss_of):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(batches.settings.epochs):
            for batch in batches:
                seen.append(batch.count)
                optimizer.zero_grad()
                loss_of(model, batch).backward()
                optimizer.step()

    bench = mlp_bench(digits, checkpoints, trainer=trainer)
    keeps = torch.rand(48, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    settings = Train(epochs=3, batch_size=600, ema_decay=0.9)
    trained = _train(bench, settings, masks={"layers.1.weight": keeps})
    assert seen == [600] * 6
    assert [point.name for point in trained.points] == ["train start", "train own loop"]
    assert trained.points[1].is_kept
    assert trained.score > trained.points[0].score
    assert (bench.model.layers[1].weight[~keeps] == 0).all()
    # The same loop by hand.
    model, rows = seeded(TinyMlp), next(digits.training.batches(1200))
    images, labels = torch.from_numpy(rows["image"]), torch.from_numpy(rows["target"])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.layers[1].weight.data[~keeps] = 0
    for epoch in range(3):
        for part in epoch_order(1200, seed=stream_seed(0, "train"), epoch=epoch).split(600):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
            model.layers[1].weight.data[~keeps] = 0
    assert_same_state(state_of(bench.model), state_of(model))


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (lambda model, batches, loss_of: model.nothing, "trainer raised AttributeError"),
        (
            lambda model, batches, loss_of: setattr(model, "layers", nn.Linear(64, 10)),
            "changed the names or shapes",
        ),
        (
            lambda model, batches, loss_of: nn.init.constant_(model.layers[1].bias, math.nan),
            "left NaN or infinite weights in 'layers.1.bias'",
        ),
        (
            lambda model, batches, loss_of: (
                nn.init.constant_(model.layers[5].bias, math.inf),
                loss_of(model, next(iter(batches))),
            ),
            "the loss is nan in the workload's trainer",
        ),
    ],
)
def test_what_a_users_loop_does_wrong_is_said(digits, checkpoints, trainer, message):
    bench = mlp_bench(digits, checkpoints, trainer=trainer)
    with pytest.raises(StepError, match=message):
        _train(bench, Train(epochs=1))


def test_a_teacher_is_left_as_it_was(digits, fitted_mlp, checkpoints):
    bench = mlp_bench(digits, checkpoints, teacher=copy.deepcopy(fitted_mlp))
    before = state_of(bench.teacher)
    trained = _train(bench, Train(epochs=4, learning_rate=1e-2), teacher_objective(bench, 1.0))
    assert_same_state(state_of(bench.teacher), before)
    assert trained.score > 0.8  # digits by a teacher of 0.92; without labels
