"""Whole layers out of stacks of repeated blocks: those that change what goes through them least."""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from edgekit.compress.example import Example, as_example, slow_attention
from edgekit.compress.judge import restore_modes, training_modes
from edgekit.compress.masks import copy_model
from edgekit.compress.pruning.adapt import frozen
from edgekit.compress.pruning.channel_trace import MODEL_ERRORS, first_line
from edgekit.core.errors import StepError
from edgekit.core.steps.prune import Prune

_COUNT_NAMES = re.compile(r"(num|n)_?(hidden_)?(layers?|blocks?)$|^depth$|^layers?_?(num|count)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A repeated block that could go. influence: how much it changes what goes through it."""

    path: str
    influence: float

    @property
    def stack(self) -> str:
        """The list or sequence that it is in."""
        return self.path.rpartition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shallower:
    """A model without some of its blocks.

    dropped: their paths in the model before. renamed: names of parameters and buffers now, by
    their names before.
    """

    model: nn.Module
    dropped: tuple[str, ...]
    renamed: Mapping[str, str]


def find_blocks(model: nn.Module, examples: Iterable[Example]) -> tuple[Block, ...]:
    """Blocks of a model's lists and sequences that could go, those that matter least first.

    A block can go if it is called once, gives back the shape that it gets, and has a way around
    its own weights (a residual connection). Its influence is one minus the mean cosine between
    what comes in and what goes out, over all positions of all samples.
    examples: runs of the model on calibration data, one batch each.
    Source: Men et al. 2024, ShortGPT, arXiv:2403.03853, equation 1.
    """
    watched = {path: _Watched() for path in _candidates(model)}
    with ExitStack() as stack, torch.no_grad(), slow_attention():
        for path, seen in watched.items():
            hook = model.get_submodule(path).register_forward_hook(seen.see, with_kwargs=True)
            stack.callback(hook.remove)
        modes = training_modes(model)
        stack.callback(restore_modes, modes)
        model.eval()
        for example in examples:
            for seen in watched.values():
                seen.calls = 0
            example.run(model)
    found = [
        Block(path=path, influence=seen.influence)
        for path, seen in watched.items()
        if seen.keeps_shape and has_shortcut(model.get_submodule(path), seen.args, seen.kwargs)
    ]
    inner = {
        item.path for item in found for other in found if item.path.startswith(f"{other.path}.")
    }
    kept = [item for item in found if item.path not in inner]
    return tuple(sorted(kept, key=lambda item: (item.influence, item.path)))


def has_shortcut(block: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether something of a block's input comes through when all its weight matrices are zero."""
    bare = copy.deepcopy(block)
    with torch.no_grad(), slow_attention():
        for parameter in bare.parameters():
            if parameter.ndim > 1:
                parameter.zero_()
        first = _first(args, kwargs)
        other = torch.flip(first, dims=(-1,)) + 1
        moved = tree_map(lambda item: other if item is first else item, (args, dict(kwargs)))
        outputs = [
            _tensor(bare(*frozen(given[0]), **frozen(given[1])))
            for given in ((args, kwargs), moved)
        ]
    return not torch.equal(*outputs)


def drop_layers(model: nn.Module, examples: Any, count: int) -> Shallower:
    """A copy of a model without so many of its repeated blocks; the model itself stays as it is.

    examples: inputs to run it on, as ``channels.prune_channels`` takes them. Every list keeps a
    block. Lists of one kind of block are numbered anew; sequences keep their names. Attributes that
    count the layers follow.
    Raises: StepError where fewer can go, or the model does not run without them.
    """
    example = as_example(examples)
    chosen = choose_blocks(model, find_blocks(model, [example]), count)
    return without_blocks(model, [block.path for block in chosen], example)


def asked_blocks(
    model: nn.Module, examples: Iterable[Example], settings: Prune
) -> tuple[Block, ...]:
    """The blocks that ``drop_layers`` or ``depth_ratio`` asks for; none that holds what is ignored.

    Raises: StepError where fewer can go than ``drop_layers``.
    """
    blocks = [
        block
        for block in find_blocks(model, examples)
        if not any(_is_in(model, block, pattern) for pattern in settings.ignore)
    ]
    if settings.drop_layers:
        return choose_blocks(model, blocks, settings.drop_layers)
    can_go = droppable(model, blocks)
    # A share of thirds must not lose one to rounding.
    return can_go[: int(settings.depth_ratio * len(can_go) + 1e-9)]


def _is_in(model: nn.Module, block: Block, pattern: str) -> bool:
    """Whether a pattern names a block or something in it."""
    inner = (name for name, _ in model.get_submodule(block.path).named_modules())
    return any(re.search(pattern, f"{block.path}.{name}".rstrip(".")) for name in inner)


def droppable(model: nn.Module, blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Those of least influence first, as long as every list keeps one."""
    left = {block.stack: len(model.get_submodule(block.stack)) for block in blocks}  # type: ignore[arg-type]
    kept = []
    for block in blocks:
        if left[block.stack] > 1:
            left[block.stack] -= 1
            kept.append(block)
    return tuple(kept)


def choose_blocks(model: nn.Module, blocks: Sequence[Block], count: int) -> tuple[Block, ...]:
    """The blocks that go: those of least influence, as long as their list keeps one.

    Raises: StepError where fewer can go.
    """
    chosen = droppable(model, blocks)[:count]
    if len(chosen) < count:
        raise StepError(
            f"prune: drop_layers is {count}, and {len(chosen)} layers may go: blocks of a list or "
            "sequence that keep the shape of what goes through them, with a way around their "
            f"weights, and one stays in each; set drop_layers to {len(chosen)} or less"
        )
    return chosen


def without_blocks(model: nn.Module, paths: Sequence[str], example: Example) -> Shallower:
    """A copy of a model without these blocks.

    Raises: StepError where the model does not run without them.
    """
    thin = copy_model(model).eval()
    before = {id(value): name for name, value in _named(thin)}
    for stack in dict.fromkeys(path.rpartition(".")[0] for path in paths):
        gone = [path.rpartition(".")[2] for path in paths if path.rpartition(".")[0] == stack]
        _drop_(thin, stack, gone)
    try:
        with torch.no_grad():
            example.run(thin)
    except MODEL_ERRORS as error:
        raise StepError(
            f"prune: the model does not run without {', '.join(paths)}: {first_line(error)}; set "
            "drop_layers to 0, or add them to ignore"
        ) from error
    renamed = {before[id(value)]: name for name, value in _named(thin) if id(value) in before}
    return Shallower(model=thin, dropped=tuple(paths), renamed=renamed)


def _named(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _candidates(model: nn.Module) -> list[str]:
    found = []
    for path, stack in model.named_modules():
        if not isinstance(stack, (nn.ModuleList, nn.Sequential)) or len(stack) < 2:
            continue
        for name, child in stack.named_children():
            has_weights = any(True for _ in child.parameters())
            has_parts = any(True for _ in child.children())
            if has_weights and has_parts and not isinstance(child, nn.Sequential):
                found.append(f"{path}.{name}" if path else name)
    return found


class _Watched:
    """What was seen of one block."""

    def __init__(self) -> None:
        self.calls = 0
        self.keeps_shape = False
        self.args: Any = ()
        self.kwargs: Any = {}
        self._cosines, self._positions = 0.0, 0
        self._is_bad = False

    def see(self, _: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Look at one call."""
        self.calls += 1
        before, after = _first(args, kwargs), _tensor(output)
        is_same = before is not None and after is not None and before.shape == after.shape
        self._is_bad |= not is_same or self.calls > 1
        self.keeps_shape = not self._is_bad
        if not self.keeps_shape:
            return
        if not self._positions:
            self.args, self.kwargs = frozen(args), frozen(kwargs)
        cosines = functional.cosine_similarity(
            before.double(), after.double(), dim=1 if before.ndim == 4 else -1
        )
        self._cosines += float(cosines.sum())
        self._positions += cosines.numel()

    @property
    def influence(self) -> float:
        """One minus the mean cosine."""
        return 1 - self._cosines / max(self._positions, 1)


def _first(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The first tensor that a block was given."""
    given = [item for item in (*args, *kwargs.values()) if isinstance(item, Tensor)]
    return given[0] if given and given[0].is_floating_point() else None


def _tensor(output: Any) -> Any:
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    return first if isinstance(first, Tensor) else None


def _drop_(model: nn.Module, stack: str, gone: Sequence[str]) -> None:
    holder: Any = model.get_submodule(stack)
    old = len(holder)
    for name in gone:
        delattr(holder, name)
    if isinstance(holder, nn.ModuleList):
        _renumber_(holder)
    parent = model.get_submodule(stack.rpartition(".")[0])
    for module in (parent, *model.modules()):
        for holder_of_count in (module, getattr(module, "config", None)):
            _recount_(holder_of_count, old, old - len(gone), is_parent=module is parent)


def _renumber_(holder: nn.ModuleList) -> None:
    """Numbers without gaps; blocks that know their own number learn the new one."""
    children = list(holder.named_children())
    for name, _ in children:
        delattr(holder, name)
    for number, (name, child) in enumerate(children):
        holder.add_module(str(number), child)
        for module in child.modules():
            if getattr(module, "layer_idx", None) == int(name):
                module.layer_idx = number  # type: ignore[assignment]


def _recount_(holder: Any, old: int, new: int, *, is_parent: bool) -> None:
    if holder is None or (isinstance(holder, nn.Module) and not is_parent):
        return
    for name, value in list(vars(holder).items()):
        if _COUNT_NAMES.search(name) and value == old and not isinstance(value, bool):
            setattr(holder, name, new)
