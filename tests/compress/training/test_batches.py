"""Batches: every sample once an epoch, in an order that depends on the seed alone."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.compress.training.batches import (
    Batches,
    Rows,
    epoch_order,
    split_batches,
    stream,
    stream_seed,
)
from edgekit.core.errors import StepError, WorkloadError
from edgekit.data.checks import write_checked
from edgekit.data.dataset import META, DatasetWriter, open_dataset
from tests.compress.benches import PIXELS, mlp_bench, write


def _stored(folder, count=10):
    with DatasetWriter(folder) as writer:
        for i in range(count):
            x = np.array([[i, i + 0.5]], np.float32)
            writer.append({"a/b:0": x, "target": np.array(i, np.int64)})
    return open_dataset(folder)


def test_rows_come_in_the_order_that_was_asked(tmp_path):
    with Rows(_stored(tmp_path / "set"), ["a/b:0", "target"]) as rows:
        found = rows.take(torch.tensor([7, 0, 7]))
    assert found["target"].tolist() == [7, 0, 7]
    assert found["a/b:0"].tolist() == [[[7, 7.5]], [[0, 0.5]], [[7, 7.5]]]
    assert found["target"].dtype == torch.int64


def test_changing_a_batch_changes_nothing_on_disk(tmp_path):
    dataset = _stored(tmp_path / "set")
    with Rows(dataset, ["a/b:0"]) as rows:
        rows.take(torch.tensor([1]))["a/b:0"].zero_()
        assert rows.take(torch.tensor([1]))["a/b:0"].tolist() == [[[1, 1.5]]]
    dataset.verify()


def test_an_array_that_is_not_there_is_named(tmp_path):
    with pytest.raises(WorkloadError, match="no array 'y'; there are: a/b:0, target"):
        Rows(_stored(tmp_path / "set"), ["y"])


def _resident_bytes():
    with Path("/proc/self/status").open() as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_memory_stays_flat_while_a_large_set_is_read(tmp_path):
    # 384 MiB in a sparse file; what is let go every 64 MiB must not add up.
    count, row = 6144, 64 * 1024
    spec = {"dtype": "uint8", "shape": [row]}
    meta = {"schema": 1, "count": count, "arrays": {"x": spec}, "digest": "0"}
    (tmp_path / META).write_text(json.dumps(meta))
    with (tmp_path / "x.bin").open("wb") as file:
        file.truncate(count * row)
    before, highest = _resident_bytes(), 0
    with Rows(open_dataset(tmp_path), ["x"]) as rows:
        for part in torch.randperm(count).split(64):
            rows.take(part)
            highest = max(highest, _resident_bytes())
    # One window of 64 MiB, one batch of 4 MiB, and what a fault maps around itself.
    assert highest - before < 160 * 2**20


def test_an_order_is_a_permutation_and_differs_by_epoch_and_seed():
    first = epoch_order(1000, seed=1, epoch=0)
    assert sorted(first.tolist()) == list(range(1000))
    assert torch.equal(first, epoch_order(1000, seed=1, epoch=0))
    assert not torch.equal(first, epoch_order(1000, seed=1, epoch=1))
    assert not torch.equal(first, epoch_order(1000, seed=2, epoch=0))


def test_streams_of_different_purposes_differ():
    assert stream_seed(0, "order", 1) != stream_seed(0, "augment", 1)
    # The parts are told apart: (1, 23) is not (12, 3).
    assert stream_seed(0, 1, 23) != stream_seed(0, 12, 3)
    draws = [torch.rand(3, generator=stream(5, "a")) for _ in range(2)]
    assert torch.equal(*draws)


def test_a_last_batch_of_one_sample_joins_the_one_before():
    sizes = [len(part) for part in split_batches(torch.arange(9), 4)]
    assert sizes == [4, 5]
    assert [len(part) for part in split_batches(torch.arange(10), 4)] == [4, 4, 2]
    assert [len(part) for part in split_batches(torch.arange(3), 1)] == [1, 1, 1]
    assert [len(part) for part in split_batches(torch.arange(1), 4)] == [1]


def test_an_epoch_has_every_sample_once(digits, checkpoints):
    batches = Batches(mlp_bench(digits, checkpoints), 100)
    seen = torch.cat([batch.inputs["image"].flatten(1) for batch in batches])
    stored = next(digits.training.batches(digits.training.count))["image"].reshape(-1, 64)
    assert len(batches) == 12
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, stored.tolist()))


def test_inputs_and_targets_stay_together(digits, checkpoints):
    stored = next(digits.training.batches(digits.training.count))
    label_of = {row.tobytes(): int(label) for row, label in zip(*stored.values(), strict=True)}
    assert set(stored) == {"image", "target"}
    for batch in Batches(mlp_bench(digits, checkpoints), 256):
        labels = [label_of[row.numpy().tobytes()] for row in batch.inputs["image"]]
        assert labels == batch.target.tolist()


def test_an_epoch_can_begin_in_the_middle(digits, checkpoints):
    bench = dataclasses.replace(
        mlp_bench(digits, checkpoints),
        augment=lambda inputs, draws: {
            name: value + torch.rand(value.shape, generator=draws) for name, value in inputs.items()
        },
    )
    whole = list(Batches(bench, 128).epoch(3))
    late = list(Batches(bench, 128).epoch(3, start=4))
    for one, other in zip(whole[4:], late, strict=True):
        assert torch.equal(one.inputs["image"], other.inputs["image"])
        assert torch.equal(one.target, other.target)


def test_every_batch_is_augmented_by_draws_of_its_own(digits, checkpoints):
    drawn = []

    def augment(inputs, draws):
        drawn.append(torch.rand(1, generator=draws).item())
        return inputs

    batches = Batches(mlp_bench(digits, checkpoints, augment=augment), 400)
    for _ in range(2):
        list(batches)
    assert len(set(drawn)) == len(drawn) == 6


def test_two_trainings_of_one_build_see_different_orders(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)
    one, other = (next(iter(Batches(bench, 64, name=name))) for name in ("round-1", "round-2"))
    assert not torch.equal(one.target, other.target)


def test_no_training_data_is_an_error_that_says_so(digits, checkpoints):
    with pytest.raises(StepError, match="train: there are no training data; give the workload"):
        Batches(mlp_bench(digits, checkpoints, training=None), 8)


def test_samples_without_targets_give_batches_without(tmp_path, digits, checkpoints):
    pixels = [np.full((8, 8), i, np.uint8) for i in range(4)]
    plain = write_checked(
        pixels, {"image": PIXELS}, tmp_path / "plain", set_name="plain", needs_target=False
    ).dataset
    batches = Batches(mlp_bench(digits, checkpoints, training=plain), 4)
    assert next(iter(batches)).target is None


def test_a_single_sample_is_one_batch(tmp_path, digits, checkpoints):
    one = write([(np.zeros((8, 8), np.uint8), 3)], tmp_path / "one")
    batches = Batches(mlp_bench(digits, checkpoints, training=one), 4)
    assert len(batches) == 1
    assert batches.smallest == 1
