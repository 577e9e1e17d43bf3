"""Tucker-2 of kernels, against tensorly and arithmetic by hand."""

import pytest
import tensorly
import torch
from tensorly.decomposition import partial_tucker
from torch import Tensor
from torch.nn import functional

from edgekit.compress.low_rank.tucker import mode_energies, tucker2, weighed_tucker2
from edgekit.compress.moments import Moment
from edgekit.core.errors import StepError


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return (torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted)).item()


@pytest.mark.parametrize("shape", [(16, 12, 3, 3), (8, 20, 5), (24, 24, 1, 7)])
@pytest.mark.parametrize("ranks", [(3, 4), (8, 2), (5, 12)])
def test_error_is_that_of_tensorly(shape, ranks):
    kernel = random(*shape)
    (core, (out, inner)), _ = partial_tucker(
        kernel.numpy(), rank=list(ranks), modes=[0, 1], n_iter_max=200, tol=1e-10
    )
    theirs = tensorly.tenalg.multi_mode_dot(core, [out, inner], modes=[0, 1])
    ours = tucker2(kernel, ranks, iterations=200)
    # Both are local optima of the same problem from the same start.
    expected = relative_error(torch.from_numpy(theirs), kernel)
    assert relative_error(ours.kernel, kernel) == pytest.approx(expected, abs=1e-4)


def test_full_ranks_give_the_kernel_back():
    kernel = random(6, 5, 3, 3)
    torch.testing.assert_close(tucker2(kernel, (6, 5)).kernel, kernel)


def test_hooi_is_never_worse_than_its_start():
    for seed in range(5):
        kernel = random(12, 12, 3, 3, seed=seed)
        errors = [
            relative_error(tucker2(kernel, (4, 4), iterations=count).kernel, kernel)
            for count in (0, 1, 5, 20)
        ]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < errors[0]


def test_factors_are_orthonormal():
    found = tucker2(random(12, 10, 3, 3), (4, 5))
    torch.testing.assert_close(found.out.T @ found.out, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(found.inner @ found.inner.T, torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize("ranks", [(0, 2), (2, 11)])
def test_ranks_that_no_kernel_has_are_refused(ranks):
    with pytest.raises(StepError, match=r"rank is (0|11); it must be 1 to"):
        tucker2(random(12, 10, 3, 3), ranks)


def test_energies_are_squared_singular_values_of_the_unfoldings():
    kernel = random(6, 5, 3, 3)
    out, inner = mode_energies(kernel)
    rows, columns = kernel.reshape(6, -1), kernel.transpose(0, 1).reshape(5, -1)
    torch.testing.assert_close(out, torch.linalg.svdvals(rows) ** 2)
    torch.testing.assert_close(inner, torch.linalg.svdvals(columns) ** 2)


def test_what_is_lost_is_at_most_the_sum_of_both_tails():
    kernel = random(12, 10, 3, 3)
    out, inner = mode_energies(kernel)
    for ranks in [(3, 4), (8, 8), (11, 2)]:
        lost = torch.linalg.norm(tucker2(kernel, ranks).kernel - kernel) ** 2
        assert lost <= out[ranks[0] :].sum() + inner[ranks[1] :].sum() + 1e-9


def channels_moment(images: Tensor) -> Moment:
    rows = images.transpose(0, 1).flatten(1)
    return Moment(mean=rows.mean(dim=1), second=rows @ rows.T / rows.shape[1])


def smooth_images() -> Tensor:
    """Channels of very different size, mixed, and pixels like their neighbours, as in pictures."""
    noise = random(20, 16, 14, 14, seed=3)
    smooth = functional.avg_pool2d(noise, 3, stride=1)
    mixed = torch.einsum("ji,nihw->njhw", random(16, 16, seed=4), smooth)
    return mixed * torch.logspace(0, -2, 16, dtype=torch.float64)[:, None, None]


@pytest.mark.parametrize("ranks", [(4, 4), (8, 8), (16, 6), (5, 16)])
def test_weighed_factors_beat_plain_ones_on_what_comes_out(ranks):
    kernel, images = random(16, 16, 3, 3), smooth_images()
    wanted = functional.conv2d(images, kernel)
    found = weighed_tucker2(
        kernel, ranks, inputs=channels_moment(images), outputs=channels_moment(wanted)
    )
    plain = tucker2(kernel, ranks)
    error = relative_error(functional.conv2d(images, found.kernel), wanted)
    assert error < 0.9 * relative_error(functional.conv2d(images, plain.kernel), wanted)


def test_with_whole_inputs_the_weighed_output_factor_is_optimal():
    # U U^T of the outputs' principal directions: no other rank-5 output factor does better, so the
    # error is the tail of the outputs' spectrum.
    kernel, images = random(16, 8, 3, 3), smooth_images()[:, :8]
    wanted = functional.conv2d(images, kernel)
    moments = channels_moment(images), channels_moment(wanted)
    found = weighed_tucker2(kernel, (5, 8), inputs=moments[0], outputs=moments[1])
    rows = wanted.transpose(0, 1).flatten(1)
    values = torch.linalg.svdvals(rows)
    best = (values[5:].square().sum() / values.square().sum()).sqrt().item()
    # The damping gives away a little.
    assert relative_error(functional.conv2d(images, found.kernel), wanted) == pytest.approx(
        best, rel=2e-2
    )
