"""Spending a parameter budget, by hand and against trying everything."""

import random
from itertools import product

import pytest
import torch
from torch import nn

from edgekit.compress.low_rank.decomposition import decompose
from edgekit.compress.low_rank.rank_budget import (
    Option,
    candidate_ranks,
    lower_hull,
    options,
    spend,
)
from edgekit.compress.moments import Traffic


def option(parameters: int, harm: float) -> Option:
    return Option(ranks=(parameters,), parameters=parameters, harm=harm)


def whole(parameters: int) -> Option:
    return Option(ranks=None, parameters=parameters, harm=0.0)


def sizes(chosen: dict[str, Option]) -> dict[str, int]:
    return {name: item.parameters for name, item in chosen.items()}


def layer(out_size: int, in_size: int) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    made = nn.Linear(in_size, out_size, device="meta")
    made.weight = nn.Parameter(torch.randn(out_size, in_size, generator=generator))
    made.bias = nn.Parameter(torch.zeros(out_size))
    return made


ONE = Traffic(positions_in=1, positions_out=1, power=1.0)


def test_hull_leaves_out_what_lies_above_a_line_between_others():
    # From (100, 0) to (40, 3): 0.05 a parameter. (80, 2) costs 0.1 each, and lies above.
    found = lower_hull([whole(100), option(80, 2.0), option(40, 3.0), option(20, 9.0)])
    assert [item.parameters for item in found] == [100, 40, 20]


def test_hull_leaves_out_what_is_larger_and_no_better():
    found = lower_hull([whole(100), option(60, 2.0), option(50, 2.0), option(50, 3.0)])
    assert [(item.parameters, item.harm) for item in found] == [(100, 0.0), (50, 2.0)]


def test_budget_is_spent_where_a_parameter_saved_harms_least():
    # a: 0.01 then 0.2 a parameter; b: 0.05. 200 in all; 130 left: first a to 60, then b to 50.
    offers = {
        "a": (whole(100), option(60, 0.4), option(40, 4.4)),
        "b": (whole(100), option(50, 2.5)),
    }
    assert sizes(spend(offers, 160)) == {"a": 60, "b": 100}
    assert sizes(spend(offers, 130)) == {"a": 60, "b": 50}
    assert sizes(spend(offers, 90)) == {"a": 40, "b": 50}


def test_a_step_that_a_later_one_made_needless_is_given_back():
    # a saves 10 at 0.1 each, b 90 at 0.2 each; to save 60 b is needed, and a is not.
    offers = {"a": (whole(100), option(90, 1.0)), "b": (whole(100), option(10, 18.0))}
    assert sizes(spend(offers, 140)) == {"a": 100, "b": 10}


def test_a_budget_below_the_smallest_options_has_no_answer():
    assert spend({"a": (whole(100), option(60, 1.0))}, 59) is None
    assert sizes(spend({"a": (whole(100), option(60, 1.0))}, 60)) == {"a": 60}


@pytest.mark.parametrize("seed", range(20))
def test_spending_is_as_good_as_trying_everything_where_steps_meet_the_budget(seed):
    draws = random.Random(seed)
    offers = {}
    for name in "abcd":
        found = [option(draws.randrange(1, 100), draws.uniform(0.1, 5)) for _ in range(5)]
        offers[name] = lower_hull([whole(100), *found])
    budget = draws.randrange(sum(hull[-1].parameters for hull in offers.values()), 400)
    chosen = spend(offers, budget)
    spent, harm = sum(sizes(chosen).values()), sum(item.harm for item in chosen.values())
    assert spent <= budget
    for combination in product(*offers.values()):
        if sum(item.parameters for item in combination) <= spent:
            assert sum(item.harm for item in combination) >= harm - 1e-9


def test_options_are_multiples_that_make_the_layer_smaller():
    # 64 x 64 breaks even at rank 32: 24 is the last multiple of 8 below.
    item = decompose(layer(64, 64), ONE)
    assert candidate_ranks(item, 8) == [(8,), (16,), (24,)]
    found = options(item, 8)
    assert found[0].ranks is None
    assert found[0].parameters == 64 * 64 + 64
    assert found[-1].parameters == 8 * 128 + 64


def test_a_small_layer_is_offered_powers_of_two():
    # 10 x 12 breaks even at 5.45: no multiple of 8 fits.
    assert candidate_ranks(decompose(layer(10, 12), ONE), 8) == [(1,), (2,), (4,)]


def test_harm_is_the_lost_energy_times_the_sensitivity():
    item = decompose(layer(64, 64), ONE)
    values = torch.linalg.svdvals(item.layer.weight.detach().double()) ** 2
    share = (values[8:].sum() / values.sum()).item()
    smallest = options(item, 8, sensitivity=3.0)[-1]
    assert smallest.harm == pytest.approx(3.0 * share, rel=1e-6)
