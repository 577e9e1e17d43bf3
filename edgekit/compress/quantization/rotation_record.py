"""What one run of a model has shown: spaces of channels, and all uses of its parameters."""

from collections import defaultdict
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from edgekit.compress.quantization.rescale_rules import Given
from edgekit.compress.quantization.rotation_flow import Flow, Leaf, Matrix, Side, Space, Use


class Record:
    """Grows while a model runs."""

    def __init__(self, model: nn.Module) -> None:
        self.spaces: list[Space] = []
        self.matrices: list[Matrix] = []
        self.uses: dict[str, list[Use]] = defaultdict(list)
        self._leaves: dict[int, Leaf] = {}
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            self._leaves.setdefault(id(value), Leaf(name=name, value=value))
        self._flows = WeakTensorKeyDictionary()
        # Casts of a parameter, and sums of one with a number.
        self._made = WeakTensorKeyDictionary()

    def place(self, value: Tensor, flow: Flow | None) -> None:
        """What is known of a tensor from here on; None for nothing."""
        if flow is not None:
            self._flows[value] = flow
        else:
            self._flows.pop(value, None)  # type: ignore[no-untyped-call]

    def derive(self, value: Tensor, leaf: Leaf, plus: float) -> None:
        """A tensor is a parameter in another type, or plus a number."""
        self._made[value] = leaf, plus

    def flow(self, value: Any) -> Flow | None:
        """What is known of a value."""
        found: Flow | None = None
        if isinstance(value, Tensor):
            found = self._flows.get(value)  # type: ignore[no-untyped-call]
        return found

    def leaf(self, value: Any) -> Leaf | None:
        """The parameter or buffer that a value is, in whatever type."""
        found, plus = self.origin(value)
        return found if plus == 0 else None

    def origin(self, value: Any) -> tuple[Leaf | None, float]:
        """The parameter or buffer that a value is made of, and what was added to it."""
        if not isinstance(value, Tensor):
            return None, 0.0
        if id(value) in self._leaves:
            return self._leaves[id(value)], 0.0
        made: tuple[Leaf, float] | None = self._made.get(value)  # type: ignore[no-untyped-call]
        return made or (None, 0.0)

    def use(self, use: Use) -> None:
        """One call uses a parameter."""
        self.uses[use.leaf.name].append(use)

    def use_fold(self, leaf: Leaf, flow: Flow) -> None:
        """A parameter is the weight or the bias of a norm."""
        self.use(Use(leaf=leaf, sides=(Side(axis=0, space=flow.space),), is_fold=True))

    def space(self, name: str, size: int) -> Space:
        """A new space. name: of what writes into it."""
        self.spaces.append(Space(name=name, size=size))
        return self.spaces[-1]

    def stop(self, given: Given, *, but: Tensor | None = None) -> None:
        """What comes in here cannot be rotated, nor can a parameter. but: one that can."""
        for item in given.tensors:
            if item is but:
                continue
            flow, (leaf, _) = self.flow(item), self.origin(item)
            if flow is not None:
                self.block(flow, given.name)
            elif leaf is not None:
                self.use(Use(leaf=leaf))

    def block(self, flow: Flow, reader: str) -> None:
        """These channels cannot be rotated, as a function reads them."""
        if flow.fold is None:
            flow.space.block(f"{reader} reads it as it is")
        else:
            flow.space.block(
                f"{reader} reads what {flow.fold.told} weighs, which must go into linear layers"
            )

    def source(self, value: Any) -> Flow | None:
        """The flow of a value; of a parameter by itself, a space of its own."""
        flow, leaf = self.flow(value), self.leaf(value)
        if flow is not None or leaf is None:
            return flow
        if not (leaf.value.is_floating_point() and leaf.value.ndim):
            return None
        space = self.space(leaf.name, leaf.value.shape[-1])
        self.use(Use(leaf=leaf, sides=(Side(axis=leaf.value.ndim - 1, space=space),)))
        return Flow(space=space, axis=-1)
