"""A student together with what is trained along with it and thrown away afterwards.

Projections and exits have weights of their own, an earlier self has statistics; held in one module
with the student they are optimized, checkpointed and resumed by the shared training loop as it does
any model's. Called, a learner is its student.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from edgekit.compress.distillation.features import Projection, at_depth, blocks, by_size
from edgekit.compress.distillation.taps import Layer
from edgekit.compress.distillation.teachers import Task
from edgekit.compress.training.optimizer import average_, decay_at
from edgekit.core.errors import StepError

MAX_EXITS = 3
# The longest memory of an earlier self (arXiv:1703.01780, section 3.4).
EARLIER_DECAY = 0.999
STUDENT = "student."


class Exit(nn.Module):
    """A head on an inner block that gives what the model gives: a mean over positions, one layer.

    A model of tokens keeps its positions.
    Source: Zhang et al. 2019, arXiv:1905.08094 (BYOT), with one linear layer for their bottleneck.
    """

    def __init__(
        self, layer: Layer, task: Task, generator: torch.Generator, *, gives_shares: bool = False
    ) -> None:
        """gives_shares: probabilities instead of class scores, as the model itself does."""
        super().__init__()
        self.task, self.gives_shares = task, gives_shares
        self.is_per_token = task.has_classes and len(task.shape) == 3
        wanted = task.classes if self.is_per_token else torch.Size(task.shape[1:]).numel()
        self.head = Projection(layer.channels, wanted, generator)

    def forward(self, features: Tensor) -> Tensor:
        """Shapes: (n, ..., channels) -> (n, *shape of the model's output)."""
        pooled = features
        if not self.is_per_token and features.ndim > 2:
            pooled = features.flatten(1, -2).mean(dim=1)
        found: Tensor = self.head(pooled)
        if self.gives_shares:
            found = found.softmax(dim=-1)
        if self.is_per_token:
            return found.movedim(-1, self.task.class_axis)
        return found.reshape(-1, *self.task.shape[1:])


@dataclass(kw_only=True)
class Extras:
    """What is trained along: projections and exits by the path of the student's layer."""

    projections: dict[str, Projection] = field(default_factory=dict)
    exits: dict[str, Exit] = field(default_factory=dict)
    has_earlier: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether the student is trained alone."""
        return not (self.projections or self.exits or self.has_earlier)


class Learner(nn.Module):
    """A student and its extras."""

    def __init__(self, student: nn.Module, extras: Extras) -> None:
        super().__init__()
        self.student = student
        # Paths have dots, which names of modules must not have: numbers stand for them.
        self.projections = nn.ModuleList(extras.projections.values())
        self.exits = nn.ModuleList(extras.exits.values())
        self.earlier = earlier_self(student) if extras.has_earlier else None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The student's own output."""
        return self.student(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:  # torch's own signature
        """Training mode for all but the earlier self, which is a teacher."""
        super().train(mode)
        if self.earlier is not None:
            self.earlier.eval()
        return self

    def follow(self, done: int) -> None:
        """Move the earlier self towards the student; ``done`` batches came before.

        Source: Tarvainen & Valpola 2017, arXiv:1703.01780 (mean teacher).
        """
        if self.earlier is None:
            return
        present = tensors_of(self.student)
        average_(tensors_of(self.earlier), present, decay_at(done, EARLIER_DECAY))


def student_of(model: nn.Module) -> nn.Module:
    """The student itself, of a learner or as it is."""
    return model.student if isinstance(model, Learner) else model


def earlier_self(student: nn.Module) -> nn.Module:
    """A copy in eval mode whose weights are buffers: checkpoints hold it, no optimizer moves it."""
    earlier = copy.deepcopy(student)
    shared: dict[int, Tensor] = {}
    for module in earlier.modules():
        for name, value in list(module._parameters.items()):  # noqa: SLF001  # torch has no other way
            if value is not None:
                plain = shared.setdefault(id(value), value.data)
                del module._parameters[name]  # noqa: SLF001
                module.register_buffer(name, plain)
    return earlier.eval()


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a tied one once, under its first name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: value.detach() for name, value in named}


def exit_layers(layers: Sequence[Layer], task: Task) -> list[Layer]:
    """The layers that get an exit: up to three evenly spaced in depth, never the last block.

    Raises: StepError for an output that an exit cannot give, and for a model without inner layers.
    """
    if len(task.shape) > 3 or (len(task.shape) == 3 and not task.has_classes):
        raise StepError(
            f"distil: self_from is 'exits' and output '{task.output}' is {list(task.shape)}; exits "
            'give one vector a sample, or one a token: set self_from = "earlier"'
        )
    inner = blocks(layers)
    if len(inner) < 2:
        groups: Mapping[tuple[int, ...], list[Layer]] = by_size(layers)
        inner = [layer for group in groups.values() for layer in group]
    if len(task.shape) == 3:
        tokens = task.positions
        inner = [layer for layer in inner if layer.size == tokens]
    candidates = inner[:-1]
    if not candidates:
        raise StepError(
            "distil: self_from is 'exits' and the student has no two inner layers to tell the "
            'deeper from the shallower one; set self_from = "earlier"'
        )
    count = min(len(candidates), MAX_EXITS)
    return [at_depth(candidates, number, count) for number in range(1, count + 1)]
