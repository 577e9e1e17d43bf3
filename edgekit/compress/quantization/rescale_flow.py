"""What is known of channels while a model runs: who gave them, and where they are in a tensor."""

from dataclasses import dataclass, field

from torch import Tensor

from edgekit.compress.quantization.rescale import Reader, Slot


@dataclass(slots=True, kw_only=True)
class Giver:
    """A layer that gives channels, as far as the run has come. held: those that must stay."""

    path: str
    channels: int
    held: Tensor
    weight: Slot | None = None
    norm: tuple[Tensor, Tensor, float] | None = None
    divided: list[Slot] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    why_not: str = ""

    def block(self, why: str, labels: Tensor | None = None) -> None:
        """These channels, or all, cannot be rescaled; the first reason counts."""
        self.why_not = self.why_not or why
        if labels is None:
            self.held.fill_(value=True)
        else:
            self.held[labels.flatten().cpu().long()] = True

    @property
    def is_blocked(self) -> bool:
        """Whether no channel may be rescaled."""
        return bool(self.held.all())

    @property
    def free(self) -> Tensor | None:
        """Which channels may be rescaled; None for all."""
        return ~self.held if bool(self.held.any()) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Which of a giver's channels each value of a tensor is. is_direct: nothing was done to them.

    labels: of the tensor's shape.
    """

    giver: Giver
    labels: Tensor
    is_direct: bool = False

    def block(self, why: str) -> None:
        """The channels that are here cannot be rescaled."""
        self.giver.block(why, self.labels)
