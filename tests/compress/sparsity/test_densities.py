"""Shares of zeros by layer, by hand."""

import pytest

from edgekit.compress.sparsity.densities import erk_ratios, uniform_ratios
from edgekit.core.errors import StepError

SHAPES = {"small": (8, 3, 3, 3), "large": (64, 64, 3, 3), "head": (10, 64)}


def total(shapes, ratios):
    sizes = {"small": 216, "large": 36864, "head": 640}
    return sum(sizes[name] * ratios[name] for name in shapes) / sum(sizes[name] for name in shapes)


def test_uniform_gives_every_layer_the_same():
    assert uniform_ratios(SHAPES, 0.9) == {"small": 0.9, "large": 0.9, "head": 0.9}


def test_two_layers_get_densities_in_proportion_to_sum_over_product():
    # (4 + 4) / 16 = 1/2 and (8 + 16) / 128 = 3/16; half of 144 weights: scale * (8 + 24) = 72
    # makes a scale of 2.25 and densities of 1.125 and 0.42: the first stays dense, and the second
    # gets the 56 weights that are left of its 128.
    ratios = erk_ratios({"a": (4, 4), "b": (8, 16)}, 0.5)
    assert ratios == pytest.approx({"a": 0.0, "b": 1 - 56 / 128})


def test_densities_follow_the_formula_where_none_is_full():
    ratios = erk_ratios({"a": (10, 10), "b": (20, 40)}, 0.9)
    # 90 weights stay; scale * (20 + 60) = 90.
    scale = 90 / 80
    assert ratios == pytest.approx({"a": 1 - scale * 20 / 100, "b": 1 - scale * 60 / 800})


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9, 0.98])
def test_the_share_of_all_weights_is_what_was_asked(ratio):
    ratios = erk_ratios(SHAPES, ratio)
    assert total(SHAPES, ratios) == pytest.approx(ratio)
    assert all(0 <= value < 1 for value in ratios.values())
    assert ratios["large"] == max(ratios.values())


def test_nothing_and_everything_are_shares_too():
    assert set(erk_ratios(SHAPES, 0.0).values()) == {0.0}
    assert set(erk_ratios(SHAPES, 1.0).values()) == {1.0}


def test_a_share_outside_its_range_is_refused():
    with pytest.raises(StepError, match=r"-0\.1"):
        erk_ratios(SHAPES, -0.1)
