"""Second-order pruning against closed forms, least squares, and the other methods."""

import numpy as np
import pytest
import torch

from edgekit.compress.layer_inputs import gather
from edgekit.compress.sparsity.magnitude import magnitude_mask
from edgekit.compress.sparsity.sparse_layers import participants
from edgekit.compress.sparsity.sparsegpt import Solver, damped_products, inverse_factor, sparsegpt
from edgekit.compress.sparsity.wanda import wanda_mask
from edgekit.core.errors import StepError
from tests.compress.benches import bench_of

ROWS, COLUMNS, SAMPLES = 12, 32, 400


def problem(seed=0, rows=ROWS, columns=COLUMNS):
    """A weight and inputs that are strongly correlated, as activations are."""
    draws = np.random.default_rng(seed)
    mixing = draws.standard_normal((columns, columns)) * draws.uniform(0.2, 3, columns)
    inputs = draws.standard_normal((SAMPLES, columns)) @ mixing / columns**0.5
    weight = draws.standard_normal((rows, columns))
    return torch.from_numpy(weight), torch.from_numpy(inputs)


def output_error(weight, changed, inputs):
    return float(((weight - changed) @ inputs.T).square().sum())


def least_squares(weight, mask, inputs):
    """The best weights on a support, row by row, from numpy's own solver."""
    found = np.zeros(weight.shape)
    for row, kept in enumerate(mask.numpy()):
        wanted = inputs.numpy() @ weight[row].numpy()
        found[row, kept] = np.linalg.lstsq(inputs.numpy()[:, kept], wanted, rcond=None)[0]
    return torch.from_numpy(found)


def test_one_weight_that_goes_is_made_up_for_as_optimal_brain_surgery_says():
    weight, inputs = problem(rows=1)
    products = inputs.T @ inputs
    keep = torch.ones(1, COLUMNS, dtype=torch.bool)
    keep[0, 0] = False
    solved = sparsegpt(
        weight, products, 1 / COLUMNS, keep=keep, solver=Solver(damping=0.0, polish_steps=0)
    )
    # Hassibi & Stork 1993: the change is -w_q / [H^-1]_qq * H^-1[:, q].
    inverse = np.linalg.inv(products.numpy())
    wanted = weight.numpy()[0] - weight.numpy()[0, 0] / inverse[0, 0] * inverse[:, 0]
    np.testing.assert_allclose(solved.weight.numpy()[0], wanted, rtol=1e-8, atol=1e-9)
    assert solved.weight[0, 0] == 0
    assert solved.mask.tolist() == keep.tolist()


def test_a_weight_anywhere_is_made_up_for_by_all_others_once_polished():
    weight, inputs = problem(rows=COLUMNS)
    products = inputs.T @ inputs
    keep = ~torch.eye(COLUMNS, dtype=torch.bool)  # another weight goes in each row
    solved = sparsegpt(
        weight, products, 1 / COLUMNS, keep=keep, solver=Solver(damping=0.0, polish_steps=500)
    )
    inverse = np.linalg.inv(products.numpy())
    for place, row in enumerate(weight.numpy()):
        wanted = row - row[place] / inverse[place, place] * inverse[:, place]
        wanted[place] = 0.0
        # Conjugate gradients stop at a residual of 1e-6 of the first one.
        np.testing.assert_allclose(solved.weight.numpy()[place], wanted, atol=1e-4)


def test_a_later_weight_is_made_up_for_by_those_behind_it():
    weight, inputs = problem(rows=1)
    products = inputs.T @ inputs
    place = 10
    keep = torch.ones(1, COLUMNS, dtype=torch.bool)
    keep[0, place] = False
    solved = sparsegpt(
        weight, products, 1 / COLUMNS, keep=keep, solver=Solver(damping=0.0, polish_steps=0)
    )
    found = solved.weight.numpy()[0]
    # The same closed form for the columns from this one on.
    inverse = np.linalg.inv(products.numpy()[place:, place:])
    wanted = weight.numpy()[0].copy()
    wanted[place:] -= wanted[place] / inverse[0, 0] * inverse[:, 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-9)


def test_columns_that_go_first_leave_the_least_squares_solution():
    weight, inputs = problem()
    keep = torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    for row in range(ROWS):
        keep[row, : row + 1] = False
    ratio = float((~keep).double().mean())
    solved = sparsegpt(
        weight, inputs.T @ inputs, ratio, keep=keep, solver=Solver(damping=0.0, polish_steps=0)
    )
    wanted = least_squares(weight, keep, inputs)
    torch.testing.assert_close(solved.weight, wanted, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("ratio", "group"), [(0.5, 0), (0.8, 0), (0.5, 4), (0.75, 4)])
def test_its_outputs_are_closer_than_those_of_magnitude_and_wanda(seed, ratio, group):
    weight, inputs = problem(seed)
    products = inputs.T @ inputs
    solved = sparsegpt(weight, products, ratio, group=group)
    error = output_error(weight, solved.weight, inputs)
    by_size = weight * magnitude_mask(weight, ratio, group=group)
    norms = products.diagonal().sqrt()
    by_inputs = weight * wanda_mask(weight, norms, ratio, group=group)
    assert error < output_error(weight, by_size, inputs)
    assert error < output_error(weight, by_inputs, inputs)
    best = output_error(weight, least_squares(weight, solved.mask, inputs), inputs)
    # Damping keeps it a little away from the least squares.
    assert best <= error < 1.1 * best


