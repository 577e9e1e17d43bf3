"""Labelled and unlabelled samples in one dataset, each with exactly the label that it had."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.compress.distillation.lessons import Lessons, Packing, Pool, mix
from edgekit.compress.training.batches import Batches
from edgekit.data.dataset import TARGET, ArraySpec, DatasetWriter
from tests.compress.benches import cnn_bench


def _whole(lessons, bench):
    with_all = replace(bench, training=lessons.dataset)
    return list(Batches(with_all, 50).epoch(0))


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("int64", ()), ("uint8", ()), ("bool", (2,)), ("float32", (3,)), ("float64", (2, 2))],
)
def test_targets_of_any_kind_are_unpacked_as_they_were(dtype, shape):
    draws = np.random.default_rng(0)
    targets = (draws.random((3, *shape)) * 9).astype(dtype)
    packing = Packing(positions=(), target=ArraySpec(dtype=dtype, shape=shape))
    rows = [packing.pack(1, np.int32(-100), target) for target in targets]
    rows.append(packing.pack(0, np.int32(7), None))
    parts = packing.unpack(torch.from_numpy(np.stack(rows)))
    assert parts.labelled.tolist() == [True, True, True, False]
    assert parts.pseudo.tolist() == [-100, -100, -100, 7]
    assert parts.target.dtype == getattr(torch, dtype)
    assert np.array_equal(parts.target.numpy(), targets)


def test_a_batch_without_labels_has_an_empty_target():
    packing = Packing(positions=(2,), target=ArraySpec(dtype="int64", shape=()))
    rows = [packing.pack(0, np.array([4, -100]), None)] * 2
    parts = packing.unpack(torch.from_numpy(np.stack(rows)))
    assert parts.target.shape == (0,)
    assert parts.pseudo.tolist() == [[4, -100], [4, -100]]


def test_every_sample_comes_with_its_own_label(digits, checkpoints, tmp_path):
    bench = cnn_bench(digits, checkpoints)
    times = np.arange(400) % 3
    pool = Pool(dataset=digits.selection, labels=np.arange(400, dtype=np.int32), times=times)
    lessons = mix(bench, digits.calibration, [pool], tmp_path / "mixed")
    assert lessons.dataset.count == 64 + times.sum()
    known = next(iter(digits.calibration.batches(64)))
    unknown = next(iter(digits.selection.batches(400)))
    pairs = zip(known["image"], known[TARGET], strict=True)
    labels = {row.tobytes(): int(label) for row, label in pairs}
    seen = np.zeros(400, int)
    for batch in _whole(lessons, bench):
        parts = lessons.parts(batch)
        for row, label in zip(batch.inputs["image"][parts.labelled], parts.target, strict=True):
            assert labels[row.numpy().tobytes()] == label
        rest = ~parts.labelled
        for row, label in zip(batch.inputs["image"][rest], parts.pseudo[rest], strict=True):
            assert np.array_equal(unknown["image"][label], row.numpy())
            seen[label] += 1
        assert (parts.pseudo[parts.labelled] == -100).all()
    assert np.array_equal(seen, times)


def test_a_mixture_is_the_same_every_time(digits, checkpoints, tmp_path):
    bench = cnn_bench(digits, checkpoints)
    pool = Pool(
        dataset=digits.selection,
        labels=np.full(400, -100, np.int32),
        times=np.ones(400, np.int64),
    )
    digests = {
        mix(bench, digits.calibration, [pool], tmp_path / "mixed").dataset.digest for _ in range(2)
    }
    assert len(digests) == 1


def test_what_was_left_unfinished_makes_room(digits, checkpoints, tmp_path):
    bench = cnn_bench(digits, checkpoints)
    writer = DatasetWriter(tmp_path / "mixed")
    writer.append({"image": np.zeros((1, 8, 8), np.float32)})
    pool = Pool(
        dataset=digits.calibration, labels=np.zeros(64, np.int32), times=np.ones(64, np.int64)
    )
    lessons = mix(bench, None, [pool], tmp_path / "mixed")
    assert lessons.dataset.count == 64
    assert not lessons.has_labels


def test_plain_data_with_labels_are_labelled_throughout(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    lessons = Lessons(dataset=digits.training, has_labels=True)
    batch = next(Batches(bench, 8).epoch(0))
    parts = lessons.parts(batch)
    assert parts.labelled is None
    assert torch.equal(parts.target, batch.target)


def test_plain_data_without_labels_have_none_even_where_there_is_a_target(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    lessons = Lessons(dataset=digits.training, has_labels=False)
    parts = lessons.parts(next(Batches(bench, 8).epoch(0)))
    assert parts.labelled.tolist() == [False] * 8
    assert parts.target is None
