import numpy as np
import pytest
import torch

from edgekit.compress.count import count_run
from edgekit.compress.example import as_example
from edgekit.compress.pruning.goal import (
    Costs,
    Shares,
    fill_up,
    granule,
    kept_counts,
    kept_units,
    least_ratio,
    units_to_remove,
)
from edgekit.compress.pruning.groups import Group
from edgekit.compress.pruning.prunable import cut, find_prunable
from tests.compress.architectures import ALL


def group(units, *, width=1, kind="channels", name="a", least=1):
    slot = (f"{name}.weight", 0)
    positions = np.arange(units * width).reshape(units, width)
    roots = tuple(range(100, 100 + units)) if name == "a" else tuple(range(500, 500 + units))
    return Group(
        key=(slot,), root=slot, kind=kind, units=roots, positions={slot: positions}, least=least
    )


@pytest.mark.parametrize(
    ("units", "width", "multiple", "wanted"),
    [
        (64, 1, 8, 8),
        (16, 1, 8, 8),
        (12, 1, 8, 4),
        (8, 1, 8, 4),
        (3, 1, 8, 1),
        (16, 4, 8, 2),
        (16, 8, 8, 1),
        (64, 1, 1, 1),
    ],
)
def test_units_go_so_many_at_a_time_that_channels_stay_multiples(units, width, multiple, wanted):
    assert granule(group(units, width=width), multiple) == wanted


def test_heads_go_one_by_one():
    assert granule(group(12, width=32, kind="heads"), 8) == 1


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [(64, 64), (63, 64), (60, 64), (59, 56), (32, 32), (3, 8), (0, 8), (100, 64)],
)
def test_counts_are_rounded_to_the_nearest_multiple_and_never_to_none(wanted, kept):
    assert kept_units(group(64), wanted, 8) == kept


def test_a_layer_that_is_no_multiple_stays_whole_or_becomes_one():
    assert kept_units(group(20), 20, 8) == 20
    assert kept_units(group(20), 18, 8) == 16


def test_shared_keys_keep_two():
    assert kept_units(group(8, kind="heads", least=2), 0.5, 1) == 2


def test_each_group_loses_its_share():
    a, b = group(10), group(20, name="b")
    shares = Shares(ratio=0.5, own={b.key: 0.25})
    scores = {a.key: torch.arange(10.0), b.key: torch.arange(20.0)}
    assert kept_counts([a, b], scores, shares, is_in_loss=False) == {a.key: 5, b.key: 15}


def test_shares_are_of_what_there_was_at_first():
    a = group(8)
    shares = Shares(ratio=0.5, initial={a.key: 10})
    assert kept_counts([a], {a.key: torch.arange(8.0)}, shares, is_in_loss=False) == {a.key: 5}


def test_least_important_units_go():
    a = group(4)
    scores = {a.key: torch.tensor([3.0, 1.0, 2.0, 1.0])}
    assert units_to_remove([a], scores, {a.key: 2}) == [101, 103]


def test_competing_groups_are_compared_by_their_means_unless_scores_are_losses():
    a, b = group(10), group(10, name="b")
    # b matters a hundred times as much, but in itself it is as uneven as a.
    even = torch.tensor([0.5] * 5 + [1.5] * 5, dtype=torch.float64)
    scores = {a.key: even, b.key: 100 * even}
    shares = Shares(ratio=0.5, is_global=True)
    assert kept_counts([a, b], scores, shares, is_in_loss=False) == {a.key: 5, b.key: 5}
    assert kept_counts([a, b], scores, shares, is_in_loss=True) == {a.key: 1, b.key: 10}


def test_bisection_finds_the_smallest_ratio():
    assert least_ratio(lambda ratio: 2 - 2 * ratio) == pytest.approx(0.5)
    assert least_ratio(lambda ratio: 0.5) == pytest.approx(0.0, abs=1e-9)
    assert least_ratio(lambda ratio: 3 - ratio) is None


def test_filling_up_gives_one_granule_back_to_each_group_that_can_have_it():
    a, b = group(16), group(32, name="b")
    counts = fill_up([a, b], {a.key: 8, b.key: 24}, 4, lambda kept: sum(kept.values()) <= 36)
    assert counts == {a.key: 12, b.key: 24}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("goal", ["macs", "parameters", "bytes"])
def test_costs_without_cutting_are_those_of_the_cut_model(name, goal):
    architecture = ALL[name]
    example = as_example(architecture.inputs())
    found = find_prunable(architecture.model(), example, ("channels", "heads", "embedding"))
    costs = Costs(found.graph, found.model, samples=example.samples)
    roots = [root for item in found.groups for root in item.units[::2][: len(item.units) // 2]]
    assert costs.of(goal, []) == getattr(count_run(found.model, example), goal)
    assert costs.of(goal, roots) == getattr(count_run(cut(found, roots).model, example), goal)
