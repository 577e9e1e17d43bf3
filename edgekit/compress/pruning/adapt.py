"""Making a cut model run: sizes that the code of its modules holds follow what was cut.

Each module that gave an operator sizes is run by itself, on what it got when the whole model ran
without the channels that go, and must give what the whole module gave. Where it does not, its
attributes are set to the new sizes (head counts among them); where that does not do it, its code
becomes a block of calls with the new sizes in them. A module that nothing helps is named.
"""

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from edgekit.compress.example import Run, slow_attention
from edgekit.compress.masks import copy_model
from edgekit.compress.pruning.channel_trace import (
    MODEL_ERRORS,
    ChannelTrace,
    first_line,
)
from edgekit.compress.pruning.coupling import Labels
from edgekit.compress.pruning.masked_run import narrowed
from edgekit.compress.pruning.rewrite import UNWRITABLE, Captured, fit_sizes
from edgekit.compress.pruning.surgery import cut_
from edgekit.compress.pruning.transformer import as_head_attention
from edgekit.compress.thin_layers import replace_module

# Sums over fewer channels round otherwise; a wrong channel is wrong by its whole value.
TOLERANCE = 1e-3
_ATTRIBUTES = 6
_NEVER = re.compile(
    r"idx|index|layer|stride|kernel|pad|dilat|drop|vocab|max|token|position|seed|patch|image|window"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A model without some of its units.

    failures: modules that could not be made to run, with the reason; then the model does not run.
    rewritten: modules that became blocks of calls.
    """

    model: nn.Module
    failures: Mapping[str, str] = field(default_factory=dict)
    rewritten: tuple[str, ...] = ()


def cut_model(trace: ChannelTrace, model: nn.Module, run: Run, roots: Sequence[int]) -> Cut:
    """A copy of a model without these units, which gives what the model gives without them."""
    thin = copy_model(model).eval()
    cut_(thin, trace.graph, roots)
    owners = _owners(trace, roots)
    failures: dict[str, str] = {}
    rewritten: list[str] = []
    with trace.without(roots):
        captured, wanted = _captured(trace, model, run, owners)
        # Children first: a module is checked with its children in it.
        for path in sorted(captured, key=lambda path: (-path.count("."), not path, path)):
            fitter = _Fitter(trace, model, path, owners[path], captured[path])
            found, reason = fitter.fitted(thin.get_submodule(path))
            if reason:
                failures[path] = reason
            elif found is not thin.get_submodule(path):
                thin = replace_module(thin, path, found) if path else found
                rewritten.append(path)
    if not failures:
        failures = _difference(thin, run, wanted)
    return Cut(model=thin, failures=failures, rewritten=tuple(rewritten))


def _owners(trace: ChannelTrace, roots: Sequence[int]) -> dict[str, dict[int, set[int]]]:
    """Modules whose code gave sizes that change: by path, old sizes and what becomes of them."""
    graph = trace.graph
    table = graph.removal(roots)
    found: dict[str, dict[int, set[int]]] = {}

    def stays(labels: Labels) -> int:
        return int((~table[graph.coupling.roots(labels)]).sum())

    for call in graph.sized:
        sizes = [(len(labels), stays(labels)) for labels in (*call.before, *call.after)]
        if call.operator == "constant_pad_nd":  # what it adds is a size of its own
            sizes += [
                (len(after) - len(before), stays(after) - stays(before))
                for before, after in zip(call.before, call.after, strict=True)
            ]
        changed = [(old, new) for old, new in sizes if old != new]
        for old, new in changed:
            found.setdefault(call.path, {}).setdefault(old, set()).add(new)
    return found


def _captured(
    trace: ChannelTrace, model: nn.Module, run: Run, paths: Mapping[str, Any]
) -> tuple[dict[str, Captured], Any]:
    """What went into and came out of modules in a run without the channels that go."""
    found: dict[str, Captured] = {}
    entered: dict[str, Any] = {}

    def watch(stack: ExitStack, path: str, module: nn.Module) -> None:
        def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
            entered.setdefault(path, (frozen(args, trace), frozen(kwargs, trace)))

        def leave(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:  # noqa: ARG001
            if path not in found:
                given = entered[path]
                kept = frozen(output, trace)
                found[path] = Captured(args=given[0], kwargs=given[1], output=kept)

        stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(leave, with_kwargs=True).remove)

    with ExitStack() as stack:
        for path in paths:
            watch(stack, path, model.get_submodule(path))
        with torch.no_grad(), slow_attention(), trace.watching(model), trace:
            outputs = run(model)
    return found, outputs


def frozen(tree: Any, trace: ChannelTrace | None = None) -> Any:
    """Values as they are now: code that comes later may change them in place, or fill a cache."""

    def freeze(item: Any) -> Any:
        if isinstance(item, Tensor):
            copied = item.detach().clone()
            if trace is not None:
                trace.put(copied, trace.labels(item))
            return copied
        is_plain = isinstance(item, (bool, int, float, str, type(None))) or callable(item)
        return item if is_plain else copy.deepcopy(item)

    with _disable_current_modes():
        return tree_map(freeze, tree)


class _Fitter:
    """One module of a cut model that is to run."""

    def __init__(
        self,
        trace: ChannelTrace,
        model: nn.Module,
        path: str,
        sizes: Mapping[int, set[int]],
        captured: Captured,
    ) -> None:
        self._trace, self._model, self._path = trace, model, path
        self._sizes, self._captured = sizes, captured

    def fitted(self, module: nn.Module) -> tuple[nn.Module, str]:
        """The module, or what takes its place, and why nothing does ("" where something does)."""
        if isinstance(module, nn.MultiheadAttention):
            return self._as_heads(module)
        before = dict(vars(module))
        for attributes in self._attributes(module):
            for name, value in attributes.items():
                setattr(module, name, value)
            if self._fault(module) == "":
                return module, ""
            for name in attributes:
                setattr(module, name, before[name])
        fault = self._fault(module)
        return self._as_block(module, fault)

    def _as_heads(self, module: nn.MultiheadAttention) -> tuple[nn.Module, str]:
        whole = self._model.get_submodule(self._path)
        try:
            made = as_head_attention(module, whole.head_dim)  # type: ignore[arg-type]
        except TypeError as error:
            return module, str(error)
        return made, self._fault(made)

    def _as_block(self, module: nn.Module, fault: str) -> tuple[nn.Module, str]:
        if not self._path and len(self._captured.args) + len(self._captured.kwargs) != 1:
            return module, f"{fault}; the outermost module is rewritten only where it has one input"
        try:
            block = fit_sizes(self._trace, self._model, self._path, module, self._captured)
        except UNWRITABLE as error:
            return module, f"{fault}; its code cannot be rewritten: {first_line(error)}"
        heads = {name: new for name, new in self._renamed(block) if "head" in name}
        for name, value in heads.items():
            setattr(block, name, value)
        return block, self._fault(block)

    def _renamed(self, module: nn.Module) -> list[tuple[str, int]]:
        """Attributes that have one of the old sizes, and the new one."""
        found = []
        for name, value in vars(module).items():
            is_size = isinstance(value, int) and not isinstance(value, bool)
            if is_size and not name.startswith("_") and not _NEVER.search(name):
                found += [(name, new) for new in sorted(self._sizes.get(value, ()))]
        return sorted(found, key=lambda item: "head" not in item[0])

    def _attributes(self, module: nn.Module) -> Iterator[dict[str, int]]:
        """Attributes to set, most of them first, none of them last."""
        renamed = self._renamed(module)[:_ATTRIBUTES]
        for count in range(len(renamed), -1, -1):
            for chosen in itertools.combinations(renamed, count):
                if len(dict(chosen)) == count:
                    yield dict(chosen)

    def _fault(self, module: nn.Module) -> str:
        """What is wrong with what a module gives; "" for nothing."""
        captured, trace = self._captured, self._trace
        args, kwargs = narrowed(trace, captured.args), narrowed(trace, captured.kwargs)
        try:
            with torch.no_grad(), slow_attention():
                found = module(*frozen(args), **frozen(kwargs))
        except torch.OutOfMemoryError:
            raise
        except MODEL_ERRORS as error:
            return f"it fails with the new sizes: {first_line(error)}"
        return difference(found, narrowed(trace, captured.output))


def difference(found: Any, wanted: Any) -> str:
    """How results differ from what they should be; "" where they do not."""
    pairs = list(zip(_tensors(found), _tensors(wanted), strict=False))
    if len(_tensors(found)) != len(_tensors(wanted)):
        return "it gives another number of tensors"
    for one, other in pairs:
        if one.shape != other.shape:
            return f"it gives {list(one.shape)} where {list(other.shape)} is right"
        limit = TOLERANCE * max(1e-6, float(other.abs().max()) if other.numel() else 0)
        is_close = torch.allclose(
            one.float(), other.float(), rtol=TOLERANCE, atol=limit, equal_nan=True
        )
        if one.is_floating_point() and not is_close:
            return "it gives other values than without the channels that went"
    return ""


def _tensors(tree: Any) -> list[Tensor]:
    return [item for item in tree_leaves(tree) if isinstance(item, Tensor)]


def _difference(model: nn.Module, run: Run, wanted: Any) -> dict[str, str]:
    """What is wrong with the whole of a cut model."""
    entered = [""]
    try:
        with torch.no_grad(), slow_attention(), _following(model, entered):
            found = run(model)
    except MODEL_ERRORS as error:
        return {entered[-1]: f"it fails with the new sizes: {first_line(error)}"}
    fault = difference(found, wanted)
    return {"": fault} if fault else {}


def _forget(_: str) -> None:
    """A hook that gives something changes what the module gives."""


@contextmanager
def _following(model: nn.Module, entered: list[str]) -> Iterator[None]:
    """Within the block, the last path in ``entered`` is that of the module whose code runs."""
    with ExitStack() as stack:
        for path, module in model.named_modules():
            enter = module.register_forward_pre_hook(lambda *_, path=path: entered.append(path))
            leave = module.register_forward_hook(lambda *_: _forget(entered.pop()))
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        yield
