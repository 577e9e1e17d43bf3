"""AdaRound, against the formulas of its paper by hand and against all ways to round a few weights.

Nagel et al. 2020, arXiv:2004.10568, equations 23 to 25.
"""

from itertools import product
from math import log

import numpy as np
import pytest
import torch

from edgekit.compress.quantization.adaround import (
    adaround,
    annealed_beta,
    inverse_rectified_sigmoid,
    rectified_sigmoid,
    regularizer,
)
from edgekit.compress.quantization.gptq import Grid
from edgekit.compress.quantization.samples import LayerSamples
from edgekit.core.errors import StepError
from edgekit.core.steps import AdaRound
from edgekit.graph.grid import is_on_grid

INT4 = Grid(top=7)
QUICK = AdaRound(iterations=400)


def correlated(places=300, columns=8, seed=0):
    """Inputs with a mean, as behind a ReLU, whose columns hang together."""
    draws = np.random.default_rng(seed)
    mixed = draws.normal(size=(places, columns)) @ draws.normal(size=(columns, columns)) + 1
    return np.maximum(mixed, 0)


def layer(rows=6, columns=24, groups=1, seed=0):
    """Weights, and samples of a layer with nothing rounded before it."""
    draws = np.random.default_rng(seed + 100)
    weight = torch.tensor(draws.normal(size=(rows, columns)), dtype=torch.float32)
    inputs = torch.tensor(
        np.stack([correlated(columns=columns, seed=seed + i) for i in range(groups)]),
        dtype=torch.float32,
    )
    wanted = inputs @ weight.reshape(groups, -1, columns).transpose(1, 2)
    return weight, LayerSamples(inputs=inputs, wanted=wanted)


def as_it_is(outputs):
    return outputs


def learned(weight, samples, grid=INT4, settings=QUICK, *, behind=as_it_is, **given):
    return adaround(weight, samples, grid, settings, behind=behind, **given)


def squared_error(weight, samples, behind=as_it_is):
    """Of the outputs over their own squares, computed here."""
    found = behind(samples.inputs @ weight.reshape(len(samples.inputs), -1, weight.shape[1]).mT)
    wanted = behind(samples.wanted)
    return float((found - wanted).square().sum() / wanted.square().sum())


# The formulas.


def test_the_rectified_sigmoid_is_that_of_the_paper():
    # sigmoid(ln 3) = 3/4, and 3/4 * 1.2 - 0.1 = 0.8; far out it is clipped
    found = rectified_sigmoid(torch.tensor([0.0, log(3), -log(3), 3.0, -3.0]))
    assert torch.allclose(found, torch.tensor([0.5, 0.8, 0.2, 1.0, 0.0]), atol=1e-6)


def test_its_inverse_gives_back_the_share_of_a_step():
    shares = torch.linspace(0, 1, 21)
    assert torch.allclose(rectified_sigmoid(inverse_rectified_sigmoid(shares)), shares, atol=1e-6)


def test_the_regularizer_is_that_of_the_paper():
    shares = torch.tensor([0.5, 0.25, 1.0, 0.0])
    assert float(regularizer(shares, 2.0)) == pytest.approx(1 + (1 - 0.5**2))
    assert float(regularizer(shares, 4.0)) == pytest.approx(1 + (1 - 0.5**4))


@pytest.mark.parametrize("beta", [2.0, 8.0, 20.0])
def test_its_gradient_is_that_of_finite_differences(beta):
    values = torch.linspace(-1.9, 2.1, 9, dtype=torch.float64)
    asked = values.clone().requires_grad_()
    (found,) = torch.autograd.grad(regularizer(rectified_sigmoid(asked), beta), asked)
    small = 1e-6
    for index in range(len(values)):
        step = torch.zeros_like(values)
        step[index] = small
        ends = [regularizer(rectified_sigmoid(values + sign * step), beta) for sign in (1, -1)]
        expected = float(ends[0] - ends[1]) / (2 * small)
        assert float(found[index]) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_its_gradient_is_the_derivative_by_hand():
    """-beta |2h - 1|^(beta - 1) sign(2h - 1) 2 (zeta - gamma) sigmoid' by the chain rule."""
    value = torch.tensor([log(3)], requires_grad=True)
    (found,) = torch.autograd.grad(regularizer(rectified_sigmoid(value), 4.0), value)
    assert float(found) == pytest.approx(-4 * 0.6**3 * 2 * 1.2 * (3 / 4) * (1 / 4), rel=1e-5)


def test_beta_falls_from_the_first_to_the_last_once_it_is_warm():
    settings = AdaRound(warm_up_ratio=0.2, first_beta=20, last_beta=2)
    found = [annealed_beta(ratio, settings) for ratio in (0.0, 0.2, 0.6, 1.0)]
    assert found == pytest.approx([20, 20, 11, 2])


# What is learned.


def ratio_to_the_best(seed):
    """The error over that of the best of all 256 ways to round 8 weights on the same grid."""
    weight, samples = layer(rows=1, columns=8, seed=seed)
    found = learned(weight, samples).weight
    step = float(found.abs().max()) / 7
    floor = np.floor(weight.numpy()[0] / step)
    ways = [np.clip(floor + ups, -7, 7) for ups in product((0, 1), repeat=8)]
    errors = [
        squared_error(torch.tensor(way * step, dtype=torch.float32)[None], samples)
        for way in ways
        if np.abs(way).max() == 7  # or the file's grid would be another
    ]
    return squared_error(found, samples) / min(errors)


