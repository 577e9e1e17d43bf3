import numpy as np
import pytest
import torch
import torchmetrics

from edgekit.core.errors import WorkloadError
from edgekit.evaluate.metrics import Metric, checked_scores, resolve_metric

LOGITS = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 4, 30)


def test_names_resolve_and_unknown_ones_are_corrected():
    assert resolve_metric("top-1").is_builtin
    assert not resolve_metric("cosine").needs_target
    assert not resolve_metric("mae").higher_is_better
    metric = resolve_metric("nll")
    assert resolve_metric(metric) is metric
    with pytest.raises(WorkloadError, match="'top1' is not known; did you mean 'top-1'"):
        resolve_metric("top1")
    with pytest.raises(WorkloadError, match="int is none; give a name"):
        resolve_metric(5)


def test_a_callable_that_scores_samples():
    def margin(outputs, targets):
        return torch.from_numpy(outputs[np.arange(len(targets)), targets])

    metric = resolve_metric(margin)
    assert (metric.name, metric.needs_target, metric.higher_is_better) == ("margin", True, True)
    found = metric.per_sample({"out": LOGITS}, LABELS, {})
    assert np.array_equal(found, LOGITS[np.arange(30), LABELS])


def test_a_callable_of_one_number_has_no_scores_but_a_whole():
    def peak(outputs, targets):
        return outputs.max() + targets.max()

    metric = resolve_metric(peak)
    assert metric.per_sample({"out": LOGITS}, LABELS, {}) is None
    halves = [({"out": LOGITS[:9]}, LABELS[:9]), ({"out": LOGITS[9:]}, LABELS[9:])]
    assert metric.whole(halves) == pytest.approx(LOGITS.max() + LABELS.max())


def test_a_callable_sees_several_outputs_by_name_and_may_need_no_target():
    def score(outputs, targets):
        assert targets is None
        return outputs["a"].mean() + outputs["b"].mean()

    score.needs_target = False
    score.higher_is_better = False
    score.is_bounded = True
    metric = resolve_metric(score)
    assert (metric.needs_target, metric.higher_is_better, metric.is_bounded) == (False, False, True)
    assert metric.whole([({"a": np.ones(3), "b": np.ones(3)}, None)]) == 2


def test_torchmetrics_stream_and_equal_themselves():
    accuracy = torchmetrics.classification.MulticlassAccuracy(num_classes=4, average="micro")
    metric = resolve_metric(accuracy)
    assert (metric.name, metric.is_bounded, metric.higher_is_better) == (
        "MulticlassAccuracy",
        True,
        True,
    )
    found = metric.whole([({"o": LOGITS[:9]}, LABELS[:9]), ({"o": LOGITS[9:]}, LABELS[9:])])
    assert found == pytest.approx(np.mean(LOGITS.argmax(1) == LABELS))
    assert not accuracy.update_called  # the user's own metric was not touched


def test_torchmetrics_errors_are_not_bounded_and_lower_is_better():
    metric = resolve_metric(torchmetrics.MeanSquaredError())
    assert (metric.is_bounded, metric.higher_is_better) == (False, False)
    assert metric.per_sample({"o": LOGITS}, LABELS, {}) is None


def test_torchmetrics_that_cannot_judge_are_refused():
    with pytest.raises(WorkloadError, match="does not say whether higher is better"):
        resolve_metric(torchmetrics.MeanMetric())
    per_class = torchmetrics.classification.MulticlassAccuracy(num_classes=4, average=None)
    with pytest.raises(WorkloadError, match="must be one finite number"):
        resolve_metric(per_class).whole([({"o": LOGITS}, LABELS)])
    with pytest.raises(WorkloadError, match="has 2 outputs; wrap"):
        resolve_metric(torchmetrics.MeanSquaredError()).whole(
            [({"a": LOGITS, "b": LOGITS}, LABELS)]
        )


def test_a_whole_that_is_nan_or_no_number_is_refused():
    metric = resolve_metric(lambda outputs, targets: float("nan"))
    with pytest.raises(WorkloadError, match="one finite number"):
        metric.whole([({"o": LOGITS}, LABELS)])
    with pytest.raises(WorkloadError, match="returned dict"):
        resolve_metric(lambda outputs, targets: {}).per_sample({"o": LOGITS}, LABELS, {})


@pytest.mark.parametrize("value", [None, "0.9", b"1"])
def test_nothing_and_texts_are_no_scores(value):
    with pytest.raises(WorkloadError, match=f"returned {type(value).__name__}; return one score"):
        resolve_metric(lambda *_: value).per_sample({"o": LOGITS}, LABELS, {})


def test_a_metric_that_leaves_python_is_an_error_that_names_it():
    def leaving(outputs, targets):
        raise SystemExit(3)

    with pytest.raises(WorkloadError, match="metric leaving: it raised SystemExit: 3"):
        resolve_metric(leaving).per_sample({"o": LOGITS}, LABELS, {})


def test_scores_must_be_one_finite_number_a_sample():
    with pytest.raises(WorkloadError, match=r"scores of shape \[3\] for 4 samples in batch 2"):
        checked_scores(np.zeros(3), 4, metric="m", where="batch 2")
    with pytest.raises(WorkloadError, match="metric m: nan for sample 1 of batch 2"):
        checked_scores(np.array([0, np.nan]), 2, metric="m", where="batch 2")


def test_metric_is_a_plain_value():
    assert isinstance(resolve_metric("mae"), Metric)


def test_what_a_users_metric_raises_is_told():
    def picky(outputs, targets):
        raise RuntimeError("no such class")

    with pytest.raises(WorkloadError, match="metric picky: it raised RuntimeError: no such class"):
        resolve_metric(picky).per_sample({"y": np.zeros((2, 3))}, np.zeros(2), {})
