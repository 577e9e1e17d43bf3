"""Factors of matrices, against numpy, torch and arithmetic by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekit.compress.low_rank.svd import (
    factors,
    low_rank_factors,
    matrix_basis,
    smaller_side,
    whitened_factors,
)
from edgekit.compress.moments import Moment, Traffic
from edgekit.core.errors import StepError

# Both sides compute in float64; what differs is the order of sums.
EXACT = 1e-9


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numpy_truncated(matrix: Tensor, rank: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(matrix.numpy(), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


def correlated_inputs(count: int, size: int) -> Tensor:
    """Vectors whose directions have very different variances."""
    return random(count, size, seed=7) * torch.logspace(0, -3, size, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
@pytest.mark.parametrize("rank", [1, 5, 12])
def test_factors_equal_numpys_truncated_svd(shape, rank):
    weight = random(*shape)
    left, right = low_rank_factors(weight, rank)
    assert left.shape == (shape[0], rank)
    assert right.shape == (rank, shape[1])
    np.testing.assert_allclose((left @ right).numpy(), numpy_truncated(weight, rank), atol=EXACT)


def test_error_is_the_root_of_the_discarded_squares():
    # diag(4, 3, 2): rank 1 leaves sqrt(3^2 + 2^2) (Eckart-Young).
    weight = torch.diag(torch.tensor([4.0, 3.0, 2.0]))
    left, right = low_rank_factors(weight, 1)
    assert torch.linalg.norm(weight - left @ right).item() == pytest.approx(13**0.5, abs=1e-6)


@pytest.mark.parametrize("rank", [0, 13])
def test_a_rank_that_no_matrix_has_is_refused(rank):
    with pytest.raises(StepError, match=f"rank is {rank}; it must be 1 to 12"):
        low_rank_factors(random(12, 30), rank)
    with pytest.raises(StepError, match=f"rank is {rank}"):
        whitened_factors(random(12, 30), rank, torch.eye(30, dtype=torch.float64))


def test_factors_share_their_scale_evenly():
    left, right = low_rank_factors(random(12, 30), 4)
    torch.testing.assert_close(left.norm(dim=0), right.norm(dim=1))


def test_whitened_factors_follow_the_closed_form_by_hand():
    # y = x1 + x2, x1 of variance 1 and x2 of variance 100; a second output 5 x1. Rank 1.
    # W S W^T = [[101, 5], [5, 25]]: its first direction is close to the first output, though the
    # plain SVD of W = [[1, 1], [5, 0]] would keep the second.
    weight = torch.tensor([[1.0, 1.0], [5.0, 0.0]], dtype=torch.float64)
    second = torch.diag(torch.tensor([1.0, 100.0], dtype=torch.float64))
    left, right = whitened_factors(weight, 1, second, damping=0.0)
    # The first eigenvector of [[101, 5], [5, 25]], by the formula for 2 x 2 matrices.
    value = (126 + (76**2 + 4 * 25) ** 0.5) / 2
    direction = torch.tensor([5.0, value - 101.0], dtype=torch.float64)
    direction /= direction.norm()
    expected = torch.outer(direction, direction) @ weight
    torch.testing.assert_close(left @ right, expected, atol=EXACT, rtol=0)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_whitened_factors_equal_an_svd_of_the_weighed_matrix(shape):
    weight, inputs = random(*shape), correlated_inputs(200, shape[1])
    second = inputs.T @ inputs / 200
    left, right = whitened_factors(weight, 4, second, damping=0.0)
    root = torch.linalg.cholesky(second)  # another square root than the symmetric one
    truncated = torch.from_numpy(numpy_truncated(weight @ root, 4))
    expected = truncated @ torch.linalg.inv(root)
    torch.testing.assert_close(left @ right, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_whitened_svd_beats_plain_svd_on_what_comes_out(shape):
    weight, inputs = random(*shape), correlated_inputs(200, shape[1])
    whitened = whitened_factors(weight, 4, inputs.T @ inputs / 200)
    plain = low_rank_factors(weight, 4)

    def error(found: tuple[Tensor, Tensor]) -> float:
        return torch.linalg.norm(inputs @ (weight - found[0] @ found[1]).T).item()

    assert error(whitened) < 0.5 * error(plain)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_moments_of_either_side_give_the_same_factors(shape):
    weight, inputs = random(*shape), correlated_inputs(200, shape[1])
    outputs = inputs @ weight.T
    second = inputs.T @ inputs / 200
    moments = {
        "inputs": Moment(mean=inputs.mean(0), second=second),
        "outputs": Moment(mean=outputs.mean(0), second=outputs.T @ outputs / 200),
    }
    power = inputs.square().mean().item()
    traffic = Traffic(positions_in=1, positions_out=1, power=power, moments=moments)
    basis = matrix_basis(weight, traffic, is_centred=False)
    assert basis.side == smaller_side(weight)
    left, right = factors(weight, basis, 4)
    expected = whitened_factors(weight, 4, second)
    torch.testing.assert_close(left @ right, expected[0] @ expected[1], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, 40), (40, 20)])
def test_fewer_samples_than_channels_still_give_factors(shape):
    weight, inputs = random(*shape), random(3, shape[1])
    left, right = whitened_factors(weight, 3, inputs.T @ inputs / 3)
    # Three samples span three directions: a rank of 3 keeps what they give.
    error = torch.linalg.norm(inputs @ (weight - left @ right).T)
    assert torch.isfinite(left).all()
    assert error < 0.05 * torch.linalg.norm(inputs @ weight.T)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6)])
def test_inputs_that_are_always_zero_leave_the_plain_svd(shape):
    weight = random(*shape)
    zeros = Moment(mean=torch.zeros(6), second=torch.zeros(6, 6, dtype=torch.float64))
    traffic = Traffic(
        positions_in=1, positions_out=1, power=0.0, moments={"inputs": zeros, "outputs": zeros}
    )
    left, right = factors(weight, matrix_basis(weight, traffic, is_centred=True), 2)
    np.testing.assert_allclose((left @ right).numpy(), numpy_truncated(weight, 2), atol=1e-7)


def test_energies_are_the_squared_singular_values():
    for shape in [(12, 30), (30, 12)]:
        weight = random(*shape)
        energies = matrix_basis(weight, None, is_centred=False).energies[:12]
        expected = torch.linalg.svdvals(weight) ** 2
        torch.testing.assert_close(energies, expected)
