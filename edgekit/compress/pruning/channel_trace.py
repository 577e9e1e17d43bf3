"""One run of a model in which every operator says which channels it couples.

torch-pruning 1.6.1 guesses from sizes alone what a reshape, a split or a concatenation does to
channels: channel shuffles, CSP splits and QKV in chunks end in an IndexError, padded shortcuts are
taken for elementwise ones, heads must be named by hand, and a Llama of two layers takes it more
than a minute (2026-11). Here each operator that torch really runs maps labels of its inputs to
labels of its outputs, so a slice is a slice and a shuffle a shuffle. What an operator does that has
no rule is not guessed: its channels are fixed, and it is named. The groups are torch-pruning's
where that gets them right; the tests compare them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from edgekit.compress.example import Run, slow_attention
from edgekit.compress.pruning.channel_graph import ChannelGraph, Flags, Site, SizedCall, Work
from edgekit.compress.pruning.channel_rules import apply_rule
from edgekit.compress.pruning.coupling import FIXED, Coupling, Labels, fixed
from edgekit.compress.pruning.masked_run import run_masked
from edgekit.core.errors import StepError

# Norms that know their width by a plain attribute.
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
# What a model's own code and torch raise on inputs that do not suit it.
MODEL_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    NotImplementedError,
)


@dataclass(slots=True)
class _Frame:
    """One call of one module."""

    path: str
    kind: str
    call: int
    is_norm: bool = False
    ordinal: int = 0


class ChannelTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Labels of every tensor while a model runs; use it in a ``with`` block around the run."""

    def __init__(self, model: nn.Module, choices: Mapping[Site, int] | None = None) -> None:
        """choices: which way to go at places where channels could be kept in more than one."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = ChannelGraph()
        self.choices = dict(choices or {})
        self.operator = ""
        self._labels = WeakTensorKeyDictionary()
        self._origins = WeakTensorKeyDictionary()
        self._fresh: dict[tuple[str, int, int, int], Labels] = {}
        self._frames = [_Frame("", type(model).__name__, 0)]
        self._calls: dict[str, int] = {}
        self._drawn = 0
        self._removed: Flags | None = None
        for name, value in named_tensors(model):
            self._start(name, value)
        self._weights_end = self.coupling.count

    def _start(self, name: str, value: Tensor) -> None:
        coupling = self.graph.coupling
        has_channels = value.is_floating_point()
        found = [
            coupling.fresh(size) if has_channels and size > 1 else fixed(size)
            for size in value.shape
        ]
        self._labels[value] = found
        self._origins[value] = (name, tuple(range(value.ndim)))
        self.graph.slots |= {(name, axis): item for axis, item in enumerate(found)}

    @property
    def coupling(self) -> Coupling:
        """The labels' classes."""
        return self.graph.coupling

    @property
    def path(self) -> str:
        """The module whose code runs."""
        return self._frames[-1].path

    @property
    def is_norm(self) -> bool:
        """Whether the module whose code runs is a norm of torch's, which can be told its width."""
        return self._frames[-1].is_norm

    def labels(self, value: Tensor) -> list[Labels]:
        """The labels of a tensor, one array a dimension; fixed where nothing is known."""
        found: list[Labels] | None = self._labels.get(value)  # type: ignore[no-untyped-call]
        if found is None or [len(item) for item in found] != list(value.shape):
            return [fixed(size) for size in value.shape]
        return list(found)

    def put(self, value: Tensor, labels: Sequence[Labels]) -> None:
        """Say what the labels of a tensor are."""
        self._labels[value] = list(labels)

    def origin(self, value: Tensor) -> tuple[str, tuple[int, ...]] | None:
        """The parameter that a tensor is a view of, and which of its axes each axis is."""
        found: tuple[str, tuple[int, ...]] | None = self._origins.get(value)  # type: ignore[no-untyped-call]
        return found

    def put_origin(self, value: Tensor, name: str, axes: tuple[int, ...]) -> None:
        """Say of which parameter a tensor is a view."""
        self._origins[value] = (name, axes)

    def fresh(self, count: int) -> Labels:
        """Labels coupled with nothing; the same ones when the same call is traced again."""
        frame = self._frames[-1]
        key = (frame.path, frame.call, frame.ordinal, self._drawn)
        self._drawn += 1
        if key not in self._fresh:
            self._fresh[key] = self.coupling.fresh(count)
        return self._fresh[key]

    def choose(self, sizes: tuple[int, ...], default: int, labels: Labels | None = None) -> int:
        """Which of several ways to keep channels is taken here."""
        site = (self._frames[-1].kind, self.operator, sizes)
        self.graph.sites.setdefault(site, default)
        if labels is not None:
            known = self.graph.site_labels.get(site, fixed(0))
            self.graph.site_labels[site] = np.concatenate([known, labels])
        return self.choices.get(site, default)

    def is_weight(self, labels: Labels) -> bool:
        """Whether any of these channels is one of a parameter or buffer, and might go."""
        roots = self.coupling.roots(labels)  # the lowest label of a class, and weights came first
        return bool(((roots != FIXED) & (roots < self._weights_end)).any())

    def consume(self, value: Tensor, axis: int) -> None:
        """Note that a dimension of a weight ends in a sum."""
        origin = self.origin(value)
        if origin is not None:
            self.graph.consumed.add((origin[0], origin[1][axis]))

    def tell_sized(self, before: Sequence[Labels], after: Sequence[Labels]) -> None:
        """Note that the running module's code gave this operator sizes."""
        call = SizedCall(
            path=self.path, operator=self.operator, before=tuple(before), after=tuple(after)
        )
        self.graph.sized.append(call)

    def work(self, constant: int, *labels: Labels) -> None:
        """Note multiply-accumulates."""
        self.graph.work.append(Work(constant=constant, labels=labels))

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],  # torch calls it so
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self._frames[-1].ordinal += 1
        self._drawn = 0
        self.operator = func.overloadpacket.__name__
        result = self.execute(func, args, kwargs or {})
        apply_rule(self, func, args, kwargs or {}, result)
        return result

    def execute(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run an operator; without the channels that are left out, where there are any."""
        if self._removed is None:
            return func(*args, **kwargs)
        return run_masked(self, func, args, kwargs)

    def stays(self, labels: Labels) -> Flags:
        """Which positions are not left out."""
        roots = self.coupling.roots(labels)
        if self._removed is None:
            return np.ones(len(roots), dtype=bool)
        is_known = roots < len(self._removed)
        return ~(is_known & self._removed[np.where(is_known, roots, 0)])

    @contextmanager
    def without(self, roots: Sequence[int]) -> Iterator[None]:
        """Within the block the model runs as if these channels were gone."""
        graph, self._removed = self.graph, self.graph.removal(roots)
        # What another run tells of itself is known already.
        self.graph = replace(graph, work=[], sized=[], blocked=[])
        self._calls, self._frames[0].ordinal = {}, 0
        self.coupling.is_frozen = True
        try:
            yield
        finally:
            self.coupling.is_frozen = False
            self.graph, self._removed = graph, None

    @contextmanager
    def replaying(self, model: nn.Module, path: str) -> Iterator[None]:
        """Within the block it is this module's code that runs, call by call, once more."""
        self._calls = {}
        self._frames.append(_Frame(path, type(model.get_submodule(path)).__qualname__, 0))
        try:
            with torch.no_grad(), slow_attention(), self.watching(model):
                yield
        finally:
            self._frames.pop()

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Within the block it is known which module of the model runs."""
        with ExitStack() as stack:
            for path, module in model.named_modules():
                if path:
                    self._watch(stack, path, module)
            yield

    def _watch(self, stack: ExitStack, path: str, module: nn.Module) -> None:
        def enter(module: nn.Module, *_: Any) -> None:
            call = self._calls[path] = self._calls.get(path, -1) + 1
            is_norm = isinstance(module, NORMS)
            self._frames.append(_Frame(path, type(module).__qualname__, call, is_norm))

        def leave(*_: Any) -> None:
            self._frames.pop()

        before = module.register_forward_pre_hook(enter)
        after = module.register_forward_hook(leave)
        stack.callback(before.remove)
        stack.callback(after.remove)


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers, each once under its first name."""
    return [*model.named_parameters(), *model.named_buffers()]


def trace_once(trace: ChannelTrace, model: nn.Module, run: Run) -> Any:
    """Run a model under a trace, in eval mode and without gradients; gives its outputs.

    Raises: StepError when the model's own code fails, with the module and the operator.
    """
    try:
        with torch.no_grad(), slow_attention(), trace.watching(model), trace:
            outputs = run(model)
    except MODEL_ERRORS as error:
        where = f"module '{trace.path}'" if trace.path else "the model's own code"
        raise StepError(
            f"prune: the model cannot be traced: {where} failed at operator "
            f"'{trace.operator}': {type(error).__name__}: {first_line(error)}; run the model on "
            "its example inputs by hand, or leave pruning out"
        ) from error
    for value in tree_leaves(outputs):
        if isinstance(value, Tensor):
            for labels in trace.labels(value):
                trace.coupling.fix(labels)
    return outputs


def first_line(error: BaseException) -> str:
    """The first sentence of an error's message."""
    return (str(error).splitlines() or [""])[0].partition(". ")[0]
