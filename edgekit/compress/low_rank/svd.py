"""Matrices as products of two thin ones: truncated SVD, plain or weighed by what comes in.

The best W_r of rank r for inputs x makes E||(W - W_r) x||^2 smallest. With S = E[x x^T] and a
square root R R^T = S that is ||(W - W_r) R||_F^2, so W_r R is the truncated SVD of W R
(Eckart-Young). Two forms give the same W_r, and each needs the moments of one side only:

- from outputs: U_r, the leading eigenvectors of E[y y^T] = W S W^T, and W_r = (U_r) (U_r^T W);
- from inputs: V_r, the leading eigenvectors of R W^T W R, and W_r = (W R V_r) (V_r^T R^-1).

The smaller side is taken: a 3136 -> 128 layer costs a 128 x 128 problem. S is damped by a share of
its mean diagonal, so that directions that the calibration data never showed still count a little.
A layer with a bias may shift it, which makes S the covariance: the mean is then met exactly.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit.compress.moments import Side, Traffic
from edgekit.core.errors import StepError

# Share of the mean diagonal of S, as in GPTQ (arXiv:2210.17323, section 3.3). On small MLPs, CNNs
# and transformers for digits, with 4 to 512 calibration samples, 1e-4 to 1e-1 all lose less than
# the plain SVD, and differ by 2% of the error or less where there are more than 16 (2026-11).
DAMPING = 1e-2
_TINY = 1e-30


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """Directions of a space by how much they matter, and how to go there and back.

    energies: squared singular values, falling. Keeping the first r of n directions replaces a
    vector v by decode[:, :r] @ encode[:r] @ v. Shapes: energies (n,), encode (n, n), decode (n, n).
    """

    side: Side
    energies: Tensor
    encode: Tensor
    decode: Tensor


def low_rank_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best rank-r factors of a weight matrix in the Frobenius norm, the scale shared evenly.

    Shapes: weight (out, in) -> left (out, rank), right (rank, in).
    Units: none; dtype follows weight.
    Raises: StepError if rank is outside 1..min(out, in).
    Source: Eckart & Young 1936, doi:10.1007/BF02288367.
    """
    check_rank(rank, min(weight.shape))
    left, values, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    root = values[:rank].sqrt()
    return (left[:, :rank] * root).to(weight.dtype), (root[:, None] * right[:rank]).to(weight.dtype)


def whitened_factors(
    weight: Tensor, rank: int, second: Tensor, *, damping: float = DAMPING
) -> tuple[Tensor, Tensor]:
    """Factors of the rank-r matrix with the smallest E||(W - W_r) x||^2, where E[x x^T] = second.

    Shapes: weight (out, in), second (in, in) -> left (out, rank), right (rank, in).
    Raises: StepError if rank is outside 1..min(out, in).
    Source: SVD-LLM (Wang et al. 2024), arXiv:2403.07378, section 3.1, with the symmetric square
    root in the place of Cholesky's.
    """
    check_rank(rank, min(weight.shape))
    basis = input_basis(weight.detach().double(), second.double(), damping=damping)
    left, right = factors(weight, basis, rank)
    return left.to(weight.dtype), right.to(weight.dtype)


def input_basis(weight: Tensor, second: Tensor, *, damping: float = DAMPING) -> Basis:
    """The directions of the inputs that matter to the outputs.

    Shapes: weight (out, in), second (in, in), float64.
    """
    root, inverse = square_roots(damped(second, damping))
    energies, vectors = leading(root @ (weight.T @ weight) @ root)
    return Basis(
        side="inputs", energies=energies, encode=vectors.T @ inverse, decode=root @ vectors
    )


def output_basis(second: Tensor) -> Basis:
    """The principal directions of the outputs. Shapes: second (out, out), float64."""
    energies, vectors = leading(second)
    return Basis(side="outputs", energies=energies, encode=vectors.T, decode=vectors)


def matrix_basis(weight: Tensor, traffic: Traffic | None, *, is_centred: bool) -> Basis:
    """The basis of a weight matrix on the side that ``smaller_side`` names.

    traffic: with the moments of that side; None weighs all inputs alike. is_centred: take
    moments about the mean, for a layer whose bias will be shifted.
    Shapes: weight (out, in), float64.
    """
    side = smaller_side(weight)
    # A layer whose inputs are all zero has nothing to be weighed by.
    if traffic is None or traffic.power <= _TINY:
        if side == "outputs":
            return output_basis(weight @ weight.T)
        unweighed = torch.eye(weight.shape[1], dtype=weight.dtype)
        return input_basis(weight, unweighed, damping=0.0)
    moment = traffic.moments[side]
    second = moment.covariance if is_centred else moment.second
    # Damped by the power about zero: a constant input has no covariance to take a share of.
    share = DAMPING * traffic.power
    if side == "inputs":
        eye = torch.eye(len(second), dtype=second.dtype)
        return input_basis(weight, second + share * eye, damping=0.0)
    return output_basis(second + share * (weight @ weight.T))


def smaller_side(weight: Tensor) -> Side:
    """The side of a matrix with fewer channels. Shapes: weight (out, in)."""
    return "outputs" if weight.shape[0] <= weight.shape[1] else "inputs"


def factors(weight: Tensor, basis: Basis, rank: int) -> tuple[Tensor, Tensor]:
    """Thin factors of a weight matrix in a basis, the scale shared evenly between the two.

    Shapes: weight (out, in) -> left (out, rank), right (rank, in), float64.
    """
    matrix = weight.detach().double()
    if basis.side == "outputs":
        left, right = basis.decode[:, :rank], basis.encode[:rank] @ matrix
    else:
        left, right = matrix @ basis.decode[:, :rank], basis.encode[:rank]
    # Even shares keep either factor's numbers in a range that quantizes well.
    heavy, light = left.norm(dim=0), right.norm(dim=1)
    share = (light.clamp_min(_TINY) / heavy.clamp_min(_TINY)).sqrt()
    return left * share, right / share[:, None]


def leading(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues of a symmetric matrix, falling and not negative, and its eigenvectors.

    Shapes: (n, n) -> (n,), (n, n) with vectors as columns.
    """
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return values.flip(0).clamp_min(0), vectors.flip(1)


def damped(second: Tensor, damping: float = DAMPING) -> Tensor:
    """A second moment plus a share of its mean diagonal. Shapes: (n, n) both."""
    mean = second.diagonal().mean()
    return second + damping * mean * torch.eye(len(second), dtype=second.dtype)


def square_roots(second: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric square root of a positive matrix, and its inverse. Shapes: (n, n) each."""
    values, vectors = leading(second)
    root = values.clamp_min(_TINY).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def check_rank(rank: int, full: int) -> None:
    """Refuse a rank that a matrix cannot have.

    Raises: StepError if rank is outside 1..full.
    """
    if not 1 <= rank <= full:
        raise StepError(f"rank is {rank}; it must be 1 to {full}, the smaller side of the weight")
