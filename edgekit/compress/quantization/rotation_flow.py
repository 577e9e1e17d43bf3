"""What is known of channels that may be rotated together, while a model runs.

Tensors that are added channel by channel are of one space; whatever writes into it must be rotated
as whatever reads it. A norm's weight stands between the space and its readers, and goes into them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Leaf:
    """A parameter or buffer of the model."""

    name: str
    value: Tensor


@dataclass(slots=True, kw_only=True, eq=False)
class Space:
    """Channels of one or more tensors. name: of what writes into it first.

    is_stream: a norm reads it, or several layers write into it. keeps_ones: something takes its
    mean, or adds one number to all of its channels, which only a rotation that leaves (1, ..., 1)
    where it is allows.
    """

    name: str
    size: int
    is_stream: bool = False
    keeps_ones: bool = False
    obstacles: dict[str, None] = field(default_factory=dict)
    joined: "Space | None" = None

    @property
    def root(self) -> "Space":
        """The one that stands for all that were joined."""
        found = self
        while found.joined is not None:
            found = found.joined
        return found

    def join(self, other: "Space") -> None:
        """From here on the two are rotated alike."""
        one, two = self.root, other.root
        if one is two:
            return
        one.is_stream = True
        one.keeps_ones |= two.keeps_ones
        one.obstacles |= two.obstacles
        two.joined = one

    def block(self, why: str) -> None:
        """It cannot be rotated."""
        self.root.obstacles[why] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """The weight and bias of a norm, by which its readers are multiplied.

    plus: what is added to the weight before it is used (Gemma's norms have 1).
    """

    weight: Leaf | None
    bias: Leaf | None = None
    plus: float = 0.0

    @property
    def key(self) -> tuple[str, ...]:
        """The same for folds of the same parameters."""
        return tuple("" if leaf is None else leaf.name for leaf in (self.weight, self.bias))

    @property
    def told(self) -> str:
        """Its name for a reason."""
        leaf = self.weight or self.bias
        return "a norm" if leaf is None else leaf.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Where the channels of a space are in a tensor.

    axis: of the channels, counted from the end (-1 is the last). kind: the channels themselves, or
    the square of each. fold: what they were multiplied with.
    """

    space: Space
    axis: int
    kind: Literal["values", "squares"] = "values"
    fold: Fold | None = None

    @property
    def is_plain(self) -> bool:
        """Whether these are the space's own values."""
        return self.kind == "values" and self.fold is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One axis of a parameter whose places are channels of a space; fold: what weighs them."""

    axis: int
    space: Space
    fold: Fold | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What one call does with a parameter.

    sides: its axes that face spaces. beside: of a bias, its weight's name. is_fold: it is a norm's
    weight or bias.
    """

    leaf: Leaf
    sides: tuple[Side, ...] = ()
    beside: str = ""
    is_fold: bool = False

    def signature(self, spaces: Iterable[Space]) -> tuple[object, ...]:
        """The same for calls that need the same done to the parameter. spaces: that are rotated."""
        wanted = {id(space.root) for space in spaces}
        sides = frozenset(
            (side.axis, id(side.space.root), None if side.fold is None else side.fold.key)
            for side in self.sides
            if id(side.space.root) in wanted
        )
        return sides, self.beside, self.is_fold


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """One call of a weight that is multiplied with what comes in.

    inputs: the space that it reads, by the axis of its inputs. outputs: the space of what it gives.
    """

    weight: Leaf
    bias: Leaf | None
    inputs: Side | None
    outputs: Side
