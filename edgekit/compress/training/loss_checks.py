"""What a loss and the outputs that it is made of must be, checked where they come from."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from edgekit.compress.training.faults import faults_of
from edgekit.core.errors import StepError


def check_outputs_match(outputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse a student whose outputs are not those of its teacher.

    Raises: StepError naming the outputs and shapes that differ.
    """
    if outputs.keys() != wanted.keys():
        raise StepError(
            f"the model's outputs are {', '.join(outputs)}, the teacher's {', '.join(wanted)}; "
            "both must have the same names"
        )
    for name, value in outputs.items():
        if value.shape != wanted[name].shape:
            raise StepError(
                f"output '{name}' is {list(value.shape)}, the teacher's {list(wanted[name].shape)}"
                " (batch first); both must have the same shape"
            )


def check_loss(loss: Any, *, where: str) -> Tensor:
    """A loss that can be trained on: one number of floats, with a way back to the weights.

    Raises: StepError for anything else, saying what came.
    """
    if not isinstance(loss, Tensor):
        raise StepError(f"{where} is a {type(loss).__name__}; it must be a tensor of one number")
    if loss.numel() != 1:
        raise StepError(
            f"{where} has shape {list(loss.shape)}; it must be one number a batch: take its mean"
        )
    if not loss.is_floating_point():
        raise StepError(f"{where} has dtype {loss.dtype}; it must be floats")
    if not loss.requires_grad:
        raise StepError(
            f"{where} has no gradient: it does not depend on any weight that is trained. Compute "
            "it from the outputs with torch, without detach(), item() or no_grad()"
        )
    return loss.reshape(())


def call_loss(
    function: Callable[[Any, Any], Tensor], outputs: Mapping[str, Tensor], target: Tensor | None
) -> Tensor:
    """The user's own loss of a batch: it gets the only output itself, several by name.

    Raises: StepError when it fails, or returns what cannot be trained on.
    """
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
    there = "none" if target is None else f"{target.dtype} {list(target.shape)}"
    with faults_of(
        "the workload's loss", StepError, f"the outputs {shapes} and the target {there}"
    ):
        loss = function(
            next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs), target
        )
    return check_loss(loss, where="what the workload's loss returned")
