"""Up or down for each weight, learned from what it does to the layer's outputs.

A weight w with the step s becomes s clip(floor(w / s) + h(V), -n, n), where V is learned by
gradient descent on the squared error of the layer's outputs, with the activation function behind:

    h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1)                       (equation 23)
    f(V) = sum of 1 - |2 h(V) - 1|^beta, beta from high to low                 (equation 24)
    minimize ||fa(W x) - fa(W~ x^)||^2 + lambda f(V), x^ with earlier layers rounded (equation 25)

At the end each h is made 0 or 1. Rows of weights have nothing in common but the inputs, so each
row's error is counted in units of that of rounding it to nearest, and a row for which that is
better stays so. lambda then means the same in every layer. The largest weight of each block is at
the end of the grid and stays there, since the grid of an exported file is found by it.
Source: Nagel et al. 2020, arXiv:2004.10568, sections 3.2 and 3.3.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor

from edgekit.compress.quantization.clipping import nearest
from edgekit.compress.quantization.gptq import Grid
from edgekit.compress.quantization.samples import LayerSamples
from edgekit.core.steps.round import AdaRound

ZETA, GAMMA = 1.1, -0.1
# Nearer to a whole step than this, there is nothing to decide.
_WHOLE = 1e-4
# Of a row's wanted outputs: what is less is float32's own rounding.
_LEAST_ERROR = 1e-10
_PLACES_AT_ONCE = 4096

# What the outputs go through, with groups apart. Shapes: (groups, places, rows) -> the same.
Behind = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A layer's weights in two ways, and the squared errors of its outputs over their own squares.

    Shapes: weight, nearest (rows, columns).
    """

    weight: Tensor
    nearest: Tensor
    error: float
    nearest_error: float