def test_it_is_near_the_best_of_all_ways_to_go_up_or_down():
    """In most draws it is the very best. Two changes at once are at times more than it finds."""
    ratios = np.array([ratio_to_the_best(seed) for seed in range(10)])
    assert (ratios > 1 - 1e-4).all()
    assert (ratios < 1 + 1e-4).sum() >= 8
    assert ratios.mean() < 1.1


@pytest.mark.parametrize("seed", range(3))
def test_outputs_are_nearer_than_with_each_weight_by_itself(seed):
    weight, samples = layer(rows=12, seed=seed)
    found = learned(weight, samples)
    assert found.error == pytest.approx(squared_error(found.weight, samples), rel=1e-3)
    assert found.nearest_error == pytest.approx(squared_error(found.nearest, samples), rel=1e-3)
    assert found.error < 0.75 * found.nearest_error


def test_no_row_is_worse_than_rounded_to_nearest():
    weight, samples = layer(rows=40)
    hasty = AdaRound(iterations=3, warm_up_ratio=0.0, regularizer=100.0)
    found = learned(weight, samples, settings=hasty)
    rows = [
        (samples.inputs[0] @ item.T - samples.wanted[0]).square().mean(0)
        for item in (found.weight, found.nearest)
    ]
    assert bool((rows[0] <= rows[1] * 1.0001).all())


def test_every_weight_is_a_neighbour_of_what_it_was_on_the_grid():
    weight, samples = layer(rows=16)
    found = learned(weight, samples).weight
    assert is_on_grid(found.numpy(), 4)
    steps = found.abs().amax(1, keepdim=True) / 7
    inside = weight.abs() <= 7 * steps
    assert bool(((found - weight).abs() <= steps * 1.0001)[inside].all())
    assert not torch.equal(found, learned(weight, samples).nearest)


def test_errors_of_earlier_layers_are_made_up_for():
    """The paper's asymmetric reconstruction: inputs are smaller than the float model's."""
    weight, samples = layer(rows=8)
    shrunk = LayerSamples(inputs=samples.inputs * 0.9, wanted=samples.wanted)
    blind = LayerSamples(inputs=shrunk.inputs, wanted=shrunk.inputs @ weight.T)
    aware = squared_error(learned(weight, shrunk).weight, shrunk)
    assert aware < 0.5 * squared_error(learned(weight, blind).weight, shrunk)


def test_the_activation_function_behind_it_counts():
    weight, samples = layer(rows=24)
    usual = samples.wanted.mean(1, keepdim=True) + samples.wanted.std(1, keepdim=True)

    def behind(outputs):  # one place in six gets through
        return torch.relu(outputs - usual)

    seen = learned(weight, samples, behind=behind).weight
    unseen = learned(weight, samples).weight
    assert squared_error(seen, samples, behind) < 0.9 * squared_error(unseen, samples, behind)


def test_groups_have_inputs_of_their_own():
    """A depthwise convolution is many layers of one row; only the order of draws is shared."""
    weight, samples = layer(rows=4, columns=9, groups=4)
    together = learned(weight, samples)
    for index in range(4):
        one = LayerSamples(
            inputs=samples.inputs[index : index + 1], wanted=samples.wanted[index : index + 1]
        )
        apart = learned(weight[index : index + 1], one)
        assert torch.equal(together.weight[index : index + 1], apart.weight)


def test_blocks_have_steps_of_their_own():
    weight, samples = layer(rows=4, columns=64)
    weight[:, :32] *= 20
    samples = LayerSamples(inputs=samples.inputs, wanted=samples.inputs @ weight.T)
    found = learned(weight, samples, Grid(top=7, block_size=32))
    for half in found.weight.split(32, dim=1):
        assert is_on_grid(half.numpy(), 4)
    assert found.error < found.nearest_error


def test_what_is_zero_for_good_stays_zero():
    weight, samples = layer()
    keep = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    found = learned(weight * keep, samples, keep=keep)
    assert not found.weight[~keep].any()
    assert not found.nearest[~keep].any()
    assert is_on_grid(found.weight.numpy(), 4)


def test_a_row_of_zeros_stays_one():
    weight, samples = layer()
    weight[2] = 0
    samples = LayerSamples(inputs=samples.inputs, wanted=samples.inputs @ weight.T)
    assert not learned(weight, samples).weight[2].any()


def test_a_seed_gives_the_same_weights_again():
    weight, samples = layer(rows=32)
    one, other = (learned(weight, samples, seed=3).weight for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"iterations": 0}, "adaround.iterations is 0; it must be 1 or more"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"regularizer": 0.0}, "regularizer is 0.0; it must be a number above 0"),
        ({"warm_up_ratio": 1.0}, "warm_up_ratio"),
        ({"first_beta": 2.0, "last_beta": 3.0}, "the last not above the first"),
        ({"sample_bytes": 10}, "sample_bytes is 10; it must be 1048576 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(StepError, match=words):
        AdaRound(**settings)
