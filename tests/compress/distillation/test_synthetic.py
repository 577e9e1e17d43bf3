"""Inputs made from a teacher: they have the statistics that it keeps, and the classes asked for."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compress.distillation import synthetic
from edgekit.compress.distillation.synthetic import (
    Statistics,
    asked_labels,
    layer_statistics,
    search,
    statistics_loss,
    synthesize,
    total_variation,
)
from edgekit.compress.distillation.teachers import resolve_task
from edgekit.core.contract import Contract, Image, InputContract, Tensor
from edgekit.core.errors import StepError
from edgekit.data.dataset import META, TARGET
from tests.compress.benches import (
    SILENT,
    TinyCnn,
    TinyMlp,
    bench_of,
    cnn_bench,
    seeded,
    transformer_bench,
)

STEPS = 150


def _bench(teacher, digits, checkpoints, **changes):
    return bench_of(seeded(TinyCnn), digits, checkpoints, teacher=teacher, **changes)


def _rows(dataset):
    return next(iter(dataset.batches(dataset.count)))


def _distance(model, inputs):
    """Per layer: how far the means and deviations are, in deviations that the layer keeps."""
    found = []

    def see(module, args):
        values = args[0].transpose(0, 1).flatten(1)
        deviation = module.running_var.sqrt()
        found.append(float(((values.mean(1) - module.running_mean) / deviation).abs().max()))
        found.append(float((values.var(1).sqrt() / deviation - 1).abs().max()))

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [module.register_forward_pre_hook(see) for module in norms]
    with torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return found


def test_inputs_have_the_means_that_the_teacher_keeps_and_the_classes_asked_for(
    digits, checkpoints, fitted_cnn
):
    bench = _bench(fitted_cnn, digits, checkpoints)
    task = resolve_task("auto", bench)
    (made,) = synthesize(bench, task, 100, STEPS, checkpoints / "made", SILENT)
    rows = _rows(made)
    inputs = torch.from_numpy(rows["image"])
    with torch.no_grad():
        said = fitted_cnn(inputs).argmax(-1)
    assert (said.numpy() == rows[TARGET]).mean() >= 0.98
    assert np.bincount(rows[TARGET], minlength=10).tolist() == [10] * 10
    # noise of about the pictures' own mean and deviation is half a deviation away
    assert max(_distance(fitted_cnn, inputs)) < 0.2
    noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
    assert max(_distance(fitted_cnn, noise)) > 0.4


def test_pictures_stay_between_black_and_white(digits, checkpoints, fitted_cnn):
    bench = _bench(fitted_cnn, digits, checkpoints)
    item = bench.contract.inputs[0]
    dim = replace(item, source=Image(height=8, width=8, channels=1, mean=(0.5,), deviation=(2.0,)))
    bench = replace(bench, contract=Contract(inputs=(dim,), outputs=bench.contract.outputs))
    task = resolve_task("auto", bench)
    (made,) = synthesize(bench, task, 8, 30, checkpoints / "made", SILENT)
    image = _rows(made)["image"]
    # (0 - 0.5) / 2 and (1 - 0.5) / 2
    assert image.min() == pytest.approx(-0.25)
    assert image.max() == pytest.approx(0.25)


def test_the_same_inputs_come_out_every_time(digits, checkpoints, fitted_cnn):
    bench = _bench(fitted_cnn, digits, checkpoints)
    task = resolve_task("auto", bench)
    digests = {synthesize(bench, task, 6, 5, checkpoints / name, SILENT)[0].digest for name in "ab"}
    assert len(digests) == 1


def test_the_teacher_is_left_as_it_was(digits, checkpoints, fitted_cnn):
    bench = _bench(fitted_cnn, digits, checkpoints)
    before = copy.deepcopy(bench.teacher.state_dict())
    synthesize(bench, resolve_task("auto", bench), 6, 3, checkpoints / "made", SILENT)
    for name, value in bench.teacher.state_dict().items():
        assert torch.equal(value, before[name])
    hooks = [len(module._forward_pre_hooks) for module in bench.teacher.modules()]
    assert not any(hooks)


def test_a_killed_search_keeps_its_finished_batches(digits, checkpoints, fitted_cnn, monkeypatch):
    monkeypatch.setattr(synthetic, "BATCH_SAMPLES", 4)
    bench = _bench(fitted_cnn, digits, checkpoints)
    task, folder = resolve_task("auto", bench), checkpoints / "made"
    first, second, last = synthesize(bench, task, 10, 3, folder, SILENT)
    assert [part.count for part in (first, second, last)] == [4, 4, 2]
    (second.path / META).unlink()
    written = first.path.joinpath(META).stat().st_mtime_ns
    again = synthesize(bench, task, 10, 3, folder, SILENT)
    assert [part.digest for part in again] == [part.digest for part in (first, second, last)]
    assert first.path.joinpath(META).stat().st_mtime_ns == written


def test_a_model_without_batch_norm_says_so(digits, checkpoints):
    bench = transformer_bench(digits, checkpoints)
    with pytest.raises(StepError, match="the teacher has no batch norm layers that keep"):
        synthesize(bench, resolve_task("auto", bench), 4, 3, checkpoints / "made", SILENT)


def test_batch_norm_without_statistics_is_none(digits, checkpoints):
    class Forgetful(TinyMlp):
        def __init__(self):
            super().__init__()
            self.layers[2] = nn.BatchNorm1d(48, track_running_stats=False)

    bench = bench_of(seeded(Forgetful), digits, checkpoints)
    with pytest.raises(StepError, match="no batch norm layers that keep statistics"):
        synthesize(bench, resolve_task("auto", bench), 4, 3, checkpoints / "made", SILENT)


def test_a_model_of_token_ids_cannot_have_inputs_made(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    ids = InputContract(
        name="ids", dtype="int64", shape=("batch", 4), source=Tensor(shape=(4,), dtype="int64")
    )
    wrong = replace(bench, contract=Contract(inputs=(ids,), outputs=bench.contract.outputs))
    with pytest.raises(StepError, match="the model takes ids int64"):
        synthesize(wrong, resolve_task("auto", bench), 4, 3, checkpoints / "made", SILENT)


def test_statistics_are_those_of_the_input_as_torch_counts_them(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    inputs = bench.example(16)["image"]
    with torch.no_grad(), layer_statistics(bench.model) as found:
        bench.model(inputs)
    stem = bench.model.stem(inputs).detach()
    layer = nn.BatchNorm2d(16, momentum=1.0)
    layer(stem)
    assert torch.allclose(found[0].mean, layer.running_mean, atol=1e-6)
    assert torch.allclose(found[0].variance, layer.running_var, atol=1e-6)
    assert found[0].kept_mean is bench.model.stem_norm.running_mean


def test_statistics_loss_by_hand():
    one = Statistics(
        mean=torch.tensor([3.0, 0.0]),
        variance=torch.tensor([1.0, 1.0]),
        kept_mean=torch.tensor([0.0, 4.0]),
        kept_variance=torch.tensor([1.0, 3.0]),
    )
    none = replace(one, mean=one.kept_mean, variance=one.kept_variance)
    # 5 for the means and 2 for the variances of one of two layers
    assert float(statistics_loss([one, none])) == pytest.approx(3.5)


def test_total_variation_by_hand(digits, checkpoints):
    item = cnn_bench(digits, checkpoints).contract.inputs[0]
    picture = torch.tensor([[[[0.0, 1.0], [3.0, 1.0]]]])
    # down: 3 and 0, mean square 4.5; across: 1 and -2, mean square 2.5
    assert float(total_variation(picture, item)) == pytest.approx(7.0)


def test_classes_are_asked_for_in_equal_shares(digits, checkpoints):
    task = resolve_task("auto", cnn_bench(digits, checkpoints))
    labels = asked_labels(task, 23, torch.Generator().manual_seed(0))
    assert sorted(torch.bincount(labels).tolist()) == [2] * 7 + [3] * 3
    assert labels.tolist() != sorted(labels.tolist())


def test_more_steps_come_closer(digits, checkpoints, fitted_cnn):
    bench = _bench(fitted_cnn, digits, checkpoints)
    task, item = resolve_task("auto", bench), bench.contract.inputs[0]
    worst = []
    for steps in (5, 50):
        labels = asked_labels(task, 40, torch.Generator().manual_seed(0))
        draws = torch.Generator().manual_seed(1)
        inputs = search(bench, task, item, labels, steps, draws)
        worst.append(max(_distance(fitted_cnn, inputs)))
    assert worst[1] < worst[0]
