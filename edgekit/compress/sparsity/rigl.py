"""Dynamic sparsity: while a model trains, small weights are dropped and others regrown.

Every few batches a share of each layer's weights moves: those that are smallest are dropped, and as
many of the zeros whose gradient is largest may grow, from zero. A layer is as sparse at the end as
at the start. The share falls along half a cosine and nothing moves after ``stop``, so that the last
ones that grew can settle.

Source: Evci et al. 2020, arXiv:1911.11134, section 3 and algorithm 1. Here the model is trained
already, so the first mask keeps its largest weights in the place of random ones, and an update
follows a batch's step in the place of taking its place.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit.compress.sparsity.sparse_layers import SparseWeight
from edgekit.compress.sparsity.sparse_pick import lowest
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.sparsify import Sparsify

# arXiv:1911.11134, appendix: 100 batches between updates on ImageNet and CIFAR-10.
USUAL_UPDATE_BATCHES = 100
_USUAL_UPDATES = 10


def drop_share(step: int, stop: int, first: float) -> float:
    """The share of a layer's weights that moves at one batch.

    Formula: first / 2 * (1 + cos(pi * step / stop)).
    Source: arXiv:1911.11134, section 3, (2), after Dettmers & Zettlemoyer 2019.
    """
    return first / 2 * (1 + math.cos(math.pi * step / stop))


def moved(
    weight: Tensor,
    gradient: Tensor,
    mask: Tensor,
    share: float,
    *,
    group: int = 0,
    allowed: Tensor | None = None,
) -> Tensor:
    """The mask (True stays) after one update; it has as many weights as before.

    The smallest ``share`` of the weights that stay are dropped, and as many of the others grow,
    those with the largest gradient; one that was dropped in this very update may come back.
    group: neighbours in a row that keep their number of weights; 0 is the whole matrix. allowed:
    where weights may be at all.
    Shapes: all (rows, columns).
    """
    active = mask.reshape(1, -1)
    sizes = weight.detach().abs().reshape(1, -1).masked_fill(~active, math.inf)
    count = int(share * int(active.sum()))
    dropped = lowest(sizes, torch.tensor([count], device=mask.device))
    width = group or mask.numel()
    left = (active & ~dropped).reshape(-1, width)
    vacancies = dropped.reshape(-1, width).sum(dim=1)
    free = ~left if allowed is None else ~left & allowed.reshape(-1, width)
    # Lowest goes first: the largest gradients among the free places, then all others.
    order = (-gradient.detach().abs().reshape(-1, width)).masked_fill(~free, math.inf)
    return (left | (lowest(order, vacancies) & free)).reshape(mask.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePlan:
    """After which batches weights move. stop: the batch after which none does."""

    steps: frozenset[int]
    stop: int


def plan_updates(settings: Sparsify, batches: int, epoch_batches: int) -> UpdatePlan:
    """The updates of a training of so many batches.

    None falls on the last batch of an epoch, after which the model is judged: weights that have
    just grown are still zero then.
    Raises: StepError when no update would take place.
    """
    stop = math.floor(settings.stop_ratio * batches)
    usual = max(1, min(USUAL_UPDATE_BATCHES, stop // _USUAL_UPDATES))
    interval = settings.update_batches or usual
    is_movable = epoch_batches > 1
    steps = {
        step + 1 if is_movable and step % epoch_batches == 0 else step
        for step in range(interval, stop, interval)
    }
    if not steps:
        raise StepError(
            f"sparsify: no weight would move: updates come every {interval} batches and stop after "
            f"{stop} of {batches}; lower update_batches, or train for more epochs"
        )
    return UpdatePlan(steps=frozenset(steps), stop=stop)


class RigL:
    """Moves weights of a model while it trains, through the masks of its training."""

    def __init__(
        self,
        weights: Sequence[SparseWeight],
        masks: Mapping[str, Tensor],
        allowed: Mapping[str, Tensor],
        plan: UpdatePlan,
        reporter: Reporter,
        *,
        first_share: float,
        group: int = 0,
    ) -> None:
        """masks: changed in place. allowed: where weights may be at all, by name."""
        self._weights, self._masks, self._allowed = tuple(weights), masks, allowed
        self._plan, self._first_share, self._group = plan, first_share, group
        self._reporter = reporter
        self._still: set[str] = set()

    def after_batch(self, done: int) -> None:
        """Move weights if it is time to; those that the loss does not depend on stay.

        Raises: StepError when no weight has a gradient.
        """
        if done not in self._plan.steps:
            return
        share = drop_share(done, self._plan.stop, self._first_share)
        with_gradient = [item for item in self._weights if item.parameter.grad is not None]
        if not with_gradient:
            raise StepError(
                f"sparsify: no weight has a gradient after batch {done}, and method 'rigl' grows "
                "weights by it; let the workload's trainer clear gradients before a batch, not "
                "after it"
            )
        self._tell_still(item for item in self._weights if item.parameter.grad is None)
        for weight in with_gradient:
            gradient = weight.parameter.grad
            # Mixed precision leaves out batches that overflow.
            if gradient is not None and bool(gradient.isfinite().all()):
                self._move_(weight, gradient, share)

    def _tell_still(self, weights: Iterable[SparseWeight]) -> None:
        for weight in weights:
            if weight.name not in self._still:
                self._still.add(weight.name)
                self._reporter.note(
                    f"{weight.name}: sparse and not moving: the loss does not depend on it"
                )

    def _move_(self, weight: SparseWeight, gradient: Tensor, share: float) -> None:
        mask = self._masks[weight.name]
        allowed = self._allowed.get(weight.name)
        new = moved(
            weight.matrix(weight.parameter),
            weight.matrix(gradient),
            weight.matrix(mask),
            share,
            group=self._group,
            allowed=None if allowed is None else weight.matrix(allowed),
        )
        mask.copy_(weight.restored(new))
