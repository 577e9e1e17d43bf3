import math

import pytest
import torch
from torch import nn

from edgekit.compress.bench import Batch
from edgekit.compress.example import as_example
from edgekit.compress.pruning.groups import find_groups, trace_channels
from edgekit.compress.pruning.importance import Losses, score_units
from edgekit.core.errors import StepError


class Tiny(nn.Module):
    """Two channels in the middle: a row of one layer, a norm, a column of the other."""

    def __init__(self, is_normed=True):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2) if is_normed else nn.Identity()
        self.last = nn.Linear(2, 1, bias=False)

    def forward(self, x):
        return self.last(self.norm(self.first(x)))


def tiny(is_normed=True):
    model = Tiny(is_normed).eval()
    with torch.no_grad():
        model.first.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        model.first.bias.copy_(torch.tensor([5.0, 6.0]))
        model.last.weight.copy_(torch.tensor([[-7.0, 0.5]]))
        if is_normed:
            model.norm.weight.copy_(torch.tensor([0.25, -2.0]))
    return model


def scores_of(importance, model, **given):
    trace = trace_channels(model, as_example(torch.ones(2, 2)).run)
    groups = find_groups(trace.graph)
    (found,) = score_units(importance, model, groups, **given).values()
    return found.tolist()


@pytest.mark.parametrize(
    ("importance", "wanted"),
    [
        ("l1", [3.0, 7.0]),
        ("l2", [math.sqrt(5), 5.0]),
        # Row, scale of the norm, column.
        ("group-norm", [math.sqrt(1 + 4 + 0.0625 + 49), math.sqrt(9 + 16 + 4 + 0.25)]),
        ("bn-scale", [0.25, 2.0]),
    ],
)
def test_importance_of_weights_by_hand(importance, wanted):
    assert scores_of(importance, tiny()) == pytest.approx(wanted)


def batches():
    return [
        Batch(inputs={"x": torch.tensor([[1.0, 2.0]])}, target=None),
        Batch(inputs={"x": torch.tensor([[3.0, -1.0]])}, target=None),
    ]


def losses():
    """The loss is the output itself, so gradients can be written down."""
    return Losses(objective=lambda model, batch: model(batch.inputs["x"]).sum(), batches=batches())


def gradients_by_hand(x):
    """Of the tiny model without a norm: d out / d last = h; d out / d first = last * x."""
    first = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    last = torch.tensor([-7.0, 0.5])
    hidden = first @ x + torch.tensor([5.0, 6.0])
    return first, last, last[:, None] * x, last, hidden


def test_taylor_by_hand():
    wanted = torch.zeros(2)
    for batch in batches():
        first, last, d_first, d_bias, d_last = gradients_by_hand(batch.inputs["x"][0])
        wanted += ((first * d_first).sum(1)).square() / 2
        wanted += (torch.tensor([5.0, 6.0]) * d_bias).square() / 2
        wanted += (last * d_last).square() / 2
    assert scores_of("taylor", tiny(is_normed=False), losses=losses()) == pytest.approx(
        wanted.tolist()
    )


def test_hessian_by_hand():
    wanted = torch.zeros(2)
    for batch in batches():
        first, last, d_first, d_bias, d_last = gradients_by_hand(batch.inputs["x"][0])
        wanted += (first.square() * d_first.square() / 2).sum(1) / 2
        wanted += (torch.tensor([5.0, 6.0]) * d_bias).square() / 2 / 2
        wanted += (last * d_last).square() / 2 / 2
    assert scores_of("hessian", tiny(is_normed=False), losses=losses()) == pytest.approx(
        wanted.tolist()
    )


def test_taylor_of_a_column_is_the_first_order_change_of_the_loss():
    """The last layer is linear, so the loss changes by exactly g w when its column goes."""
    model = tiny(is_normed=False)
    x = torch.tensor([[1.0, 2.0]])
    whole = float(model(x).detach())
    _, last, _, _, hidden = gradients_by_hand(x[0])
    with torch.no_grad():
        model.last.weight[0, 0] = 0
    assert whole - float(model(x).detach()) == pytest.approx(float(last[0] * hidden[0]))


def test_frozen_weights_have_an_importance_too():
    model = tiny(is_normed=False)
    wanted = scores_of("taylor", model, losses=losses())
    assert scores_of("taylor", model.requires_grad_(False), losses=losses()) == wanted
    assert not any(value.requires_grad for value in model.parameters())


def test_random_importance_follows_the_seed_and_leaves_torchs_generator_alone():
    model, state = tiny(), torch.random.get_rng_state()
    first, again, other = (scores_of("random", model, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("importance", ["taylor", "hessian"])
def test_importance_by_loss_needs_a_loss(importance):
    with pytest.raises(StepError, match="needs training data and a loss"):
        scores_of(importance, tiny())


def test_importance_by_loss_needs_a_batch():
    empty = Losses(objective=losses().objective, batches=[])
    with pytest.raises(StepError, match="no batch to take gradients on"):
        scores_of("taylor", tiny(), losses=empty)


def test_bn_scale_without_batch_norms_is_an_error():
    with pytest.raises(StepError, match="needs batch norms, and no group has one"):
        scores_of("bn-scale", tiny(is_normed=False))