@pytest.mark.parametrize("ratio", [0.5, 0.8])
@pytest.mark.parametrize("model", ["mlp", "cnn", "transformer"])
def test_every_layer_of_a_real_model_is_closer_on_real_inputs(
    model, ratio, request, digits, checkpoints
):
    bench = bench_of(request.getfixturevalue(f"fitted_{model}"), digits, checkpoints)
    weights = participants(bench.model).weights
    sums = gather(bench, bench.model, weights, has_products=True)
    for item in weights:
        products = sums[item.name].products
        matrix = item.matrix(item.parameter.detach()).double()

        def error(changed, matrix=matrix, products=products):
            lost = (matrix - changed).reshape(len(products), -1, matrix.shape[1])
            return float((lost @ products * lost).sum())

        found = error(sparsegpt(matrix, products, ratio).weight)
        norms = sums[item.name].squares.sqrt()
        assert found < error(matrix * magnitude_mask(matrix, ratio)), item.name
        assert found < error(matrix * wanda_mask(matrix, norms, ratio)), item.name


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("width", [5, 16, 128])
def test_the_share_is_exact_and_the_zeros_are_exact(ratio, width):
    weight, inputs = problem()
    solved = sparsegpt(weight, inputs.T @ inputs, ratio, solver=Solver(block_columns=width))
    assert int((~solved.mask).sum()) == round(ratio * weight.numel())
    assert torch.equal(solved.weight == 0, ~solved.mask)


@pytest.mark.parametrize(("kept", "group"), [(2, 4), (1, 4), (4, 8), (3, 16)])
def test_every_group_keeps_exactly_so_many(kept, group):
    weight, inputs = problem()
    solved = sparsegpt(
        weight, inputs.T @ inputs, 1 - kept / group, group=group, solver=Solver(block_columns=8)
    )
    assert ((solved.weight != 0).reshape(-1, group).sum(dim=1) == kept).all()


def test_polishing_brings_the_error_down_in_every_row_and_keeps_the_support():
    weight, inputs = problem()
    rough, fine = (
        sparsegpt(weight, inputs.T @ inputs, 0.5, solver=Solver(damping=0.0, polish_steps=steps))
        for steps in (0, 8)
    )
    assert torch.equal(rough.mask, fine.mask)
    assert torch.equal(fine.weight == 0, ~fine.mask)
    errors = [((weight - item.weight) @ inputs.T).square().sum(dim=1) for item in (rough, fine)]
    assert (errors[1] < errors[0]).all()


def test_unrelated_inputs_change_no_weight_that_stays():
    weight, _ = problem()
    second = torch.diag(torch.linspace(0.5, 4, COLUMNS, dtype=torch.float64))
    solved = sparsegpt(weight, second, 0.5, solver=Solver(damping=0.0, block_columns=COLUMNS))
    torch.testing.assert_close(solved.weight, weight * solved.mask)
    # What goes is what costs least: w^2 * E[x^2], all rows together.
    cost = weight.square() * second.diagonal()
    assert cost[solved.mask].min() >= cost[~solved.mask].max()


def test_the_width_of_blocks_changes_nothing_once_the_support_is_fixed():
    weight, inputs = problem()
    mask = magnitude_mask(weight, 0.5)
    whole, narrow = (
        sparsegpt(
            weight,
            inputs.T @ inputs,
            0.5,
            keep=mask,
            solver=Solver(block_columns=width, polish_steps=0),
        )
        for width in (COLUMNS, 3)
    )
    torch.testing.assert_close(whole.weight, narrow.weight, rtol=1e-9, atol=1e-9)


def test_zeros_of_before_stay_and_count():
    weight, inputs = problem()
    keep = torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    keep[:, 20:] = False
    solved = sparsegpt(weight, inputs.T @ inputs, 0.5, keep=keep, solver=Solver(block_columns=8))
    assert not solved.mask[:, 20:].any()
    assert int((~solved.mask).sum()) == ROWS * COLUMNS // 2


def test_groups_of_a_convolution_are_solved_with_their_own_inputs():
    weight, inputs = problem(rows=8, columns=6)
    _, others = problem(seed=1, rows=8, columns=6)
    products = torch.stack([inputs.T @ inputs, others.T @ others])
    mask = magnitude_mask(weight, 0.5)
    both = sparsegpt(weight, products, 0.5, keep=mask).weight
    apart = [
        sparsegpt(weight[rows], products[group], 0.0, keep=mask[rows]).weight
        for group, rows in enumerate((slice(0, 4), slice(4, 8)))
    ]
    torch.testing.assert_close(both, torch.cat(apart))


def test_inputs_that_never_come_go_first():
    weight, inputs = problem()
    inputs[:, 3] = 0
    solved = sparsegpt(weight, inputs.T @ inputs, 0.25, solver=Solver(block_columns=COLUMNS))
    assert not solved.mask[:, 3].any()
    assert torch.isfinite(solved.weight).all()


def test_fewer_samples_than_inputs_are_enough():
    weight, inputs = problem()
    few = inputs[:5]
    solved = sparsegpt(weight, few.T @ few, 0.5)
    assert torch.isfinite(solved.weight).all()
    assert output_error(weight, solved.weight, few) < 0.1 * float((weight @ few.T).square().sum())


def test_inputs_that_are_all_zero_are_refused():
    with pytest.raises(StepError, match="nothing but zeros"):
        sparsegpt(torch.ones(2, 4), torch.zeros(4, 4), 0.5)


def test_the_factor_is_the_root_of_the_damped_inverse():
    _, inputs = problem()
    products = inputs.T @ inputs
    upper = inverse_factor(damped_products(products[None]))[0]
    damped = products + 0.01 * products.diagonal().mean() * torch.eye(COLUMNS, dtype=torch.float64)
    assert torch.equal(upper, upper.triu())
    torch.testing.assert_close(upper.T @ upper @ damped, torch.eye(COLUMNS, dtype=torch.float64))
