import numpy as np
import pytest
import torchmetrics

from edgekit.core.errors import WorkloadError
from edgekit.evaluate.discriminate import check_metric_discriminates
from edgekit.evaluate.metrics import resolve_metric
from edgekit.evaluate.paired import PairedBatch

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, 200)
LOGITS = RNG.normal(size=(200, 5)).astype(np.float32)


def check(metric, logits=LOGITS, labels=LABELS):
    def batches():
        for start in range(0, len(logits), 50):
            rows = slice(start, start + 50)
            yield PairedBatch(
                reference={"o": logits[rows]},
                candidate={"o": logits[rows]},
                target=None if labels is None else labels[rows],
            )

    check_metric_discriminates(resolve_metric(metric), batches)


def always_one(outputs, targets):
    return np.ones(len(outputs))


def always_the_same_number(outputs, targets):
    return 0.97


def of_targets_only(outputs, targets):
    return (targets == 1).astype(float)


@pytest.mark.parametrize("metric", [always_one, always_the_same_number, of_targets_only])
def test_a_metric_that_ignores_the_outputs_is_refused(metric):
    with pytest.raises(WorkloadError, match=f"{metric.__name__} does not depend on the outputs"):
        check(metric)


def of_outputs_only(outputs, targets):
    return outputs.max(axis=1)


def test_a_metric_that_ignores_the_targets_is_refused_unless_it_says_so():
    with pytest.raises(WorkloadError, match="does not depend on the targets"):
        check(of_outputs_only)
    check(of_outputs_only, labels=np.zeros(200, np.int64))  # one class: mixing shows nothing

    def honest(outputs, targets):
        return outputs.max(axis=1)

    honest.needs_target = False
    check(honest)
    check(honest, labels=None)


def is_right(outputs, targets):
    return outputs.argmax(axis=1) == targets


def share_right(outputs, targets):
    return float(np.mean(outputs.argmax(axis=1) == targets))


@pytest.mark.parametrize(
    "metric",
    [
        is_right,
        share_right,
        torchmetrics.classification.MulticlassAccuracy(num_classes=5),
        torchmetrics.classification.MulticlassF1Score(num_classes=5),
        "top-1",
        "nll",
    ],
)
def test_honest_metrics_pass(metric):
    check(metric)


def test_outputs_stay_valid_probabilities_when_mixed():
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)

    def picky(outputs, targets):
        assert outputs.min() >= 0
        np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-5)
        return outputs[np.arange(len(targets)), targets]

    check(picky, shares)


def test_regression_on_one_number_is_told_apart():
    def error(outputs, targets):
        return np.abs(outputs[:, 0] - targets)

    check(error, RNG.normal(size=(200, 1)))


def test_no_samples_are_an_error():
    with pytest.raises(WorkloadError, match="no samples"):
        check(is_right, LOGITS[:0], LABELS[:0])
