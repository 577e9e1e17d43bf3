"""AWQ's scales and clipping, by arithmetic done by hand and by brute force."""

import itertools

import numpy as np
import pytest
import torch

from edgekit.compress.quantization.awq_scales import (
    awq_scales,
    clipped_by_outputs,
    rounded_scaled,
)
from edgekit.compress.quantization.gptq import Grid


def test_scales_of_the_paper_by_hand():
    means = torch.tensor([16.0, 1.0, 4.0])
    # s = s_X^a: 4, 1, 2 for a = 0.5, over the root of largest times smallest, 2.
    assert awq_scales(means, 0.5).tolist() == pytest.approx([2.0, 0.5, 1.0])
    assert awq_scales(means, 0.0).tolist() == [1.0, 1.0, 1.0]
    assert awq_scales(means, 1.0).tolist() == pytest.approx([4.0, 0.25, 1.0])


def test_channels_without_inputs_keep_finite_scales():
    scales = awq_scales(torch.tensor([0.0, 1.0]), 1.0)
    assert bool((scales > 0).all() and scales.isfinite().all())


def test_scaled_rounding_by_hand():
    # Scaled by 7 the first weight is 3.5 of a largest 7: a step of 1, so 3.5 becomes 4 (to even).
    weight, factors = torch.tensor([[[0.5, 7.0]]]), torch.tensor([[[7.0, 1.0]]])
    found = rounded_scaled(weight, factors, Grid(top=7))
    assert found.flatten().tolist() == pytest.approx([4 / 7, 7.0])
    plain = rounded_scaled(weight, torch.ones(1, 1, 2), Grid(top=7))
    assert plain.flatten().tolist() == [0.0, 7.0]


@pytest.mark.parametrize("block_size", [0, 4, 3])
def test_no_other_clipping_of_a_block_loses_less(block_size):
    draws = np.random.default_rng(3)
    weight, rows = draws.normal(size=(3, 8)), draws.normal(size=(40, 8)) @ draws.normal(size=(8, 8))
    grid = Grid(top=7, block_size=block_size, has_short_blocks=True)
    products = torch.from_numpy(rows.T @ rows)[None]
    steps = clipped_by_outputs(torch.from_numpy(weight)[None], products, grid)[0].numpy()
    size = block_size or 8
    shares = [1 - place / 50 for place in range(26)]
    for row, start in itertools.product(range(3), range(0, 8, size)):
        part, inputs = weight[row, start : start + size], rows[:, start : start + size]
        full = np.abs(part).max() / 7

        def energy(step, part=part, inputs=inputs):
            rounded = np.clip(np.rint(part / step), -7, 7) * step
            return float(((inputs @ (rounded - part)) ** 2).sum())

        best = min(energy(_stored(full * share, block_size)) for share in shares)
        assert energy(steps[row, start]) == pytest.approx(best, rel=1e-9)
        assert (steps[row, start : start + size] == steps[row, start]).all()


def _stored(step, block_size):
    """Of blocks: bfloat16, as a .tflite has them."""
    return float(torch.tensor(step).bfloat16()) if block_size else step
