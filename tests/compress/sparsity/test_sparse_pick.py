"""As many zeros as are wanted, where scores are lowest."""

import pytest
import torch

from edgekit.compress.sparsity.sparse_pick import (
    kept_anywhere,
    kept_in_groups,
    kept_in_rows,
    lowest,
)
from edgekit.core.errors import StepError


def everything(scores):
    return torch.ones_like(scores, dtype=torch.bool)


def test_the_lowest_of_each_row_are_found():
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.5, 0.1, 0.3]])
    found = lowest(scores, torch.tensor([1, 2]))
    assert found.tolist() == [[False, True, False], [False, True, True]]


def test_equal_scores_go_in_the_order_of_their_places():
    assert lowest(torch.ones(1, 4), torch.tensor([2])).tolist() == [[True, True, False, False]]
    kept = kept_anywhere(torch.ones(2, 2), 3, everything(torch.ones(2, 2)))
    assert kept.tolist() == [[False, False], [False, True]]


def test_exactly_so_many_go_however_many_are_equal():
    draws = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (20, 30), generator=draws).float()
    for zeros in (0, 1, 100, 599, 600):
        kept = kept_anywhere(scores, zeros, everything(scores))
        assert int((~kept).sum()) == zeros
        if 0 < zeros < 600:
            assert scores[kept].min() >= scores[~kept].max()


def test_zeros_that_are_there_count_among_those_that_are_wanted():
    scores = torch.tensor([[9.0, 1.0, 2.0, 3.0]])
    keep = torch.tensor([[False, True, True, True]])
    assert kept_anywhere(scores, 2, keep).tolist() == [[False, False, True, True]]
    assert kept_anywhere(scores, 0, keep).tolist() == keep.tolist()


def test_rows_differ_by_one_zero_at_most_and_add_up_to_the_share():
    draws = torch.Generator().manual_seed(0)
    scores = torch.rand(10, 9, generator=draws)
    zeros = (~kept_in_rows(scores, 0.5, everything(scores))).sum(dim=1)
    assert int(zeros.sum()) == 45
    assert set(zeros.tolist()) == {4, 5}


def test_every_row_keeps_a_weight():
    scores = torch.rand(10, 9, generator=torch.Generator().manual_seed(0))
    kept = kept_in_rows(scores, 0.99, everything(scores))
    assert kept.sum(dim=1).tolist() == [1] * 10


def test_each_group_of_neighbours_has_its_zeros():
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0, 1.0, 2.0, 3.0, 4.0]])
    found = kept_in_groups(scores, 2, 4, everything(scores))
    assert found.int().tolist() == [[1, 1, 0, 0, 0, 0, 1, 1]]


def test_a_group_with_more_zeros_than_wanted_keeps_them():
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    keep = torch.tensor([[False, False, False, True]])
    assert kept_in_groups(scores, 2, 4, keep).tolist() == keep.tolist()


def test_columns_that_are_no_whole_groups_are_refused():
    with pytest.raises(StepError, match="6 columns"):
        kept_in_groups(torch.ones(1, 6), 2, 4, everything(torch.ones(1, 6)))
