"""Every function that torch runs, seen with what it was given and what it gives."""

from collections.abc import Callable, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

from edgekit.compress.quantization.rescale_rules import Given


class FunctionTrace(TorchFunctionMode):
    """Within its block functions run as they are; a subclass looks at each."""

    def see(self, func: Callable[..., Any], given: Given, result: Any) -> None:
        """What a function gave."""
        raise NotImplementedError

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function, and look at it."""
        given = Given(name=getattr(func, "__name__", ""), args=args, named=kwargs or {})
        result = func(*args, **given.named)
        self.see(func, given, result)
        return result
