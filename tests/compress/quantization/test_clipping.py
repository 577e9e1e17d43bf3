"""Steps of grids, against a search that is written out."""

import numpy as np
import pytest
import torch

from edgekit.compress.quantization.clipping import SHARES, clipped_scales, full_scales, nearest


def test_the_full_step_holds_the_largest_weight():
    weight = torch.tensor([[0.5, -7.0, 1.0], [0.0, 0.0, 0.0]])
    assert full_scales(weight, 7).tolist() == [[1.0], [1.0]]


def test_the_step_is_the_best_of_all_shares():
    draws = np.random.default_rng(0)
    weight, importance = draws.standard_t(3, size=(5, 40)), draws.uniform(0, 2, size=40)
    found = clipped_scales(torch.tensor(weight), 7, torch.tensor(importance)).numpy()
    for row, scale in zip(weight, found, strict=True):
        steps = np.abs(row).max() / 7 * SHARES.numpy()
        losses = [
            (importance * (row - np.clip(np.rint(row / step), -7, 7) * step) ** 2).sum()
            for step in steps
        ]
        assert scale == pytest.approx(steps[int(np.argmin(losses))], rel=1e-9)
    assert (found < np.abs(weight).max(axis=1, keepdims=True) / 7).any()


def test_what_nobody_reads_is_clipped():
    """An outlier whose input is never there takes no steps from the others."""
    weight = torch.tensor([[1.0, 0.9, -0.8, 0.3, 1.8]], dtype=torch.float64)
    importance = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    assert float(clipped_scales(weight, 7, importance)) < 1.2 / 7


def test_nearest_clips_at_the_largest_integer():
    weight = torch.tensor([10.0, -10.0, 2.6, 0.4])
    assert nearest(weight, torch.tensor(1.0), 7).tolist() == [7.0, -7.0, 3.0, 0.0]