def rectified_sigmoid(values: Tensor) -> Tensor:
    """h(V) of equation 23, which reaches 0 and 1. Shapes: any."""
    return (values.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def inverse_rectified_sigmoid(shares: Tensor) -> Tensor:
    """The V that gives h(V) = share. Shapes: any, shares in [0, 1]."""
    return -((ZETA - GAMMA) / (shares - GAMMA) - 1).log()


def regularizer(shares: Tensor, beta: float) -> Tensor:
    """f(V) of equation 24 as a scalar: 0 where every share is 0 or 1, else up to their number."""
    return (1 - (2 * shares - 1).abs().pow(beta)).sum()


def annealed_beta(done_ratio: float, settings: AdaRound) -> float:
    """The exponent after a share of the iterations: along a cosine once it is warm."""
    warm = settings.warm_up_ratio
    share = max(0.0, done_ratio - warm) / (1 - warm)
    span = settings.first_beta - settings.last_beta
    return settings.last_beta + span * (1 + cos(pi * share)) / 2


def adaround(
    weight: Tensor,
    samples: LayerSamples,
    grid: Grid,
    settings: AdaRound,
    *,
    behind: Behind,
    seed: int = 0,
    keep: Tensor | None = None,
) -> Learned:
    """Weights of which each is the lower or the upper neighbour on the grid of the original.

    keep: a mask of the weight's shape; where it is False the result is zero.
    Shapes: weight (rows, columns), rows in as many groups as the samples have.
    """
    groups, _, columns = samples.inputs.shape
    values = weight.detach().double().reshape(groups, -1, columns)
    there = None if keep is None else keep.reshape(values.shape)
    learner = _Learner(values, samples, grid, settings, behind, there)
    with torch.enable_grad():
        learner.learn(seed)
    return learner.learned(weight)


class _Learner:
    """One layer. Shapes: of weights (groups, rows, columns), of outputs (groups, places, rows)."""

    def __init__(
        self,
        values: Tensor,
        samples: LayerSamples,
        grid: Grid,
        settings: AdaRound,
        behind: Behind,
        keep: Tensor | None,
    ) -> None:
        self._inputs, self._settings, self._behind = samples.inputs, settings, behind
        self._wanted = behind(samples.wanted)
        self._power = self._wanted.square().mean(1)
        importance = samples.inputs.square().mean(1, keepdim=True)
        scales = grid.scales(values, importance.double())
        place = values / scales
        found = nearest(values, scales, grid.top)
        self._plain = (found if keep is None else found * keep).float()
        self._scales, self._floor = scales.float(), place.floor().float()
        share = place - place.floor()
        # Beyond its end, and at it, the grid has no other neighbour.
        is_free = (place.abs() < grid.top) & ~_largest(values, grid)
        is_free &= (share > _WHOLE) & (share < 1 - _WHOLE)
        self._is_free = is_free if keep is None else is_free & keep
        self._values = inverse_rectified_sigmoid(share.float()).requires_grad_()
        self._plain_errors = self._errors(self._plain)
        self._units = self._plain_errors.clamp_min(_LEAST_ERROR * self._power.mean())

    def learn(self, seed: int) -> None:
        """All iterations."""
        if not bool(self._is_free.any()):
            return
        settings, draws = self._settings, torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam([self._values], lr=settings.learning_rate)
        count = self._inputs.shape[1]
        for iteration in range(settings.iterations):
            drawn = torch.randint(count, (min(count, settings.batch_size),), generator=draws)
            loss = self._loss(drawn.to(self._inputs.device), iteration / settings.iterations)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    @torch.no_grad()
    def learned(self, weight: Tensor) -> Learned:
        """What was learned, each row of which is at least as good as rounded to nearest."""
        hard = self._weights((rectified_sigmoid(self._values) >= 0.5).float())
        errors = self._errors(hard)
        is_better = errors < self._plain_errors
        best = torch.where(is_better[..., None], hard, self._plain)
        power = float(self._power.sum().clamp_min(1e-30))
        return Learned(
            weight=best.reshape(weight.shape).to(weight.dtype),
            nearest=self._plain.reshape(weight.shape).to(weight.dtype),
            error=float(torch.where(is_better, errors, self._plain_errors).sum()) / power,
            nearest_error=float(self._plain_errors.sum()) / power,
        )

    def _loss(self, drawn: Tensor, done_ratio: float) -> Tensor:
        """Equation 25 on some places, each row's error in units of that of its nearest values."""
        shares = rectified_sigmoid(self._values)
        found = self._behind(self._inputs[:, drawn] @ self._weights(shares).transpose(1, 2))
        errors = (found - self._wanted[:, drawn]).square().mean(1)
        loss = self._inputs.shape[-1] * (errors / self._units).sum()
        if done_ratio < self._settings.warm_up_ratio:
            return loss
        beta = annealed_beta(done_ratio, self._settings)
        return loss + self._settings.regularizer * regularizer(shares[self._is_free], beta)

    def _weights(self, shares: Tensor) -> Tensor:
        """Weights with so much of a step above the lower neighbour each."""
        return torch.where(self._is_free, (self._floor + shares) * self._scales, self._plain)

    @torch.no_grad()
    def _errors(self, weight: Tensor) -> Tensor:
        """The mean squared error of every row over all places. Shapes: -> (groups, rows)."""
        total = torch.zeros_like(self._power)
        for part, wanted in self._parts():
            total += (self._behind(part @ weight.transpose(1, 2)) - wanted).square().sum(1)
        return total / self._inputs.shape[1]

    def _parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, wanted = (
            torch.split(item, _PLACES_AT_ONCE, 1) for item in (self._inputs, self._wanted)
        )
        yield from zip(inputs, wanted, strict=True)


def _largest(weight: Tensor, grid: Grid) -> Tensor:
    """Where the first of the largest weights of each block is."""
    blocks = grid.blocks(weight)
    places = torch.arange(blocks.shape[-1], device=weight.device)
    return grid.shared(places == blocks.abs().argmax(dim=-1, keepdim=True), weight)
