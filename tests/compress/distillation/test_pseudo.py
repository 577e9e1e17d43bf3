"""Pseudo-labels: who is confident enough, and how classes are balanced."""

import numpy as np
import pytest
import torch

from edgekit.compress.distillation.pseudo import (
    PseudoLabels,
    balanced_times,
    confident_labels,
    pseudo_labels,
    taken_by_class,
)
from edgekit.compress.distillation.teachers import Teachers, resolve_task
from edgekit.core.errors import StepError
from tests.compress.benches import TinyCnn, bench_of, seeded


def _found(labels, confidences):
    return PseudoLabels(
        labels=np.array(labels, np.int32), confidences=np.array(confidences, np.float32)
    )


def test_labels_below_the_threshold_are_dropped_and_those_on_it_kept():
    found = confident_labels(_found([3, 1, 2], [0.75, 0.5, 0.25]), 0.5)
    assert found.tolist() == [3, 1, -100]


def test_no_confident_label_at_all_is_an_error_with_the_highest_there_is():
    with pytest.raises(StepError, match=r"of 2 has a confidence of 0.9; the highest is 0.75"):
        confident_labels(_found([0, 1], [0.75, 0.5]), 0.9)


def test_classes_are_taken_equally_often_the_confident_first():
    #                  three of class 0,      one of class 1, two of class 2, one of none
    labels = np.array([0, 0, 0, 1, 2, 2, -100], np.int32)
    confidences = np.array([0.9, 0.99, 0.95, 0.91, 0.92, 0.99, 0.5], np.float32)
    times = balanced_times(labels, confidences)
    # six labels of three classes: two of each; the least confident 0 goes, the only 1 comes twice
    assert times.tolist() == [0, 1, 1, 2, 1, 1, 0]
    assert taken_by_class(labels, times) == {"0": 2, "1": 2, "2": 2}


def test_a_rest_goes_to_the_most_confident_of_a_small_class():
    labels = np.array([0] * 8 + [1, 1], np.int32)
    confidences = np.linspace(0.9, 0.99, 10).astype(np.float32)
    times = balanced_times(labels, confidences)
    # ten labels of two classes: five of each; two samples of class 1 make five as 2 + 3
    assert times[8:].tolist() == [2, 3]
    assert times[:8].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_without_any_label_nothing_is_taken():
    assert balanced_times(np.full(3, -100, np.int32), np.zeros(3, np.float32)).tolist() == [0] * 3


def test_pseudo_labels_are_what_the_teacher_says_of_the_plain_samples(
    digits, checkpoints, fitted_cnn
):
    bench = bench_of(seeded(TinyCnn), digits, checkpoints, teacher=fitted_cnn)
    teachers = Teachers(bench, resolve_task("auto", bench))
    found = pseudo_labels(bench, teachers, digits.selection)
    rows = next(iter(digits.selection.batches(400, ["image"])))
    with torch.no_grad():
        shares = fitted_cnn(torch.from_numpy(rows["image"])).softmax(-1)
    assert found.labels.tolist() == shares.argmax(-1).tolist()
    assert found.confidences == pytest.approx(shares.amax(-1).numpy(), abs=1e-5)


def test_several_teachers_are_confident_only_where_they_agree(digits, checkpoints, fitted_cnn):
    doubter = seeded(TinyCnn, 3)
    bench = bench_of(seeded(TinyCnn), digits, checkpoints, teacher=fitted_cnn)
    alone = Teachers(bench, resolve_task("auto", bench))
    both = bench_of(seeded(TinyCnn), digits, checkpoints, teacher=fitted_cnn, teachers=(doubter,))
    together = Teachers(both, resolve_task("auto", both))
    sure = pseudo_labels(bench, alone, digits.selection).confidences
    less = pseudo_labels(both, together, digits.selection).confidences
    # a mean with a teacher that says about 1/10 of each class
    assert less.mean() == pytest.approx((sure.mean() + 0.1) / 2, abs=0.1)
