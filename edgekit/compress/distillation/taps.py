"""What goes through the inner layers of a model while it runs, caught by hooks that are gone after.

A ``Tap`` is a place: a module's output, its input, or the attention probabilities that it gives
beside its output. ``tapped`` catches them for one block of code; ``seen_layers`` runs a model once
and lists what every module gave.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from edgekit.compress.bench import Bench
from edgekit.compress.judge import restore_modes, training_modes

_CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)
_CHANNELS_SECOND = (
    nn.Conv1d,
    nn.Conv2d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
)
# Rows of attention probabilities sum to 1, in half precision to about so.
_SUM_TOLERANCE = 1e-2
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, slots=True)
class Tap:
    """A place in a model: the module's path, and which of its tensors."""

    path: str
    part: Literal["output", "input", "attention"] = "output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one module gave when the model ran.

    axis: that of the channels. is_listed: the module stands in a Sequential, ModuleList or
    ModuleDict. has_attention: it gave attention probabilities beside its output.
    is_last: what it gave is an output of the model.
    """

    path: str
    module: nn.Module
    shape: tuple[int, ...]
    axis: int
    is_listed: bool = False
    has_attention: bool = False
    is_last: bool = False

    @property
    def channels(self) -> int:
        """How many channels."""
        return self.shape[self.axis]

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels or tokens, without samples and channels; () for a vector."""
        return tuple(n for axis, n in enumerate(self.shape) if axis not in (0, self.axis))


Caught = dict[Tap, Tensor]


@contextmanager
def tapped(model: nn.Module, taps: Iterable[Tap]) -> Iterator[Caught]:
    """Catch what passes the taps within the block; a module that runs twice leaves its last.

    No hook is left behind. A tap that nothing passes is not among what was caught.
    """
    caught: Caught = {}
    with ExitStack() as hooks:
        for tap in dict.fromkeys(taps):
            handle = _hook(model.get_submodule(tap.path), tap, caught)
            hooks.callback(handle.remove)
        yield caught


def seen_layers(model: nn.Module, bench: Bench) -> list[Layer]:
    """What the modules of a model give for two samples, in the order in which they finish.

    Those that give no floats, or do not have the samples first, are left out.
    """
    found: dict[str, tuple[nn.Module, Tensor, bool]] = {}
    names = {module: path for path, module in model.named_modules() if path}

    def see(module: nn.Module, _: Any, given: Any) -> None:
        tensor = first_tensor(given)
        if tensor is not None and tensor.ndim >= 2 and tensor.is_floating_point():
            found.pop(names[module], None)
            found[names[module]] = (module, tensor, attention_in(given) is not None)

    modes, inputs = training_modes(model), bench.example(2)
    samples = len(next(iter(inputs.values())))
    model.eval()
    with ExitStack() as hooks:
        hooks.callback(restore_modes, modes)
        for module in names:
            handle = module.register_forward_hook(see)
            hooks.callback(handle.remove)
        with torch.no_grad():
            outputs = bench.call(model, inputs)
    ends = {(value.data_ptr(), value.shape) for value in outputs.values()}
    layers = _described(model, found, ends)
    return [layer for layer in layers if layer.shape[0] == samples]


def first_tensor(given: Any) -> Tensor | None:
    """The first tensor of what a module returned: itself, or one of several."""
    return next((item for item in tree_leaves(given) if isinstance(item, Tensor)), None)


def attention_in(given: Any) -> Tensor | None:
    """Attention probabilities among what a module returned: square, and rows that sum to 1."""
    if isinstance(given, Tensor):
        return None
    tensors = [item for item in tree_leaves(given) if isinstance(item, Tensor)]
    return next((item for item in tensors[1:] if _is_attention(item)), None)


def channels_last(features: Tensor, axis: int) -> Tensor:
    """Features with the channels at the end. Shapes: (n, ..., channels)."""
    return features.movedim(axis, -1)


def _hook(module: nn.Module, tap: Tap, caught: Caught) -> torch.utils.hooks.RemovableHandle:
    def keep_output(_: nn.Module, __: Any, given: Any) -> None:
        tensor = first_tensor(given) if tap.part == "output" else _second_square(given)
        if tensor is not None:
            caught[tap] = tensor

    def keep_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensor = first_tensor((args, kwargs))
        if tensor is not None:
            caught[tap] = tensor

    if tap.part == "input":
        return module.register_forward_pre_hook(keep_input, with_kwargs=True)
    return module.register_forward_hook(keep_output)


def _second_square(given: Any) -> Tensor | None:
    """Attention of a module that is known to give it: dropout may have changed its sums."""
    tensors = [item for item in tree_leaves(given) if isinstance(item, Tensor)]
    return next((item for item in tensors[1:] if _is_square(item)), None)


def _is_square(value: Tensor) -> bool:
    return value.ndim in (3, 4) and value.is_floating_point() and value.shape[-1] == value.shape[-2]


def _is_attention(value: Tensor) -> bool:
    if not _is_square(value):
        return False
    sums = value.float().sum(dim=-1)
    return bool((value >= 0).all()) and bool(((sums - 1).abs() < _SUM_TOLERANCE).all())


def _described(
    model: nn.Module,
    found: dict[str, tuple[nn.Module, Tensor, bool]],
    ends: set[tuple[int, torch.Size]],
) -> list[Layer]:
    layers: list[Layer] = []
    for path, (module, tensor, has_attention) in found.items():
        layer = Layer(
            path=path,
            module=module,
            shape=tuple(tensor.shape),
            axis=_channel_axis(path, module, tensor, layers),
            is_listed=isinstance(model.get_submodule(path.rpartition(".")[0]), _LISTS),
            has_attention=has_attention,
            is_last=(tensor.data_ptr(), tensor.shape) in ends,
        )
        layers.append(layer)
    return layers


def _channel_axis(path: str, module: nn.Module, tensor: Tensor, before: list[Layer]) -> int:
    """Where the channels are: torch's layers know; others as the last layer of that shape has them.

    Of a block that is one of its own layers. Where there is none, pictures have them second
    (n, channels, height, width), sequences last.
    """
    if isinstance(module, _CHANNELS_LAST):
        return tensor.ndim - 1
    if tensor.ndim == 2 or isinstance(module, _CHANNELS_SECOND):
        return 1
    is_leaf = not list(module.children())
    for layer in reversed(before):
        is_near = is_leaf or layer.path.startswith(f"{path}.")
        if is_near and layer.shape == tuple(tensor.shape):
            return layer.axis
    return 1 if tensor.ndim == 4 else tensor.ndim - 1
