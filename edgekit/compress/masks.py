"""Masks of weights that are zero for good: True stays, by parameter name.

They come with a model that was pruned with ``torch.nn.utils.prune``, or from the step "sparsify",
and go from step to step on the bench. Every step keeps the zeros exact.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.prune import BasePruningMethod

from edgekit.core.codec import nearest
from edgekit.core.errors import StepError

Masks = Mapping[str, Tensor]


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy, of models too whose weights are computed from others (masks, weight norm).

    Such a weight is a plain attribute with a gradient's history, which torch refuses to copy; it is
    computed anew at each call, so the copy may have its value alone.
    """
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and not value.is_leaf:
                setattr(module, name, value.detach())
    return copy.deepcopy(model)


def has_masks(model: nn.Module) -> bool:
    """Whether ``torch.nn.utils.prune`` computes weights of a model from masks."""
    return any(_pruned_names(module) for module in model.modules())


def bake_masks(model: nn.Module) -> dict[str, Tensor]:
    """Make masked weights plain weights with zeros, in place; the masks by parameter name.

    The parametrization of ``torch.nn.utils.prune`` is gone afterwards, so the model can be trained
    further only with the masks in hand. Weights that modules share stay shared, under the first
    of their names, where all of them are masked; a module that uses them whole keeps its own.
    Shapes: a mask has the shape of its parameter; True where a weight stays.
    """
    found: list[tuple[nn.Module, str, Tensor]] = []
    _part_from_whole_ones(model)
    for module in list(model.modules()):
        for leaf in _pruned_names(module):
            found.append((module, leaf, getattr(module, f"{leaf}_mask").detach().bool().clone()))
            prune.remove(module, leaf)  # type: ignore[no-untyped-call]
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters():
        names.setdefault(id(parameter), name)
    masks: dict[str, Tensor] = {}
    for module, leaf, mask in found:
        place = names[id(getattr(module, leaf))]
        masks[place] = masks[place] & mask if place in masks else mask
    return masks


def merged_masks(*given: Masks) -> dict[str, Tensor]:
    """Masks whose zeros are those of all the given ones together."""
    found: dict[str, Tensor] = {}
    for masks in given:
        for name, keeps in masks.items():
            found[name] = found[name] & keeps.to(found[name].device) if name in found else keeps
    return found


def require_zeros(model: nn.Module, masks: Masks) -> None:
    """Refuse a model in which a weight is not zero that should be, or masks of another model.

    Raises: StepError naming the parameter and how many weights are wrong.
    """
    parameters = dict(model.named_parameters())
    for name, keeps in masks.items():
        if name not in parameters:
            raise StepError(f"mask '{name}': no such parameter{nearest(name, list(parameters))}")
        weight = parameters[name].detach()
        if weight.shape != keeps.shape:
            raise StepError(
                f"mask '{name}' is {list(keeps.shape)} and its parameter {list(weight.shape)}; a "
                "step that changes a weight's shape must change its mask alike"
            )
        wrong = int(torch.count_nonzero(weight.masked_fill(keeps.to(weight.device), 0.0)))
        if wrong:
            raise StepError(
                f"'{name}': {wrong} of {int((~keeps).sum())} weights that were set to zero for "
                "good are not zero any more; the step that changed them must keep bench.masks"
            )


def _part_from_whole_ones(model: nn.Module) -> None:
    """Give masked weights that a module without a mask uses too a parameter of their own."""
    whole = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name.removesuffix("_orig") not in _pruned_names(module)
    }
    own: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for leaf in _pruned_names(module):
            shared = module.get_parameter(f"{leaf}_orig")
            if id(shared) in whole:
                new = nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
                setattr(module, f"{leaf}_orig", own.setdefault(id(shared), new))


def _pruned_names(module: nn.Module) -> list[str]:
    hooks = module._forward_pre_hooks.values()  # noqa: SLF001  # as torch.nn.utils.prune looks them up
    return [hook._tensor_name for hook in hooks if isinstance(hook, BasePruningMethod)]  # noqa: SLF001
