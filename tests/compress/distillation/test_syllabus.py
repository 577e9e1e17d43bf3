"""What a student is trained on follows from the data at hand and the settings."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.compress.distillation.syllabus import check_data, make_syllabus
from edgekit.compress.distillation.teachers import Teachers, resolve_task
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps import Distil
from edgekit.data.dataset import TARGET, DatasetWriter
from tests.compress import texts
from tests.compress.benches import SILENT, TinyCnn, bench_of, mlp_bench, seeded


def _unlabelled(dataset, folder):
    """The same pictures without their labels."""
    with DatasetWriter(folder) as writer:
        for rows in dataset.batches(dataset.count, ["image"]):
            for image in rows["image"]:
                writer.append({"image": image})
        return writer.close()


def _made(bench, settings, reporter=SILENT):
    task = resolve_task(settings.task, bench)
    return make_syllabus(settings, bench, task, Teachers(bench, task), reporter)


@pytest.fixture
def pictures(digits, tmp_path):
    return _unlabelled(digits.selection, tmp_path / "unlabelled")


@pytest.fixture
def bench(digits, checkpoints, fitted_cnn):
    return bench_of(seeded(TinyCnn), digits, checkpoints, teacher=fitted_cnn)


def _with(bench, **changes):
    return replace(bench, **changes)


def test_labelled_data_alone_are_taken_as_they_are(bench, digits):
    found = _made(bench, Distil())
    assert found.lessons.dataset is digits.training
    assert found.lessons.has_labels
    assert found.lessons.packing is None


def test_unlabelled_data_alone_are_taken_as_they_are(bench, pictures):
    found = _made(_with(bench, training=None, unlabelled=pictures), Distil())
    assert found.lessons.dataset is pictures
    assert not found.lessons.has_labels


def test_training_data_without_labels_are_unlabelled_data(bench, pictures):
    found = _made(_with(bench, training=pictures), Distil())
    assert not found.lessons.has_labels


def test_soft_labels_use_unlabelled_samples_too(bench, digits, pictures):
    found = _made(_with(bench, unlabelled=pictures), Distil())
    assert found.lessons.dataset.count == 1200 + 400
    assert found.values == {}


def test_hard_labels_alone_leave_unlabelled_samples_out(bench, digits, pictures):
    found = _made(_with(bench, unlabelled=pictures), Distil(soft_weight=0.0))
    assert found.lessons.dataset is digits.training


def _classes(found, count):
    parts = found.lessons.packing.unpack
    rows = next(iter(found.lessons.dataset.batches(count, [TARGET])))
    return parts(torch.from_numpy(rows[TARGET])).pseudo.numpy()


def test_only_confident_samples_are_taken_where_nothing_else_learns_from_the_rest(
    bench, pictures, fitted_cnn
):
    settings = Distil(
        hard_weight=0.0,
        soft_weight=0.0,
        pseudo_label_weight=1.0,
        confidence=0.99,
        has_class_balance=False,
    )
    found = _made(_with(bench, training=None, unlabelled=pictures), settings)
    told = found.values["pseudo_labels"]
    assert told["of"] == 400
    assert 0 < told["confident"] < 400
    assert found.lessons.dataset.count == told["confident"] == told["distinct_samples"]
    assert (_classes(found, 500) >= 0).all()


def test_classes_are_balanced_and_told_one_by_one(bench, pictures):
    settings = Distil(soft_weight=0.0, hard_weight=0.0, pseudo_label_weight=1.0, confidence=0.9)
    found = _made(_with(bench, training=None, unlabelled=pictures), settings)
    taken = found.values["pseudo_labels"]["taken"]
    assert list(taken) == [str(label) for label in range(10)]
    assert len(set(taken.values())) == 1
    counts = np.bincount(_classes(found, 500), minlength=10)
    assert counts.tolist() == list(taken.values())


def test_a_label_that_balance_leaves_out_does_not_count(bench, pictures):
    settings = Distil(pseudo_label_weight=1.0, confidence=0.9)
    found = _made(_with(bench, training=None, unlabelled=pictures), settings)
    labels = _classes(found, 1000)
    counts = np.bincount(labels[labels >= 0], minlength=10)
    assert counts.tolist() == list(found.values["pseudo_labels"]["taken"].values())
    assert len(set(counts.tolist())) == 1
    assert (labels < 0).any()


def test_what_has_no_pseudo_label_still_gets_soft_ones(bench, pictures):
    settings = Distil(pseudo_label_weight=1.0, confidence=0.99, has_class_balance=False)
    found = _made(_with(bench, unlabelled=pictures), settings)
    assert found.lessons.dataset.count == 1600
    labels = _classes(found, 1600)
    assert (labels >= 0).sum() == found.values["pseudo_labels"]["confident"]


def test_classes_without_a_confident_label_are_named(bench, digits, tmp_path):
    with DatasetWriter(tmp_path / "zeros") as writer:
        rows = next(iter(digits.training.batches(1200)))
        for image in rows["image"][rows[TARGET] == 0]:
            writer.append({"image": image})
        zeros = writer.close()
    said = []
    settings = Distil(pseudo_label_weight=1.0, confidence=0.95)
    _made(_with(bench, unlabelled=zeros), settings, Reporter(stage="t", listener=said.append))
    warnings = [event.message for event in said if event.kind == "warning"]
    assert len(warnings) == 1
    assert "no confident pseudo-label of class 1, 2, 3" in warnings[0]


def test_made_inputs_are_unlabelled_samples(bench):
    settings = Distil(synthetic_samples=20, synthetic_steps=2)
    found = _made(_with(bench, training=None), settings)
    assert found.lessons.dataset.count == 20
    assert not found.lessons.has_labels
    assert found.values["synthetic_samples"] == 20
    both = _made(bench, settings)
    assert both.lessons.dataset.count == 1220


def test_tokens_of_a_language_model_get_pseudo_labels_one_by_one(tmp_path):
    bench = texts.text_bench(
        tmp_path,
        seeded(texts.TinyLanguageModel),
        seeded(texts.TinyLanguageModel, 1),
        unlabelled=texts.write_texts(tmp_path / "more", 32, 3, has_labels=False),
    )
    settings = Distil(task="language", pseudo_label_weight=1.0, confidence=0.12)
    found = _made(bench, settings)
    told = found.values["pseudo_labels"]
    assert told["of"] == 32 * texts.LENGTH
    assert 0 < told["confident"] < told["of"]
    assert found.lessons.packing.positions == (texts.LENGTH,)
    assert found.lessons.dataset.count == 256 + 32


# What cannot be served.


def _refused(bench, settings):
    check_data(settings, bench, resolve_task(settings.task, bench))


def test_no_data_at_all_are_refused(bench):
    with pytest.raises(StepError, match="there are no training data"):
        _refused(_with(bench, training=None), Distil())


def test_pseudo_labels_need_samples_without_labels(bench):
    with pytest.raises(StepError, match=r"pseudo_label_weight is 0\.5 and all samples have labels"):
        _refused(bench, Distil(pseudo_label_weight=0.5))


def test_values_have_no_pseudo_labels(digits, checkpoints, pictures):
    bench = mlp_bench(digits, checkpoints, metric="mae", unlabelled=pictures)
    with pytest.raises(StepError, match="the task is 'regression': only class scores"):
        _refused(bench, Distil(pseudo_label_weight=1.0))
