"""Losses of class scores, against torch's own and arithmetic by hand."""

import math

import pytest
import torch
from torch.nn import functional

from edgekit.compress.training.class_losses import cosine_loss, cross_entropy, soft_labels
from edgekit.core.errors import StepError


def _scores(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_cross_entropy_of_two_samples_by_hand():
    scores = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    # -log(1/2) and -log(1/4).
    expected = (math.log(2) + math.log(4)) / 2
    assert float(cross_entropy(scores, torch.tensor([0, 1]))) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32])
def test_labels_may_have_any_dtype_and_a_column_axis(dtype):
    scores, labels = _scores(5, 3), torch.tensor([0, 2, 1, 1, 0])
    expected = functional.cross_entropy(scores, labels)
    assert torch.equal(cross_entropy(scores, labels.to(dtype)), expected)
    assert torch.equal(cross_entropy(scores, labels.to(dtype)[:, None]), expected)


def test_classes_may_be_last_or_second():
    scores, labels = _scores(4, 7, 3), torch.randint(0, 3, (4, 7))
    expected = functional.cross_entropy(scores.movedim(2, 1), labels)
    # The same terms in another order of summing.
    assert torch.allclose(cross_entropy(scores, labels), expected)
    assert torch.allclose(cross_entropy(scores.movedim(2, 1), labels), expected)


def test_positions_with_label_minus_100_do_not_count():
    scores = _scores(2, 3, 4)
    labels = torch.tensor([[1, -100, 2], [-100, -100, 0]])
    rows = torch.stack([scores[0, 0], scores[0, 2], scores[1, 2]])
    expected = functional.cross_entropy(rows, torch.tensor([1, 2, 0]))
    assert torch.allclose(cross_entropy(scores, labels), expected)


def test_label_smoothing_spreads_its_share_over_all_classes():
    scores = _scores(6, 4)
    labels = torch.randint(0, 4, (6,))
    hard = functional.one_hot(labels, 4).float() * 0.9 + 0.1 / 4
    by_hand = -(hard * torch.log_softmax(scores, 1)).sum(dim=1).mean()
    assert torch.allclose(cross_entropy(scores, labels, 0.1), by_hand)


def test_class_probabilities_are_taken_as_targets():
    scores, wanted = _scores(6, 4), torch.softmax(_scores(6, 4, seed=1), 1)
    by_hand = -(wanted * torch.log_softmax(scores, 1)).sum(dim=1).mean()
    assert torch.allclose(cross_entropy(scores, wanted), by_hand)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), "label 3 of 3 classes; labels are 0 to 2"),
        (torch.tensor([0, -1]), "label -1 of 3 classes"),
        (torch.tensor([-100, -100]), "no label that counts"),
        (torch.tensor([0, 1, 2]), r"scores of shape \[2, 3\] and labels of \[3\]"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels, message):
    with pytest.raises(StepError, match=message):
        cross_entropy(_scores(2, 3), labels)


def test_soft_labels_by_hand():
    # Softmax at T = 2 of (0, 2 log 3) is (1/4, 3/4); of (0, 0) it is (1/2, 1/2).
    wanted, scores = torch.tensor([[0.0, 2 * math.log(3)]]), torch.zeros(1, 2)
    divergence = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(soft_labels(scores, wanted, 2.0)) == pytest.approx(4 * divergence)


def test_soft_labels_have_the_gradient_of_the_paper_at_high_temperature():
    # Hinton et al. 2015, equation 4: dC/dz = (z - v) / (N T^2) for zero-mean logits; times T^2.
    scores = torch.tensor([[0.3, -0.3]], requires_grad=True)
    wanted = torch.tensor([[-0.1, 0.1]])
    soft_labels(scores, wanted, 100.0).backward()
    # The next term of the expansion is smaller by the logits over T.
    assert torch.allclose(scores.grad, (scores.detach() - wanted) / 2, rtol=0.01)


def test_a_student_that_is_its_teacher_has_no_soft_loss():
    scores = _scores(5, 7)
    assert float(soft_labels(scores, scores, 4.0)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_loss(scores, 3 * scores)) == pytest.approx(0, abs=1e-6)
