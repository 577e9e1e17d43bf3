"""The parts of one step of training: groups of weights, learning rate, gradient, masks, average."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from edgekit.core.codec import nearest
from edgekit.core.errors import StepError
from edgekit.core.steps.train import Train

Masks = Mapping[str, Tensor]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_NORMS = (
    *_BATCH_NORMS,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)


def make_optimizer(
    model: nn.Module, settings: Train, steps: Iterable[nn.Parameter] = ()
) -> Optimizer:
    """AdamW, or SGD with momentum, over the weights that take gradients.

    steps: of grids, which are learned along, without decay.
    Raises: StepError when no weight takes gradients.
    Source: Loshchilov & Hutter 2019, arXiv:1711.05101 (AdamW).
    """
    decayed, others = decay_groups(model)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise StepError(
            "no weight of the model takes gradients (requires_grad is False for all); call "
            "model.requires_grad_(True) before handing it over, or leave out the steps that train"
        )
    groups += [{"params": learned, "weight_decay": 0.0} for learned in [list(steps)] if learned]
    # Not fused: on the CPU it pairs weights and gradients of different memory formats wrongly,
    # without a word (torch 2.13.0: channels-last weight, contiguous gradient).
    if settings.optimizer == "sgd":
        return SGD(groups, settings.learning_rate, momentum=settings.momentum)
    return AdamW(groups, settings.learning_rate)


def decay_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trained parameters that weight decay applies to, and the others.

    Biases, scales and whatever a normalization layer owns stay without decay.
    """
    of_norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            is_free = parameter.ndim < 2 or id(parameter) in of_norms
            (others if is_free else decayed).append(parameter)
    return decayed, others


def rate_at(step: int, steps: int, settings: Train) -> float:
    """The learning rate of one batch, of ``steps`` in all, counted from 0.

    It rises in a straight line to its highest over the first ``warmup_ratio`` of all batches, then
    falls to 0 along half a cosine or a straight line, or stays.
    Source: Loshchilov & Hutter 2017, arXiv:1608.03983 (cosine); Goyal et al. 2017,
    arXiv:1706.02677 (gradual warm-up).
    """
    warmup = round(settings.warmup_ratio * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    share = {
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "linear": 1 - done,
        "constant": 1.0,
    }[settings.schedule]
    return settings.learning_rate * share


def set_rate_(optimizer: Optimizer, rate: float) -> None:
    """Give every group of weights this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def gradient_norm(parameters: Mapping[str, nn.Parameter], masks: Masks) -> Tensor:
    """The norm of the gradient over all weights; those that must stay zero do not count.

    Shapes: a scalar.
    """
    gradients = [
        value.grad * masks[name] if name in masks else value.grad
        for name, value in parameters.items()
        if value.grad is not None
    ]
    return torch.nn.utils.get_total_norm(gradients)


def mask_(parameters: Mapping[str, nn.Parameter], masks: Masks, optimizer: Optimizer) -> None:
    """Make masked weights exactly zero, and what the optimizer remembers of them.

    A weight that is let go of later then starts without momentum from before.
    """
    with torch.no_grad():
        for name, keeps in masks.items():
            parameter = parameters[name]
            parameter.masked_fill_(~keeps, 0.0)
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(~keeps, 0.0)


def zero_masked_(model: nn.Module, masks: Masks) -> None:
    """Make the masked weights of a model exactly zero."""
    with torch.no_grad():
        for name, keeps in masks.items():
            model.get_parameter(name).masked_fill_(~keeps, 0.0)


def check_masks(model: nn.Module, masks: Masks) -> None:
    """Refuse masks that are not those of this model.

    Raises: StepError for a name or a shape that the model has not, and for masks the wrong way
    round: True is where a weight stays.
    """
    parameters = dict(model.named_parameters())
    for name, keeps in masks.items():
        if name not in parameters:
            raise StepError(f"mask '{name}': no such parameter{nearest(name, list(parameters))}")
        weight = parameters[name].detach()
        if keeps.shape != weight.shape or keeps.dtype != torch.bool:
            raise StepError(
                f"mask '{name}' is {keeps.dtype} {list(keeps.shape)}; it must be torch.bool "
                f"{list(weight.shape)}, as its parameter"
            )
        kept, gone = weight[keeps], weight[~keeps]
        if len(kept) and len(gone) and not kept.any() and bool(gone.all()):
            raise StepError(
                f"mask '{name}' is the wrong way round: all weights that it keeps are zero, and "
                "none of the others is; True is where a weight stays"
            )


def average_(average: dict[str, Tensor], tensors: Mapping[str, Tensor], decay: float) -> None:
    """Move an average of weights and statistics towards the present ones; counts are copied.

    Formula: average = decay * average + (1 - decay) * present.
    Source: Polyak & Juditsky 1992, doi:10.1137/0330046.
    """
    with torch.no_grad():
        for name, value in tensors.items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - decay)
            else:
                average[name].copy_(value)


def decay_at(step: int, decay: float) -> float:
    """The decay of the average at one batch (counted from 1): less while there is little behind it.

    Formula: min(decay, (1 + step) / (10 + step)), so that the weights that training began with are
    soon forgotten.
    Source: tf.train.ExponentialMovingAverage with num_updates, TensorFlow documentation.
    """
    return min(decay, (1 + step) / (10 + step))


def live_batch_norms(model: nn.Module) -> list[str]:
    """Paths of the batch norm layers whose statistics move while training."""
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, _BATCH_NORMS) and not _is_frozen(module)
    ]


def training_mode_(model: nn.Module) -> None:
    """Training mode, but for batch norm layers whose weights are frozen: these keep statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BATCH_NORMS) and _is_frozen(module):
            module.eval()


def _is_frozen(module: nn.Module) -> bool:
    weights: Iterable[nn.Parameter] = list(module.parameters(recurse=False))
    return bool(weights) and not any(weight.requires_grad for weight in weights)
