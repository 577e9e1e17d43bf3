"""Pruning by weights and activations, by hand."""

import torch

from edgekit.compress.sparsity.wanda import wanda_mask


def test_scores_are_weight_times_norm_within_a_row():
    # arXiv:2306.11695, figure 1: |w| * ||x||, half of each row goes.
    weight = torch.tensor([[4.0, 0.0, 1.0, -1.0], [3.0, -2.0, -1.0, -3.0], [-3.0, 1.0, 0.0, 2.0]])
    norms = torch.tensor([1.0, 2.0, 8.0, 3.0])
    # 4 0 8 3 | 3 4 8 9 | 3 2 0 6
    wanted = [[1, 0, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]]
    assert wanda_mask(weight, norms, 0.5).int().tolist() == wanted


def test_a_weight_with_a_large_input_stays_where_magnitude_would_drop_it():
    assert wanda_mask(torch.tensor([[0.1, 1.0]]), torch.tensor([100.0, 1.0]), 0.5).tolist() == [
        [True, False]
    ]


def test_each_group_of_a_convolution_is_weighed_by_its_own_inputs():
    weight = torch.ones(4, 2)
    norms = torch.tensor([[1.0, 2.0], [5.0, 3.0]])
    assert wanda_mask(weight, norms, 0.5).int().tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]


def test_a_pattern_compares_neighbours_only():
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]])
    norms = torch.tensor([9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.1])
    # 9 2 3 4 | 5 6 7 0.8
    assert wanda_mask(weight, norms, 0.5, group=4).int().tolist() == [[1, 0, 0, 1, 0, 1, 1, 0]]


def test_zeros_of_before_are_part_of_a_rows_share():
    keep = torch.tensor([[True, True, True, False]])
    mask = wanda_mask(torch.tensor([[3.0, 1.0, 2.0, 9.0]]), torch.ones(4), 0.5, keep=keep)
    assert mask.int().tolist() == [[1, 0, 1, 0]]
