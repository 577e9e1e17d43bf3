"""Every function that a model runs, with the module that runs it and how often it did before.

Hooks and the mode are there within a block alone. Functions that torch calls inside of another one
(the products within fused attention) are not seen; what the model's own code calls is.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

INPUT = "input"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One result in the run of a model: the module's path, the function, its how-manieth call.

    item: of several results. Inputs of the model are results of the function "input".
    """

    path: str
    function: str
    call: int
    item: int = 0

    def __str__(self) -> str:
        number = f" {self.call + 1}" if self.call else ""
        item = f" [{self.item}]" if self.item else ""
        return f"{self.path or 'model'} {self.function}{number}{item}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a function was given."""

    args: tuple[Any, ...]
    named: dict[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, however deep, in order."""
        return [item for item in tree_leaves((self.args, self.named)) if isinstance(item, Tensor)]


class FunctionCalls(TorchFunctionMode):
    """Follows one model; a subclass looks at results, and may give others in their place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._names = {module: path for path, module in model.named_modules()}
        self._paths: list[str] = []
        self.calls: Counter[tuple[str, str]] = Counter()

    def enter(self) -> None:
        """A run of the model begins."""

    def leave(self, output: Any) -> None:
        """A run of the model has come to its end."""

    def see(self, place: Place, given: Given, result: Any) -> Any:
        """What the model gets as the result of a function. place: of its first result."""
        raise NotImplementedError

    @contextmanager
    def following(self) -> Iterator[None]:
        """Within the block every run of the model is followed."""
        handles = [self._model.register_forward_pre_hook(self._start, with_kwargs=True)]
        for module in self._names:
            if module is not self._model:
                handles.append(module.register_forward_pre_hook(self._into))
                handles.append(module.register_forward_hook(self._out_of, always_call=True))
        handles.append(self._model.register_forward_hook(self._end, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function, and look at what it gives."""
        result = func(*args, **(kwargs or {}))
        key = (self._paths[-1], getattr(func, "__name__", ""))
        place = Place(*key, self.calls[key])
        self.calls[key] += 1
        return self.see(place, Given(args=args, named=kwargs or {}), result)

    def _start(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Any]:
        self.calls.clear()
        self._paths = [""]
        self.enter()
        leaves, tree = tree_flatten((args, kwargs))
        places = (Place("", INPUT, number) for number in range(len(leaves)))
        nothing = Given(args=(), named={})
        seen = [
            self.see(place, nothing, leaf) if isinstance(leaf, Tensor) else leaf
            for place, leaf in zip(places, leaves, strict=True)
        ]
        self.__enter__()  # type: ignore[no-untyped-call]  # torch's own
        found: tuple[Any, Any] = tree_unflatten(seen, tree)
        return found

    def _end(self, _: nn.Module, __: Any, output: Any) -> None:
        # Called after an error too, which is then on its way.
        if self._paths:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._paths = []
            self.leave(output)

    def _into(self, module: nn.Module, _: Any) -> None:
        if self._paths:
            self._paths.append(self._names[module])

    def _out_of(self, *_: Any) -> None:
        if len(self._paths) > 1:
            self._paths.pop()
