"""Orthogonal matrices that spread one large channel evenly over all of them.

A Hadamard matrix has entries of 1 and -1 and orthogonal rows; divided by the root of its order it
is a rotation all of whose entries are equally small. Random signs make it another one for each
seed. Source: Ashkboos et al. 2024, arXiv:2404.00456 (QuaRot), section 3 (randomized Hadamard).
"""

import math

import torch
from torch import Tensor

_REGULAR = torch.ones(4, 4, dtype=torch.float64) - 2 * torch.eye(4, dtype=torch.float64)
# A random orthogonal matrix of fewer rows leaves too much in one channel.
_LEAST_BLOCK = 8


def hadamard(order: int) -> Tensor | None:
    """A Hadamard matrix, where Sylvester's and Paley's constructions give one.

    Orders 1, 2 and multiples of 4: powers of two times q + 1 for a prime q of 4k + 3, or
    2 (q + 1) for a prime q of 4k + 1 (12, 20, 28, 36 and 44 among them).
    Shapes: -> (order, order), entries 1 and -1, float64.
    Source: Paley 1933, doi:10.1002/sapm1933121311; Sylvester 1867.
    """
    twos = (order & -order).bit_length() - 1
    odd = order >> twos
    if odd == 1:
        return _sylvester(twos)
    for used in range(2, twos + 1):
        base = _paley(odd << used)
        if base is not None:
            return torch.kron(_sylvester(twos - used), base)
    return None


def spreading_rotation(order: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix, Hadamard's with random signs where there is one of the order.

    Else it is Hadamard's of the even part times a random one of the odd part.
    Shapes: -> (order, order), float64.
    """
    signs = torch.randint(0, 2, (order, 1), generator=generator).double() * 2 - 1
    matrix = hadamard(order)
    if matrix is not None:
        return signs * matrix / math.sqrt(order)
    twos = (order & -order).bit_length() - 1
    block = _random_rotation(order >> twos, generator)
    return signs * torch.kron(_sylvester(twos) / math.sqrt(1 << twos), block)


def mean_keeping_rotation(order: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix Q with Q 1 = 1: a vector times Q has the same mean as before.

    The outputs of a LayerNorm turn with its inputs then, and no mean need be taken out of layers
    before it (Ashkboos et al. 2024, arXiv:2401.15024, SliceGPT, section 3, does that).
    Powers of four: a regular Hadamard matrix, whose rows have one sum, with its rows and columns in
    random order. Else such a matrix times a random one that turns all directions but (1, ..., 1).
    Shapes: -> (order, order), float64.
    """
    rest, fours = order, 0
    while rest % 4 == 0 and (rest == 4 or rest // 4 >= _LEAST_BLOCK or _is_power_of_four(rest)):
        rest, fours = rest // 4, fours + 1
    matrix = _around_ones(rest, generator)
    for _ in range(fours):
        matrix = torch.kron(_REGULAR / 2, matrix)
    rows, columns = (torch.randperm(order, generator=generator) for _ in range(2))
    return matrix[rows][:, columns].contiguous()


def _is_power_of_four(number: int) -> bool:
    return number & (number - 1) == 0 and number.bit_length() % 2 == 1


def _sylvester(twos: int) -> Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    for _ in range(twos):
        matrix = torch.kron(step, matrix)
    return matrix


def _paley(order: int) -> Tensor | None:
    """Of a multiple of 4, by quadratic residues of a prime."""
    if _is_prime(order - 1):  # a multiple of 4 less one is 4k + 3
        core = _bordered(order - 1)
        core[1:, 0] = -1
        return core + torch.eye(order, dtype=torch.float64)
    half = order // 2
    if (half - 1) % 4 == 1 and _is_prime(half - 1):
        crossed = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        turned = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        eye = torch.eye(half, dtype=torch.float64)
        return torch.kron(_bordered(half - 1), crossed) + torch.kron(eye, turned)
    return None


def _bordered(prime: int) -> Tensor:
    """Quadratic characters of differences, with a first row and column of ones, 0 between."""
    character = -torch.ones(prime, dtype=torch.float64)
    character[(torch.arange(prime) ** 2) % prime] = 1
    character[0] = 0
    places = torch.arange(prime)
    core = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    core[1:, 1:] = character[(places[:, None] - places[None]) % prime]
    core[0, 0] = 0
    return core


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % part for part in range(2, math.isqrt(number) + 1))


def _random_rotation(order: int, generator: torch.Generator) -> Tensor:
    """Evenly drawn of all orthogonal matrices. Source: Mezzadri 2007, arXiv:math-ph/0609050."""
    drawn = torch.randn(order, order, generator=generator, dtype=torch.float64)
    matrix, triangle = torch.linalg.qr(drawn)
    turned: Tensor = matrix * triangle.diagonal().sign()
    return turned.contiguous()


def _around_ones(order: int, generator: torch.Generator) -> Tensor:
    """Turns what is orthogonal to (1, ..., 1), by a reflection of that onto the first axis."""
    axis = torch.full((order,), 1 / math.sqrt(order), dtype=torch.float64)
    axis[0] -= 1
    reflection = torch.eye(order, dtype=torch.float64)
    if order > 1:
        reflection -= 2 * torch.outer(axis, axis) / axis.square().sum()
    inner = torch.eye(order, dtype=torch.float64)
    if order > 1:
        inner[1:, 1:] = _random_rotation(order - 1, generator)
    return reflection @ inner @ reflection
