import numpy as np
import pytest

from edgekit.compress.pruning.coupling import (
    FIXED,
    Coupling,
    common_factors,
    fixed,
    reshape_labels,
    shared_axis,
)


def default(sizes, choice):
    return choice


def classes(coupling, labels):
    """Which positions are one channel: numbers by first appearance, FIXED as -1."""
    seen = {}
    return [
        -1 if root == FIXED else seen.setdefault(root, len(seen))
        for root in coupling.roots(labels).tolist()
    ]


def test_fresh_labels_are_coupled_with_nothing():
    coupling = Coupling()
    assert classes(coupling, np.concatenate([coupling.fresh(2), coupling.fresh(2)])) == [0, 1, 2, 3]


def test_coupling_is_transitive():
    coupling = Coupling()
    a, b, c = (coupling.fresh(3) for _ in range(3))
    coupling.couple(a, b)
    coupling.couple(b[::-1].copy(), c)
    assert classes(coupling, np.concatenate([a, c])) == [0, 1, 2, 2, 1, 0]


def test_what_meets_a_fixed_channel_is_fixed():
    coupling = Coupling()
    a, b = coupling.fresh(3), coupling.fresh(3)
    coupling.couple(a, b)
    coupling.fix(b[:1])
    assert classes(coupling, a) == [-1, 0, 1]
    assert coupling.is_live(a)
    coupling.fix(a)
    assert not coupling.is_live(b)


def test_many_labels_keep_their_classes():
    coupling = Coupling()
    a, b = coupling.fresh(5000), coupling.fresh(5000)
    coupling.couple(a, b)
    assert len(np.unique(coupling.roots(np.concatenate([a, b])))) == 5000


def test_a_second_run_couples_nothing():
    coupling = Coupling()
    a, b = coupling.fresh(1), coupling.fresh(1)
    coupling.is_frozen = True
    coupling.couple(a, b)
    assert classes(coupling, np.concatenate([a, b])) == [0, 1]


@pytest.mark.parametrize(
    ("old", "new", "factors"),
    [
        ((2, 32), (8, 8), (2, 4, 8)),
        ((2, 9, 96), (2, 9, 3, 4, 8), (2, 9, 3, 4, 8)),
        ((2, 8, 4, 4), (2, 128), (2, 8, 4, 4)),
        ((1, 6), (6, 1), (6,)),
        ((6, 4), (4, 6), None),
    ],
)
def test_common_factors_by_hand(old, new, factors):
    assert common_factors(old, new) == factors


def test_flattened_pixels_belong_to_their_channel():
    coupling = Coupling()
    flat = reshape_labels(coupling, [fixed(2), coupling.fresh(3), fixed(2)], (2, 6), default)
    assert classes(coupling, flat[1]) == [0, 0, 1, 1, 2, 2]


def test_heads_keep_their_channels_and_not_their_width():
    coupling = Coupling()
    labels = coupling.fresh(6)
    heads = reshape_labels(coupling, [fixed(5), labels], (5, 3, 2), default)
    assert [classes(coupling, item) for item in heads[1:]] == [[0, 1, 2], [-1, -1]]
    assert classes(coupling, labels) == [0, 0, 1, 1, 2, 2]
    joined = reshape_labels(coupling, heads, (5, 6), default)
    assert classes(coupling, joined[1]) == [0, 0, 1, 1, 2, 2]


def test_heads_of_a_fused_projection_are_the_same_in_all_three_parts():
    coupling = Coupling()
    labels = coupling.fresh(12)
    parts = reshape_labels(coupling, [fixed(5), labels], (5, 3, 2, 2), default)
    assert [classes(coupling, item) for item in parts[1:]] == [[-1] * 3, [0, 1], [-1, -1]]
    assert classes(coupling, labels) == [0, 0, 1, 1] * 3


def test_shuffled_channels_are_found_again():
    """Two groups of three: 0 1 2 | 3 4 5 become 0 3 1 4 2 5; one of each group goes."""
    coupling = Coupling()
    labels = coupling.fresh(6)
    groups = reshape_labels(coupling, [fixed(1), labels, fixed(4)], (1, 2, 3, 4), default)
    turned = [groups[0], groups[2], groups[1], groups[3]]
    shuffled = reshape_labels(coupling, turned, (1, 6, 4), default)
    assert classes(coupling, labels) == [0, 1, 2, 0, 1, 2]
    assert classes(coupling, shuffled[1]) == [0, 0, 1, 1, 2, 2]


def test_another_choice_keeps_the_other_factor():
    coupling = Coupling()
    heads = reshape_labels(coupling, [fixed(5), coupling.fresh(6)], (5, 3, 2), lambda *_: 1)
    assert [classes(coupling, item) for item in heads[1:]] == [[-1] * 3, [0, 1]]


def test_shapes_without_common_factors_fix_everything():
    coupling = Coupling()
    labels = coupling.fresh(6)
    reshape_labels(coupling, [labels, coupling.fresh(4)], (4, 6), default)
    assert classes(coupling, labels) == [-1] * 6


@pytest.mark.parametrize(("sizes", "axis"), [((8, 4), 0), ((4, 2), 0), ((3, 2), 1), ((2, 4), 1)])
def test_keys_go_where_two_can_stay(sizes, axis):
    assert shared_axis(sizes) == axis
