"""What a loss may be, and what is said of one that may not."""

import pytest
import torch

from edgekit.compress.training.loss_checks import call_loss, check_loss, check_outputs_match
from edgekit.core.errors import StepError


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda y, t: y.mean(dim=1), r"shape \[3\]; it must be one number a batch: take its mean"),
        (lambda y, t: y.mean().detach(), "no gradient.*without detach"),
        (lambda y, t: y.mean().item(), "is a float; it must be a tensor"),
        (lambda y, t: None, "is a NoneType"),
        (lambda y, t: y.argmax(), "dtype torch.int64"),
        (lambda y, t: y["logits"], r"loss raised \w*Error: .*outputs scores \[3, 10\]"),
        (lambda y, t: y @ t, r"RuntimeError.*scores \[3, 10\] and the target torch.float32 \[3\]"),
    ],
)
def test_a_loss_that_cannot_be_trained_on_is_refused(loss, message):
    outputs = {"scores": torch.ones(3, 10, requires_grad=True) * 1}
    with pytest.raises(StepError, match=message):
        call_loss(loss, outputs, torch.zeros(3))


def test_a_loss_of_shape_one_is_one_number():
    loss = check_loss(torch.ones(1, requires_grad=True), where="it")
    assert loss.shape == ()


def test_a_loss_gets_the_only_output_itself_and_several_by_name():
    one = {"scores": torch.ones(3, requires_grad=True) * 1}
    assert call_loss(lambda y, t: y.sum() + t, one, torch.tensor(4.0)).item() == 7
    two = {**one, "boxes": torch.zeros(2)}
    assert call_loss(lambda y, t: y["scores"].sum() + len(y), two, None).item() == 5


def test_outputs_that_do_not_match_are_named_with_their_shapes():
    ours, theirs = {"y": torch.zeros(4, 3)}, {"y": torch.zeros(4, 5)}
    with pytest.raises(StepError, match=r"'y' is \[4, 3\], the teacher's \[4, 5\]"):
        check_outputs_match(ours, theirs)
    with pytest.raises(StepError, match="outputs are y, the teacher's y, z"):
        check_outputs_match(ours, ours | {"z": torch.zeros(1)})
