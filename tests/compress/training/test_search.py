"""Trials before a training, against the same trainings made one by one."""

from dataclasses import replace

import pytest
import torch

from edgekit.compress.distillation.distil import distil
from edgekit.compress.low_rank.lora import lora
from edgekit.compress.pruning.prune import prune
from edgekit.compress.sparsity.sparsify import sparsify
from edgekit.compress.training import pace
from edgekit.compress.training.objective import label_objective
from edgekit.compress.training.train import train
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps import Distil, Lora, Prune, Search, Sparsify, Train
from tests.compress.benches import (
    SILENT,
    TinyCnn,
    assert_same_state,
    bench_of,
    cnn_bench,
    mlp_bench,
    seeded,
    state_of,
)

# Far too low a rate to learn anything in so few batches, so the threefold one is better.
LOW = Train(epochs=3, batch_size=100, learning_rate=1e-3, warmup_ratio=0.0)
TRIED = replace(LOW, search=Search(epochs=2))


def _train(bench, settings, reporter=SILENT, **more):
    return train(bench.model, label_objective(bench), bench, settings, reporter, **more)


def _trials(points):
    return [point for point in points if point.name.startswith("trial")]


def test_the_best_rate_is_taken_and_the_training_is_the_one_that_has_it(digits, checkpoints):
    alone = []
    for factor in (1.0, 0.3, 3.0):
        bench = cnn_bench(digits, checkpoints / f"alone {factor}")
        rate = replace(LOW, epochs=2, learning_rate=LOW.learning_rate * factor)
        alone.append(_train(bench, rate).score)
    assert max(alone) == alone[2]

    said, bench = [], cnn_bench(digits, checkpoints / "searched")
    found = _train(bench, TRIED, Reporter(stage="t", listener=said.append))
    assert [point.score for point in _trials(found.points)] == alone
    assert [point.name for point in found.points] == [
        "train start",
        "trial, as stated",
        "trial, learning_rate 0.0003",
        "trial, learning_rate 0.003",
        "train epoch 1",
        "train epoch 2",
        "train epoch 3",
    ]
    assert found.epochs == 3
    assert sum(point.is_kept for point in found.points) == 1
    assert any("taken: learning_rate 0.003" in event.message for event in said)

    plain = cnn_bench(digits, checkpoints / "plain")
    given = _train(plain, replace(LOW, learning_rate=3e-3))
    assert given.score == found.score
    assert_same_state(state_of(bench.model), state_of(plain.model))


def test_where_nothing_is_better_the_stated_settings_are_taken(digits, checkpoints):
    said, bench = [], mlp_bench(digits, checkpoints / "searched")
    settings = replace(TRIED, learning_rate=3e-3, search=Search(epochs=2, rate_factors=(1e-6,)))
    _train(bench, settings, Reporter(stage="t", listener=said.append))
    assert any("taken: as stated" in event.message for event in said)
    plain = mlp_bench(digits, checkpoints / "plain")
    _train(plain, replace(LOW, learning_rate=3e-3))
    assert_same_state(state_of(bench.model), state_of(plain.model))


def test_a_trial_that_diverges_is_out_and_said_so(digits, checkpoints):
    said, bench = [], mlp_bench(digits, checkpoints)
    search = Search(epochs=2, rate_factors=(1e38, 2.0))
    settings = replace(TRIED, optimizer="sgd", clip_norm=0.0, search=search)
    found = _train(bench, settings, Reporter(stage="t", listener=said.append))
    assert [event.message for event in said if event.kind == "warning"] == [
        next(event.message for event in said if "it is out" in event.message)
    ]
    assert [point.name for point in _trials(found.points)] == [
        "trial, as stated",
        "trial, learning_rate 0.002",
    ]


def test_a_sound_trial_saves_a_training_whose_stated_rate_diverges(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints / "saved")
    wild = replace(LOW, optimizer="sgd", clip_norm=0.0, learning_rate=1e35)
    settings = replace(wild, search=Search(epochs=2, rate_factors=(1e-37,)))
    found = _train(bench, settings)
    assert [point.name for point in _trials(found.points)] == ["trial, learning_rate 0.01"]
    assert found.score > 0.2
    lost = mlp_bench(digits, checkpoints / "lost")
    with pytest.raises(StepError, match=r"Lower learning_rate \(now 1e\+35\)"):
        _train(lost, replace(wild, search=Search(epochs=2, rate_factors=(2.0,))))


def test_a_search_that_was_interrupted_goes_on_where_it_was(digits, checkpoints, monkeypatch):
    monkeypatch.setattr(pace, "INTERVAL_SECONDS", 0.0)
    whole = cnn_bench(digits, checkpoints / "whole")
    _train(whole, TRIED)
    stopped, said = cnn_bench(digits, checkpoints / "stopped"), []

    def listen(event):
        said.append(event)
        if "trial-3: epoch 2" in event.message:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(stopped, TRIED, Reporter(stage="t", listener=listen))
    again, repeated = cnn_bench(digits, checkpoints / "stopped"), []
    _train(again, TRIED, Reporter(stage="t", listener=repeated.append))
    assert not any("trial-1: epoch" in event.message for event in repeated)
    assert any("goes on from epoch 2" in event.message for event in repeated)
    assert_same_state(state_of(again.model), state_of(whole.model))


