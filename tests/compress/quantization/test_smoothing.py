"""SmoothQuant's scales and the error in 8 bits, by arithmetic done by hand."""

import numpy as np
import pytest
import torch

from edgekit.compress.quantization.smoothing import asymmetric, int8_error, smoothing_scales


def test_scales_of_the_paper_by_hand():
    # s_j = max|X_j|^a / max|W_j|^(1-a) with a = 0.5: sqrt(16 / 1), sqrt(1 / 4), sqrt(9 / 9).
    inputs, weights = torch.tensor([16.0, 1.0, 9.0]), torch.tensor([1.0, 4.0, 9.0])
    assert smoothing_scales(inputs, weights, 0.5).tolist() == pytest.approx([4.0, 0.5, 1.0])
    # Figure 5 of the paper: 2 / 1 -> sqrt 2 and so on; a = 1 takes the inputs' range alone.
    assert smoothing_scales(inputs, weights, 1.0).tolist() == pytest.approx([16.0, 1.0, 9.0])
    assert smoothing_scales(inputs, weights, 0.0).tolist() == pytest.approx([1.0, 0.25, 1 / 9])


def test_half_gives_both_sides_the_same_range():
    draws = torch.Generator().manual_seed(0)
    inputs, weights = (torch.rand(7, generator=draws) + 0.1 for _ in range(2))
    scales = smoothing_scales(inputs, weights, 0.5)
    torch.testing.assert_close(inputs / scales, weights * scales)


def test_channels_that_are_zero_on_one_side_stay():
    scales = smoothing_scales(torch.tensor([0.0, 4.0, 4.0]), torch.tensor([2.0, 0.0, 1.0]), 0.5)
    assert scales.tolist() == pytest.approx([1.0, 1.0, 2.0])


def test_asymmetric_steps_are_those_of_numpy():
    values = np.random.default_rng(0).normal(1.0, 2.0, 500).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    step = (high - low) / 255
    zero = round(-low / step)
    expected = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
    found = asymmetric(torch.from_numpy(values), low, high).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert abs(asymmetric(torch.zeros(1), low, high).item()) == 0
    # A range on one side of zero is stretched to it.
    one_sided = asymmetric(torch.tensor([2.0, 2.55]), 2.0, 2.55)
    torch.testing.assert_close(one_sided, torch.tensor([2.0, 2.55]))


def test_the_error_is_that_of_rounded_numpy_matrices():
    draws = np.random.default_rng(1)
    weight, rows = draws.normal(size=(4, 6)), draws.normal(size=(50, 6))
    factors = draws.uniform(0.5, 2.0, 6)
    scaled, seen = weight * factors, rows / factors
    steps = np.abs(scaled).max(axis=1, keepdims=True) / 127
    scaled = np.rint(scaled / steps) * steps
    low, high = seen.min(), seen.max()
    step = (high - low) / 255
    zero = np.rint(-low / step)
    seen = (np.clip(np.rint(seen / step) + zero, 0, 255) - zero) * step
    wanted = rows @ weight.T
    expected = ((seen @ scaled.T - wanted) ** 2).sum() / (wanted**2).sum()
    found = int8_error(
        torch.from_numpy(weight)[None],
        torch.from_numpy(rows)[None],
        torch.from_numpy(factors)[None, None],
        float(low),
        float(high),
    )
    assert found == pytest.approx(expected, rel=1e-9)
