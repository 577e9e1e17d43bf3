"""Losses of distillation against arithmetic by hand, numpy and torch's own functions."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgekit.compress.distillation.losses import (
    angle_loss,
    attention_map,
    attention_map_loss,
    attention_probability_loss,
    distance_loss,
    feature_loss,
    mean_direction,
    mean_scores,
    query_key_loss,
    relation_loss,
)
from edgekit.compress.training.class_losses import soft_labels

# A right triangle with sides 3, 4 and 5, and three points on a line.
TRIANGLE = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
LINE = torch.tensor([[0.0], [1.0], [2.0]])


def _random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Ensembles.


def test_two_teachers_probabilities_are_averaged():
    sure, unsure = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])
    # (3/4 + 1/2) / 2 = 5/8
    assert mean_scores([sure, unsure], 1.0).softmax(-1)[0, 0] == pytest.approx(0.625)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_an_ensemble_gives_the_mean_of_softened_probabilities(temperature):
    scores = [_random(5, 7, seed=seed) * 3 for seed in range(3)]
    wanted = np.mean([functional.softmax(item / temperature, -1).numpy() for item in scores], 0)
    found = functional.softmax(mean_scores(scores, temperature) / temperature, -1)
    assert found.numpy() == pytest.approx(wanted, abs=1e-6)


def test_soft_labels_of_an_ensemble_are_torchs_divergence_from_the_mean():
    scores, temperature = [_random(5, 7, seed=1), _random(5, 7, seed=2)], 3.0
    ours = _random(5, 7, seed=3)
    mean = torch.stack([(item / temperature).softmax(-1) for item in scores]).mean(0)
    wanted = functional.kl_div((ours / temperature).log_softmax(-1), mean, reduction="batchmean")
    found = soft_labels(ours, mean_scores(scores, temperature), temperature)
    assert float(found) == pytest.approx(float(wanted) * temperature**2, rel=1e-5)


def test_embeddings_of_several_teachers_count_alike_whatever_their_length():
    short, long = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 100.0]])
    assert mean_direction([short, long]).tolist() == [[0.5, 0.5]]


# Features.


def test_feature_loss_is_the_squared_error_by_the_mean_square():
    ours, wanted = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
    # (4 + 4) / 2 over (9 + 16) / 2
    assert float(feature_loss(ours, wanted)) == pytest.approx(4 / 12.5)


def test_feature_loss_does_not_depend_on_the_unit_of_the_features():
    ours, wanted = _random(4, 6), _random(4, 6, seed=1)
    assert float(feature_loss(ours * 100, wanted * 100)) == pytest.approx(
        float(feature_loss(ours, wanted)), rel=1e-5
    )


# Attention maps.


def test_an_attention_map_is_the_mean_square_over_channels_of_length_one():
    # one sample, two positions, two channels: mean squares 12.5 and 0, and 0.5 and 0.5
    features = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    half = math.sqrt(0.5)
    assert attention_map(features).flatten().tolist() == pytest.approx([1.0, 0.0, half, half])


def test_attention_map_loss_by_hand():
    ours = torch.tensor([[[1.0], [0.0]], [[1.0], [0.0]]])
    wanted = torch.tensor([[[0.0, 0.0], [2.0, 2.0]], [[5.0, 0.0], [0.0, 0.0]]])
    # the first looks elsewhere: (1, 0) against (0, 1) costs 2; the second agrees
    assert float(attention_map_loss(ours, wanted)) == pytest.approx(1.0)


# Attention probabilities.


def test_attention_probability_loss_is_the_mean_divergence_of_rows():
    wanted = torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]]])
    ours = torch.tensor([[[[0.25, 0.75], [0.5, 0.5]]]])
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    found = attention_probability_loss(ours, wanted)
    assert float(found) == pytest.approx((first + math.log(2)) / 2)


def test_models_with_other_numbers_of_heads_are_compared_by_their_mean():
    wanted = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]])
    ours = torch.full((1, 1, 2, 2), 0.5)
    assert float(attention_probability_loss(ours, wanted)) == pytest.approx(0.0, abs=1e-6)


def test_padding_has_no_part_in_attention():
    wanted = torch.tensor([[[[0.5, 0.5], [1.0, 0.0]]]])
    ours = torch.tensor([[[[0.5, 0.5], [0.1, 0.9]]]])
    is_counted = torch.tensor([[True, False]])
    found = attention_probability_loss(ours, wanted, is_counted)
    assert float(found) == pytest.approx(0.0, abs=1e-6)


def _attention(query, key, heads):
    """Probabilities in numpy. Shapes: (tokens, width) -> (heads, tokens, tokens)."""
    found = []
    for one, other in zip(
        np.split(query, heads, axis=-1), np.split(key, heads, axis=-1), strict=True
    ):
        scores = np.exp(one @ other.T / math.sqrt(one.shape[-1]))
        found.append(scores / scores.sum(-1, keepdims=True))
    return np.stack(found)


def test_query_key_loss_is_the_divergence_of_the_attention_that_they_give():
    student = _random(2, 5, 8), _random(2, 5, 8, seed=1)
    teacher = _random(2, 5, 12, seed=2), _random(2, 5, 12, seed=3)
    losses = []
    for sample in range(2):
        ours = _attention(*(item[sample].double().numpy() for item in student), 4)
        theirs = _attention(*(item[sample].double().numpy() for item in teacher), 4)
        losses.append((theirs * np.log(theirs / ours)).sum(-1).mean())
    found = query_key_loss(student, teacher, 4)
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-4)


def test_padded_tokens_are_neither_asked_nor_looked_at():
    teacher = _random(1, 3, 4), _random(1, 3, 4, seed=1)
    query, key = (item.clone() for item in teacher)
    query[:, 2], key[:, 2] = 9.0, -9.0  # only the padding differs
    is_counted = torch.tensor([[True, True, False]])
    assert float(query_key_loss((query, key), teacher, 2)) > 0.1
    found = query_key_loss((query, key), teacher, 2, is_counted)
    assert float(found) == pytest.approx(0.0, abs=1e-6)


# Relations.


def test_distances_of_three_points_by_hand():
    # 3, 4, 5 by their mean 4 against 1, 2, 1 by 4/3: differences 0, 0.5 and 0.5
    assert float(distance_loss(TRIANGLE, LINE)) == pytest.approx(2 * 0.5**2 / 2 / 3)


def test_angles_of_three_points_by_hand():
    # cosines 0, 3/5 and 4/5 against 1, -1 and 1; one of them beyond the bend of the Huber loss
    wanted = (1.0**2 / 2 + (1.6 - 0.5) + 0.2**2 / 2) / 3
    assert float(angle_loss(TRIANGLE, LINE)) == pytest.approx(wanted, rel=1e-6)


def test_relations_weigh_angles_twice():
    found = relation_loss(TRIANGLE, LINE)
    wanted = distance_loss(TRIANGLE, LINE) + 2 * angle_loss(TRIANGLE, LINE)
    assert float(found) == pytest.approx(float(wanted))


def test_relations_do_not_change_when_all_samples_move_turn_and_grow():
    points = _random(9, 2)
    turned = 3 * points @ torch.tensor([[0.6, -0.8], [0.8, 0.6]]) + 5
    assert float(relation_loss(turned, points)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("has_equals", [False, True])
def test_angles_equal_a_loop_over_all_triples(has_equals):
    ours, theirs = _random(6, 4), _random(6, 3, seed=1)
    if has_equals:
        ours[3] = ours[1]  # no direction, so a cosine of 0

    def cosine(points, i, j, k):
        one, other = points[i] - points[j], points[k] - points[j]
        return functional.cosine_similarity(one, other, dim=0)

    losses = [
        functional.huber_loss(cosine(ours, i, j, k), cosine(theirs, i, j, k))
        for i in range(6)
        for j in range(6)
        for k in range(6)
        if len({i, j, k}) == 3
    ]
    found = angle_loss(ours, theirs)
    assert float(found) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_or_equal_samples_give_a_loss_and_a_gradient_that_are_finite(count):
    ours = torch.ones(count, 4, requires_grad=True)
    loss = relation_loss(ours, _random(count, 5))
    loss.backward()
    assert math.isfinite(loss.item())
    assert bool(torch.isfinite(ours.grad).all())


@pytest.mark.parametrize(
    "loss",
    [
        feature_loss,
        attention_map_loss,
        lambda ours, theirs: attention_probability_loss(ours.softmax(-1), theirs.softmax(-1)),
        lambda ours, theirs: query_key_loss((ours, ours), (theirs, theirs), 2),
        lambda ours, theirs: relation_loss(ours.flatten(1), theirs.flatten(1)),
    ],
)
def test_no_gradient_flows_into_the_teacher(loss):
    ours = _random(4, 6, 6).requires_grad_()
    theirs = _random(4, 6, 6, seed=1).requires_grad_()
    loss(ours, theirs).backward()
    assert ours.grad is not None
    assert float(ours.grad.abs().sum()) > 0
    assert theirs.grad is None
