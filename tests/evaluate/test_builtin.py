import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, top_k_accuracy_score

from edgekit.core.errors import WorkloadError
from edgekit.evaluate.metrics import resolve_metric

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(64, 10)).astype(np.float32)
LABELS = RNG.integers(0, 10, 64)


def score(name, outputs, target=None, reference=None):
    outputs = outputs if isinstance(outputs, dict) else {"out": outputs}
    return resolve_metric(name).per_sample(outputs, target, reference or outputs)


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_equals_scikit_learns(k):
    found = score(f"top-{k}", LOGITS, LABELS)
    assert set(found) <= {0.0, 1.0}
    assert found.mean() == top_k_accuracy_score(LABELS, LOGITS, k=k, labels=range(10))


@pytest.mark.parametrize("metric", ["top-1", "top-5"])
def test_scores_that_are_nan_are_never_right(metric):
    scores, labels = np.zeros((4, 8)), np.arange(4)
    scores[np.arange(4), labels] = 1.0
    scores[0], scores[1, 1] = np.nan, np.nan
    found = resolve_metric(metric).per_sample({"scores": scores}, labels, {"scores": scores})
    assert found.tolist() == [0.0, 0.0, 1.0, 1.0]


def test_top_1_breaks_ties_as_argmax_does():
    tied = RNG.integers(0, 3, (200, 6)).astype(np.float32)
    labels = RNG.integers(0, 6, 200)
    assert np.array_equal(score("top-1", tied, labels), tied.argmax(1) == labels)


def test_constant_outputs_are_not_right_by_a_tie():
    assert score("top-5", np.zeros((10, 10)), np.arange(10)).sum() == 5


def test_nll_equals_torchs_cross_entropy():
    known = torch.nn.functional.cross_entropy(
        torch.from_numpy(LOGITS), torch.from_numpy(LABELS), reduction="none"
    )
    np.testing.assert_allclose(score("nll", LOGITS, LABELS), known.numpy(), rtol=1e-5)


def test_nll_does_not_overflow():
    assert score("nll", np.array([[1e4, 0.0]]), np.array([1]))[0] == pytest.approx(1e4)


def test_language_model_scores_are_means_over_the_positions_that_count():
    logits, labels = RNG.normal(size=(3, 5, 7)).astype(np.float32), RNG.integers(0, 7, (3, 5))
    labels[0, 3:] = -100
    for name in ("nll", "top-1"):
        found = score(name, logits, labels)
        for row in range(3):
            keep = labels[row] >= 0
            alone = score(name, logits[row][keep], labels[row][keep]).mean()
            assert found[row] == pytest.approx(alone)


def test_classes_may_lie_on_the_second_axis_as_in_torch():
    logits, labels = RNG.normal(size=(2, 7, 4, 3)).astype(np.float32), RNG.integers(0, 7, (2, 4, 3))
    known = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels), reduction="none"
    ).mean(dim=(1, 2))
    np.testing.assert_allclose(score("nll", logits, labels), known.numpy(), rtol=1e-5)


def test_labels_may_be_columns_and_whole_floats():
    assert np.array_equal(
        score("top-1", LOGITS, LABELS[:, None].astype(np.float32)), score("top-1", LOGITS, LABELS)
    )


def test_mae_equals_scikit_learns():
    target = RNG.normal(size=(64, 10))
    assert score("mae", LOGITS, target).mean() == pytest.approx(
        mean_absolute_error(target, LOGITS), rel=1e-6
    )
    column = RNG.normal(size=(64, 1))
    assert score("mae", column, column[:, 0]).max() == 0


def test_cosine_equals_torchs():
    other = LOGITS + RNG.normal(0, 0.3, LOGITS.shape).astype(np.float32)
    known = torch.nn.functional.cosine_similarity(torch.from_numpy(LOGITS), torch.from_numpy(other))
    np.testing.assert_allclose(score("cosine", other, None, {"out": LOGITS}), known, atol=1e-6)


def test_cosine_of_zero_vectors_is_one_only_if_both_are():
    values = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    reference = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert score("cosine", values, None, {"out": reference}).tolist() == [1, 0, 0]


def test_cosine_of_several_outputs_is_the_lowest():
    outputs = {"a": np.array([[1.0, 0.0]]), "b": np.array([[1.0, 0.0]])}
    reference = {"a": np.array([[1.0, 0.0]]), "b": np.array([[0.0, 1.0]])}
    assert score("cosine", outputs, None, reference)[0] == 0
    assert score("cosine:a", outputs, None, reference)[0] == 1


def test_a_metric_can_name_its_output():
    outputs = {"a": -LOGITS, "b": LOGITS}
    assert np.array_equal(score("top-1:b", outputs, LABELS), score("top-1", LOGITS, LABELS))
    with pytest.raises(WorkloadError, match="no output 'c'"):
        score("top-1:c", outputs, LABELS)


@pytest.mark.parametrize(
    ("name", "outputs", "target", "message"),
    [
        ("top-1", LOGITS, None, "needs targets"),
        ("top-1", LOGITS, np.full(64, 10), "label 10 of 10 classes; labels are 0 to 9"),
        ("nll", LOGITS, np.full(64, -1), "label -1 of 10"),
        ("top-1", LOGITS, np.full(64, 0.5), "labels are fractions"),
        ("top-1", LOGITS, np.zeros((64, 10)), "labels are class numbers"),
        ("top-5", LOGITS[:, :5], LABELS, "top-5 of 5 classes is always right"),
        ("top-1", LOGITS[:, :1], LABELS, "top-1 of 1 classes is always right"),
        ("nll", LOGITS[:1], np.array([-100]), "no label that counts"),
        ("mae", LOGITS, np.zeros((64, 9)), "must have the same elements"),
    ],
)
def test_what_cannot_be_scored_is_refused(name, outputs, target, message):
    if name == "top-1" and outputs.shape[1] == 1:
        target = np.zeros(64, np.int64)
    if "always right" in message and name == "top-5":
        target = np.zeros(64, np.int64)
    with pytest.raises(WorkloadError, match=message):
        score(name, outputs, target)


def test_cosine_refuses_other_shapes():
    with pytest.raises(WorkloadError, match="against the float model's"):
        score("cosine", LOGITS, None, {"out": LOGITS[:, :5]})
