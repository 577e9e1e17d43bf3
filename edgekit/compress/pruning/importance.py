"""How much each unit of a group matters, by its weights or by what the loss says of them.

All are functions of the weights that go with a unit, W(u): in every layer that it touches, rows of
the layers that make it and columns of the layers that read it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from edgekit.compress.bench import Batch, Objective
from edgekit.compress.masks import copy_model
from edgekit.compress.pruning.channel_graph import Slot
from edgekit.compress.pruning.groups import Group
from edgekit.compress.training.batches import stream
from edgekit.core.errors import StepError
from edgekit.core.steps.prune import Importance

# One score a unit, in the order of the group's units; higher stays longer.
Scores = Mapping[tuple[Slot, ...], Tensor]

# Scores that say how much the loss changes can be compared between layers as they are.
IN_LOSS: frozenset[str] = frozenset({"taylor", "hessian"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What the loss is, and the batches on which its gradients are taken."""

    objective: Objective
    batches: Iterable[Batch]


def score_units(
    importance: Importance,
    model: nn.Module,
    groups: Sequence[Group],
    *,
    losses: Losses | None = None,
    seed: int = 0,
) -> dict[tuple[Slot, ...], Tensor]:
    """The importance of every unit, by the key of its group.

    bn-scale leaves out groups without a batch norm.
    Raises: StepError where the importance needs a loss or batch norms and there are none.
    """
    if importance in IN_LOSS:
        if losses is None:
            raise StepError(
                f"prune: importance '{importance}' needs training data and a loss; give them, or "
                "take 'group-norm'"
            )
        return _by_loss(importance, model, groups, losses)
    if importance == "random":
        draws = stream(seed, "importance")
        return {group.key: torch.rand(len(group.units), generator=draws) for group in groups}
    by_weight: Mapping[str, Callable[[nn.Module, Group], Tensor | None]] = {
        "l1": l1_norm,
        "l2": l2_norm,
        "group-norm": group_norm,
        "bn-scale": bn_scale,
    }
    found = {group.key: by_weight[importance](model, group) for group in groups}
    if not any(scores is not None for scores in found.values()):
        raise StepError(
            "prune: importance 'bn-scale' needs batch norms, and no group has one; take "
            "'group-norm'"
        )
    return {key: scores for key, scores in found.items() if scores is not None}


def l1_norm(model: nn.Module, group: Group) -> Tensor:
    """Sum of the absolute weights that make a unit: its filters, or rows.

    Source: Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710.
    """
    made = _slots(model, group, is_made=True)
    return _summed(model, group, made, lambda weight: weight.abs())


def l2_norm(model: nn.Module, group: Group) -> Tensor:
    """Euclidean norm of the weights that make a unit.

    Source: He et al. 2018, Soft Filter Pruning, arXiv:1808.06866.
    """
    made = _slots(model, group, is_made=True)
    return _summed(model, group, made, lambda weight: weight.square()).sqrt()


def group_norm(model: nn.Module, group: Group) -> Tensor:
    """Euclidean norm of all weights that go with a unit: rows, columns and scales of norms.

    Source: Fang et al. 2023, DepGraph, arXiv:2301.12900.
    """
    touched = [slot for slot in _slots(model, group) if not slot[0].endswith("bias")]
    return _summed(model, group, touched, lambda weight: weight.square()).sqrt()


def bn_scale(model: nn.Module, group: Group) -> Tensor | None:
    """Mean absolute scale of the batch norms over a unit; None where there are none.

    Source: Liu et al. 2017, Network Slimming, arXiv:1708.06519.
    """
    norms = {
        f"{path}.weight" for path, module in model.named_modules() if isinstance(module, _NormBase)
    }
    scales = [slot for slot in _slots(model, group) if slot[0] in norms]
    if not scales:
        return None
    channels = sum(group.positions[slot].shape[1] for slot in scales)
    total = _summed(model, group, scales, lambda weight: weight.abs())
    return total.div(channels)


def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """Each weight's share of the first-order change of the loss when its unit goes: g w.

    A unit's importance is the square of their sum in each layer, added up over layers, as the mean
    over batches.
    Source: Molchanov et al. 2019, arXiv:1906.10771.
    """
    return gradient * weight


def hessian(weight: Tensor, squared_gradient: Tensor) -> Tensor:
    """Second-order change of the loss when a weight goes, w^2 E[g^2] / 2.

    Optimal Brain Damage with the Fisher information in place of the Hessian's diagonal, which
    needs no second derivatives; E is the mean over batches.
    Source: LeCun, Denker & Solla 1989, Optimal Brain Damage, NIPS 2.
    """
    return weight.square() * squared_gradient / 2


def _by_loss(
    importance: Importance, model: nn.Module, groups: Sequence[Group], losses: Losses
) -> dict[tuple[Slot, ...], Tensor]:
    found = {group.key: torch.zeros(len(group.units), dtype=torch.float64) for group in groups}
    batches = 0
    thawed = copy_model(model).eval().requires_grad_()  # frozen weights matter as much
    for batch in losses.batches:
        gradients = _gradients(thawed, losses.objective(thawed, batch))
        batches += 1
        for group in groups:
            found[group.key] += _change(importance, thawed, group, gradients)
    if not batches:
        raise StepError("prune: there is no batch to take gradients on; give training data")
    return {key: scores / batches for key, scores in found.items()}


def _gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None
    }


def _change(
    importance: Importance, model: nn.Module, group: Group, gradients: Mapping[str, Tensor]
) -> Tensor:
    total = torch.zeros(len(group.units), dtype=torch.float64)
    for slot in _slots(model, group):
        gradient = gradients.get(slot[0])
        if gradient is None:
            continue
        weight = model.get_parameter(slot[0]).detach()
        if importance == "taylor":
            total += _by_unit(taylor(weight, gradient), group, slot).square()
        else:
            total += _by_unit(hessian(weight, gradient.square()), group, slot)
    return total


def _slots(model: nn.Module, group: Group, *, is_made: bool = False) -> list[Slot]:
    """The parameters' dimensions that a group touches; is_made: the rows that make it only."""
    parameters = dict(model.named_parameters())
    touched = [slot for slot in group.key if slot[0] in parameters]
    if not is_made:
        return touched
    made = [slot for slot in touched if slot not in group.consumed and parameters[slot[0]].ndim > 1]
    return made or touched


def _summed(
    model: nn.Module, group: Group, slots: Sequence[Slot], measure: Callable[[Tensor], Tensor]
) -> Tensor:
    total = torch.zeros(len(group.units), dtype=torch.float64)
    for slot in slots:
        total += _by_unit(measure(model.get_parameter(slot[0]).detach()), group, slot)
    return total


def _by_unit(values: Tensor, group: Group, slot: Slot) -> Tensor:
    """Values summed over all that one unit has in a tensor. Shapes: (units,)."""
    axis = slot[1]
    others = [index for index in range(values.ndim) if index != axis]
    lines = values.double().sum(others) if others else values.double()
    positions = torch.from_numpy(np.ascontiguousarray(group.positions[slot]))
    return lines.cpu()[positions].sum(1)