def test_a_loop_of_the_users_is_not_searched(digits, checkpoints):
    said = []

    def trainer(model, batches, loss):
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()

    bench = mlp_bench(digits, checkpoints, trainer=trainer)
    found = _train(bench, TRIED, Reporter(stage="t", listener=said.append))
    assert found.trials == 0
    assert any("no trials" in event.message for event in said)


def test_distillation_tries_shares_of_the_labels_at_the_best_rate(fitted_cnn, digits, checkpoints):
    def bench(folder):
        return bench_of(
            fitted_cnn, digits, checkpoints / folder, student=lambda: seeded(lambda: TinyCnn(6))
        )

    settings = Distil(student="factory", train=replace(TRIED, epochs=2))
    said = []
    found = distil(settings, bench("searched"), Reporter(stage="t", listener=said.append))
    assert [point.name for point in _trials(found.points)] == [
        "trial, as stated",
        "trial, learning_rate 0.0003",
        "trial, learning_rate 0.003",
        "trial, labels 0.3 of hard and soft",
        "trial, labels 0.9 of hard and soft",
    ]
    scores = [point.score for point in _trials(found.points)]
    share = found.values["weights"]["hard"]
    best = {0.7: max(scores[:3]), 0.3: scores[3], 0.9: scores[4]}
    assert best[round(share, 3)] == max(scores)
    rate = 3e-3 if scores[2] > scores[0] else 1e-3
    taken = replace(settings.with_label_share(share), train=replace(LOW, epochs=2))
    taken = replace(taken, train=replace(taken.train, learning_rate=rate))
    given = distil(taken, bench("given"), SILENT)
    assert found.values["weights"] == pytest.approx(given.values["weights"])
    assert found.values["score"] == given.values["score"]
    assert_same_state(state_of(found.model), state_of(given.model))


def test_what_is_trained_along_and_masks_do_not_leak_from_trial_to_trial(
    fitted_cnn, digits, checkpoints
):
    keeps = {"first.weight": torch.rand(fitted_cnn.first.weight.shape) < 0.5}
    settings = Distil(
        student="current",
        self_weight=0.2,
        self_from="earlier",
        label_shares=(),
        train=replace(TRIED, epochs=2, search=Search(epochs=1, rate_factors=(1e-3,))),
    )
    bench = bench_of(fitted_cnn, digits, checkpoints / "searched", masks=keeps)
    before = state_of(bench.model)
    found = distil(settings, bench, SILENT)
    assert bool((found.model.first.weight[~keeps["first.weight"]] == 0).all())
    fitted_cnn.load_state_dict(before)
    plain = replace(settings, train=replace(settings.train, search=Search()))
    given = distil(plain, bench_of(fitted_cnn, digits, checkpoints / "plain", masks=keeps), SILENT)
    assert_same_state(state_of(found.model), state_of(given.model))


def test_pruning_by_rounds_searches_in_the_last_one(fitted_cnn, digits, checkpoints):
    settings = Prune(iterations=2, round_to=2, recover=replace(TRIED, search=Search(epochs=1)))
    found = prune(settings, bench_of(fitted_cnn, digits, checkpoints), SILENT)
    names = [point.name for point in found.points]
    assert names[:4] == ["start", "round 1 cut", "round 1", "round 2 cut"]
    assert len(names[4:-1]) == len(_trials(found.points)) == 3
    assert names[-1] == "round 2"
    assert found.points[-1].is_kept


def test_sparsity_searches_too_but_not_while_weights_move(fitted_cnn, digits, checkpoints):
    weights = state_of(fitted_cnn)
    recover = replace(TRIED, search=Search(epochs=1))
    settings = Sparsify(sparsity_ratio=0.5, recover=recover)
    found = sparsify(settings, bench_of(fitted_cnn, digits, checkpoints / "once"), SILENT)
    assert len(_trials(found.points)) == 3
    fitted_cnn.load_state_dict(weights)
    said = []
    moving = replace(settings, method="rigl", recover=replace(recover, batch_size=20))
    bench = bench_of(fitted_cnn, digits, checkpoints / "moving")
    found = sparsify(moving, bench, Reporter(stage="t", listener=said.append))
    assert not _trials(found.points)
    assert any("no trials" in event.message for event in said)


def test_adapters_are_searched(fitted_cnn, digits, checkpoints):
    settings = Lora(rank=2, train=replace(TRIED, learning_rate=1e-2, search=Search(epochs=1)))
    found = lora(settings, bench_of(fitted_cnn, digits, checkpoints), SILENT)
    assert len(_trials(found.points)) == 3
