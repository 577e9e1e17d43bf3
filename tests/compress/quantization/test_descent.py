"""Descent over the weights of a grid, against every single change there is."""

import numpy as np
import torch

from edgekit.compress.quantization.descent import descended

TOP = 7


def rows(groups=2, count=3, columns=8, seed=0):
    """Weights, half-Hessians of correlated inputs, steps, and the nearest integers."""
    draws = np.random.default_rng(seed)
    weight = torch.tensor(draws.normal(size=(groups, count, columns)))
    mixed = torch.tensor(draws.normal(size=(groups, columns, columns)))
    hessian = mixed @ mixed.transpose(1, 2) + torch.eye(columns)
    scales = (weight.abs().amax(dim=-1, keepdim=True) / TOP).expand_as(weight)
    return weight, hessian, scales, (weight / scales).round() * scales


def error(weight, found, hessian):
    lost = weight - found
    return ((lost @ hessian) * lost).sum(dim=-1)


def test_no_single_step_of_any_weight_is_better():
    weight, hessian, scales, start = rows()
    everywhere = torch.ones_like(weight, dtype=torch.bool)
    found = descended(start, weight, hessian, scales, top=TOP, is_free=everywhere, sweeps=100)
    least = error(weight, found, hessian)
    before = error(weight, start, hessian)
    assert (least <= before).all()
    assert (least < before).any()
    for column in range(weight.shape[-1]):
        for steps in (-2, -1, 1, 2):
            other = found.clone()
            other[..., column] += steps * scales[..., column]
            is_inside = (other / scales)[..., column].abs().round() <= TOP
            assert (error(weight, other, hessian) >= least - 1e-9)[is_inside].all()


def test_what_may_not_change_stays():
    weight, hessian, scales, start = rows(seed=1)
    is_free = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    found = descended(start, weight, hessian, scales, top=TOP, is_free=is_free, sweeps=5)
    assert torch.equal(found[~is_free], start[~is_free])
    assert not torch.equal(found, start)


def test_integers_stay_within_the_grid():
    weight, hessian, scales, start = rows(seed=2)
    everywhere = torch.ones_like(weight, dtype=torch.bool)
    found = descended(start * 0, weight * 3, hessian, scales, top=TOP, is_free=everywhere, sweeps=9)
    integers = found / scales
    assert torch.allclose(integers, integers.round(), atol=1e-9)
    assert float(integers.abs().max()) <= TOP + 1e-9
