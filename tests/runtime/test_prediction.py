"""Activations against scipy, and labels."""

import numpy as np
import pytest
import scipy.special

from edgekit.core.contract import Output
from edgekit.core.errors import SessionError
from edgekit.runtime.prediction import activate, best_labels, predict_outputs

SCORES = np.float32([[-2000.0, -1.5, 0.0, 0.25, 900.0], [1, 2, 3, 4, 5]])


def test_softmax_and_sigmoid_are_scipy_s():
    np.testing.assert_allclose(
        activate(SCORES, "softmax", where="y"), scipy.special.softmax(SCORES, axis=-1), rtol=1e-6
    )
    found = activate(SCORES, "sigmoid", where="y")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scipy.special.expit(SCORES.astype(np.float64)), rtol=1e-6)


def test_no_activation_changes_nothing():
    assert activate(SCORES, "none", where="y") is SCORES


def test_nan_from_the_model_is_an_error():
    with pytest.raises(SessionError, match="output 'y': the model gave NaN"):
        predict_outputs({"y": np.float32([np.nan])}, {"y": Output()}, top=1)


def test_labels_come_best_first_and_the_earlier_wins_a_tie():
    scores = np.float32([0.1, 0.5, 0.1, 0.3])
    found = best_labels(scores, ("a", "b", "c", "d"), top=3, where="y")
    assert [label for label, _ in found] == ["b", "d", "a"]
    assert found[0][1] == 0.5
    assert best_labels(scores, ("a", "b", "c", "d"), top=99, where="y")[3][0] == "c"
    assert best_labels(scores, ("a", "b", "c", "d"), top=-1, where="y") == ()


def test_unsigned_scores_sort_too():
    scores = np.array([3, 200, 7], np.uint8)
    assert best_labels(scores, ("a", "b", "c"), top=1, where="y") == (("b", 200.0),)


@pytest.mark.parametrize("shape", [(2,), (1, 3), ()])
def test_labels_must_match_the_scores(shape):
    with pytest.raises(SessionError, match="3 labels for scores"):
        best_labels(np.zeros(shape, np.float32), ("a", "b", "c"), top=1, where="y")
