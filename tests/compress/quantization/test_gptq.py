"""Rounding by second order, against optimal brain surgery with the inverse kept explicitly."""

import numpy as np
import pytest
import torch

from edgekit.compile.onnx_grid import int4_blocks
from edgekit.compress.quantization.gptq import Grid, gptq, output_error, round_nearest
from edgekit.compress.sparsity.sparsegpt import DAMPING
from edgekit.core.errors import StepError
from edgekit.graph.grid import is_on_grid

INT4 = Grid(top=7)


def layer(rows=6, columns=20, samples=200, seed=0):
    """Weights, and the outer products of correlated inputs."""
    draws = np.random.default_rng(seed)
    inputs = draws.normal(size=(samples, columns)) @ draws.normal(size=(columns, columns))
    return torch.tensor(draws.normal(size=(rows, columns))), torch.tensor(inputs.T @ inputs)


def surgery(row, products, scale):
    """One row rounded weight by weight; each time the rest is moved and the inverse reduced.

    Frantar et al. 2022, arXiv:2208.11580 (OBQ), in the order of the largest inputs.
    """
    row = row.copy()
    hessian = products + DAMPING * products.diagonal().mean() * np.eye(len(products))
    inverse = np.linalg.inv(hessian)
    for place in np.argsort(-products.diagonal(), kind="stable"):
        rounded = np.clip(np.rint(row[place] / scale), -7, 7) * scale
        row -= (row[place] - rounded) / inverse[place, place] * inverse[place]
        row[place] = rounded
        # Gaussian elimination takes the weight out of what may still move.
        inverse = inverse - np.outer(inverse[:, place], inverse[place]) / inverse[place, place]
    return row


def test_it_is_optimal_brain_surgery_column_by_column():
    weight, products = layer()
    found = gptq(weight, products, INT4, sweeps=0).numpy()
    for row, rounded in zip(weight.numpy(), found, strict=True):
        scale = np.abs(rounded).max() / 7
        assert np.allclose(surgery(row, products.numpy(), scale), rounded, atol=1e-9)


def test_sweeps_only_make_outputs_nearer():
    weight, products = layer(rows=16, columns=40)
    errors = [
        output_error(weight, gptq(weight, products, INT4, sweeps=count), products)
        for count in (0, 1, 4)
    ]
    assert errors[0] > errors[1] >= errors[2]


@pytest.mark.parametrize("columns", [20, 300])
def test_outputs_are_nearer_than_with_each_weight_by_itself(columns):
    weight, products = layer(rows=4, columns=columns, samples=400)
    found = gptq(weight, products, INT4)
    plain = round_nearest(weight, INT4, products.diagonal())
    assert output_error(weight, found, products) < 0.5 * output_error(weight, plain, products)


@pytest.mark.parametrize("seed", range(6))
def test_the_grid_is_found_again_by_its_largest_weight(seed):
    weight, products = layer(rows=32, columns=9, seed=seed)
    assert is_on_grid(gptq(weight, products, INT4).numpy(), 4)


def test_blocks_have_steps_of_their_own():
    weight, products = layer(rows=8, columns=64)
    weight[:, :32] *= 20
    found = gptq(weight, products, Grid(top=7, block_size=32))
    for half in found.split(32, dim=1):
        assert is_on_grid(half.numpy(), 4)
    assert output_error(weight, found, products) < output_error(
        weight, gptq(weight, products, INT4), products
    )


def test_columns_that_are_no_whole_blocks_share_one_step():
    weight, products = layer(rows=3, columns=20)
    asked = gptq(weight, products, Grid(top=7, block_size=16))
    assert torch.equal(asked, gptq(weight, products, INT4))


def test_a_short_last_block_has_a_step_of_its_own():
    weight, products = layer(rows=8, columns=44)
    weight[:, 32:] *= 20
    grid = Grid(top=7, block_size=32, has_short_blocks=True)
    found = gptq(weight, products, grid)
    for part in found.split(32, dim=1):
        assert is_on_grid(np.ascontiguousarray(part.numpy()), 4)
    assert output_error(weight, found, products) < output_error(
        weight, gptq(weight, products, INT4), products
    )
    # ONNX Runtime's blocks hold it as it is.
    values, scales = int4_blocks(found.numpy().T, 32)
    stored = (values * scales[..., None].astype(np.float32)).reshape(8, -1)[:, :44]
    np.testing.assert_allclose(stored, found.numpy(), rtol=1e-6, atol=1e-7)


def test_what_is_zero_for_good_stays_zero():
    weight, products = layer()
    keep = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    found = gptq(weight * keep, products, INT4, keep=keep)
    assert not found[~keep].any()
    assert is_on_grid(found.numpy(), 4)


def test_groups_have_inputs_of_their_own():
    """A depthwise convolution is many layers of one row."""
    weight, _ = layer(rows=4, columns=9)
    products = torch.stack([layer(columns=9, seed=seed)[1] for seed in range(4)])
    together = gptq(weight, products, INT4)
    apart = [gptq(row[None], one, INT4) for row, one in zip(weight, products, strict=True)]
    assert torch.equal(together, torch.cat(apart))


def test_a_row_of_zeros_stays_one():
    weight, products = layer()
    weight[2] = 0
    assert not gptq(weight, products, INT4)[2].any()


def test_inputs_that_are_all_zero_are_refused():
    weight, products = layer()
    with pytest.raises(StepError, match="nothing but zeros"):
        gptq(weight, torch.zeros_like(products), INT4)


def test_the_error_is_that_of_the_outputs():
    weight, _ = layer()
    inputs = torch.tensor(np.random.default_rng(1).normal(size=(50, 20)))
    rounded = round_nearest(weight, INT4)
    wanted, found = inputs @ weight.T, inputs @ rounded.T
    expected = float((wanted - found).square().sum() / wanted.square().sum())
    assert output_error(weight, rounded, inputs.T @ inputs) == pytest.approx(expected, rel=1e-9)
