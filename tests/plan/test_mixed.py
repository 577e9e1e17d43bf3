"""The plan of the least error within budgets, against all plans that there are."""

import itertools
import random
import re

import pytest

from edgekit.core.errors import BudgetError
from edgekit.core.sensitivity import LayerSensitivity, PrecisionCost
from edgekit.plan.mixed import (
    FILE_BYTES,
    TIME,
    WEIGHT_BYTES,
    Choice,
    best_plan,
    is_within,
    layer_pattern,
    offers,
    predicted_error,
    uniform,
    used,
    with_files,
)


def choice(precision, error, size, time=0.0):
    return Choice(precision=precision, form=precision, error=error, weight_bytes=size, time=time)


def random_offers(seed, layers=6):
    draw = random.Random(seed)
    found = {}
    for number in range(layers):
        weights = draw.randrange(50, 5000)
        error = 10 ** draw.uniform(-6, -1)
        found[f"layer{number}"] = (
            choice("int4", error, weights // 2, draw.uniform(0.1, 0.2)),
            choice("int8", error * draw.uniform(0.001, 0.1), weights, draw.uniform(0.05, 0.15)),
            choice("fp16", error * 1e-6, 2 * weights, draw.uniform(0.15, 0.2)),
        )
    return found


def brute_force(given, budgets):
    """The least error of all plans within the budgets, None where there is none."""
    errors = [
        sum(item.error for item in plan)
        for plan in itertools.product(*given.values())
        if all(sum(item.use(name) for item in plan) <= bound for name, bound in budgets.items())
    ]
    return min(errors, default=None)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 1.0])
def test_the_plan_is_the_best_of_all_plans(seed, share):
    given = random_offers(seed)
    least, most = (
        sum(pick(item.weight_bytes for item in items) for items in given.values())
        for pick in (min, max)
    )
    budgets = {WEIGHT_BYTES: least + share * (most - least)}
    plan = best_plan(given, budgets, "test")
    assert is_within(plan, budgets)
    # Errors span five decades and HiGHS works with 1e-7 of the largest.
    largest = max(item.error for items in given.values() for item in items)
    assert predicted_error(plan) == pytest.approx(brute_force(given, budgets), abs=1e-6 * largest)


@pytest.mark.parametrize("seed", range(6))
def test_two_budgets_hold_together(seed):
    given = random_offers(seed, layers=5)
    middle = {
        name: sum(sorted(item.use(name) for item in items)[1] for items in given.values())
        for name in (WEIGHT_BYTES, TIME)
    }
    wanted = brute_force(given, middle)
    assert wanted is not None
    plan = best_plan(given, middle, "test")
    assert is_within(plan, middle)
    largest = max(item.error for items in given.values() for item in items)
    assert predicted_error(plan) == pytest.approx(wanted, abs=1e-6 * largest)


def test_a_budget_below_the_least_says_what_the_least_is():
    given = {"a": (choice("int4", 0.1, 100), choice("int8", 0.01, 200))}
    with pytest.raises(BudgetError, match=r"lab: at most 99 bytes .* can take is 100 bytes"):
        best_plan(given, {WEIGHT_BYTES: 99}, "lab")


def test_budgets_that_exclude_each_other_are_refused():
    given = {"a": (choice("int4", 0.1, 100, 0.9), choice("int8", 0.01, 200, 0.1))}
    with pytest.raises(BudgetError, match=r"all together .* by no plan"):
        best_plan(given, {WEIGHT_BYTES: 150, TIME: 0.5}, "lab")


def cost(size, error):
    return PrecisionCost(bytes=size, error=error, cosine_loss=0.0)


def layer(path, costs, **more):
    return LayerSensitivity(path=path, kind="conv", parameters=100, costs=costs, **more)


CONV = layer("conv", {"int8": cost(100, 1e-4), "int4": cost(50, 1e-2)}, macs=300)
MATRIX = layer(
    "head",
    {"int8": cost(100, 1e-4), "int4": cost(50, 1e-2), "int4/32": cost(63, 5e-3)},
    macs=100,
)
DEPTHWISE = layer("depth", {"int8": cost(100, 1e-4)})


def test_a_layer_gets_only_what_it_was_measured_at():
    found = offers((CONV, MATRIX, DEPTHWISE), ("int8", "int4"), block_size=32)
    assert [(item.precision, item.form) for item in found["head"]] == [
        ("int4", "int4/32"),
        ("int8", "int8"),
    ]
    assert [item.form for item in found["conv"]] == ["int4", "int8"]
    assert [item.form for item in found["depth"]] == ["int8"]


def test_float_costs_nothing_and_four_bytes_a_weight():
    found = offers((CONV,), ("int4", "float"))["conv"]
    assert [(item.error, item.weight_bytes) for item in found] == [(1e-2, 50), (0, 400)]


def test_a_uniform_plan_takes_the_next_wider_where_it_must():
    found = uniform(offers((CONV, DEPTHWISE), ("int4", "int8")), "int4")
    assert {path: item.precision for path, item in found.items()} == {
        "conv": "int4",
        "depth": "int8",
    }
    assert used(found, WEIGHT_BYTES) == 150


def test_a_layer_has_the_share_of_the_time_that_it_has_of_the_work():
    found = offers((CONV, MATRIX), ("int8", "float"), times={"int8": 0.4})
    assert [item.time for item in found["conv"]] == pytest.approx([0.4 * 0.75, 0.75])
    assert [item.time for item in found["head"]] == pytest.approx([0.4 * 0.25, 0.25])


def test_the_file_takes_as_much_beside_its_weights_as_it_did_uniform():
    given = with_files(offers((CONV, MATRIX), ("int4", "int8")), {"int4": 30.0, "int8": 20.0})
    assert used(uniform(given, "int4"), FILE_BYTES) == 50 + 50 + 30
    assert used(uniform(given, "int8"), FILE_BYTES) == 100 + 100 + 20
    mixed = {"conv": given["conv"][0], "head": given["head"][1]}
    assert used(mixed, FILE_BYTES) == 50 + 100 + 15 + 10


def test_a_pattern_matches_the_layer_its_weight_and_those_that_share_it_alone():
    pattern = re.compile(layer_pattern(layer("net.0.conv", {}, others=("net.head",))))
    matched = ["net.0.conv", "net.0.conv.weight", "net.head", "net.head.weight"]
    assert all(pattern.search(name) for name in matched)
    others = ["net.0.conv1", "net.0.conv.bias", "xnet.0.conv", "net.00conv", "net.headweight"]
    assert not any(pattern.search(name) for name in others)
