"""What of a model can be pruned: its groups, after a trial that the model runs without them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from edgekit.compress.example import Example, Run
from edgekit.compress.layer_paths import matching
from edgekit.compress.masks import copy_model
from edgekit.compress.pruning.adapt import Cut, cut_model
from edgekit.compress.pruning.channel_graph import ChannelGraph
from edgekit.compress.pruning.channel_trace import ChannelTrace
from edgekit.compress.pruning.coupling import Labels
from edgekit.compress.pruning.groups import Group, Kind, find_groups, trace_channels
from edgekit.core.errors import StepError
from edgekit.core.steps.prune import Unit

_KINDS: dict[Unit, tuple[Kind, ...]] = {
    "channels": ("channels", "ffn"),
    "heads": ("heads",),
    "ffn": ("ffn",),
    "embedding": ("embedding",),
    "layers": (),
}
_TRIALS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Prunable:
    """A traced model: a copy of the one that was given.

    example: the run that was traced. groups: what may go. notes: what may not, though it was
    asked for, and why.
    """

    model: nn.Module
    example: Example
    trace: ChannelTrace
    groups: tuple[Group, ...]
    notes: tuple[str, ...]

    @property
    def graph(self) -> ChannelGraph:
        """The channels of the model."""
        return self.trace.graph


def find_prunable(
    model: nn.Module, example: Example, units: Collection[Unit], ignore: Sequence[str] = ()
) -> Prunable:
    """The groups of these kinds that can be taken out of a model so that it still runs.

    Half of each is taken out of a copy, and every module must then give what it gave with these
    channels left out. Groups that a module cannot do without stay whole, and are named.
    Raises: StepError for a model that cannot be traced or has nothing of the kind, and for a
    pattern that matches nothing.
    """
    whole = _ignored(model, ignore)
    # Running it may change it (a cache that it keeps, statistics in training mode).
    model, run = copy_model(model).eval(), example.run
    trace = trace_channels(model, run, whole)
    notes = [
        f"operator '{item.operator}' in {_where(item.path)} has no rule: its channels stay whole"
        for item in dict.fromkeys(trace.graph.blocked)
    ]
    kinds = {kind for unit in units for kind in _KINDS[unit]}
    groups: tuple[Group, ...] = ()
    for _ in range(_TRIALS):
        groups = tuple(
            group
            for group in find_groups(trace.graph)
            if group.kind in kinds and len(group.units) > group.least
        )
        failures = cut_model(trace, model, run, _half(groups)).failures if groups else {}
        if not failures:
            break
        notes += _give_up(trace, model, run, groups, failures)
    found = Prunable(model=model, example=example, trace=trace, groups=groups, notes=tuple(notes))
    if not groups:
        raise StepError(_nothing(found, kinds, ignore))
    return found


def cut(prunable: Prunable, roots: Sequence[int]) -> Cut:
    """The model without these units.

    Raises: StepError when a module cannot be made to run without them.
    """
    found = cut_model(prunable.trace, prunable.model, prunable.example.run, roots)
    if found.failures:
        path, reason = next(iter(found.failures.items()))
        where = _where(path)
        raise StepError(
            f"prune: {where} does not run without the channels that should go: {reason}; add it to "
            "ignore, or prune another share"
        )
    return found


def _where(path: str) -> str:
    return f"module '{path}'" if path else "the model's own code"


def _ignored(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Modules that stay whole: those that a pattern matches, and all in them."""
    paths = [path for path, _ in model.named_modules() if path]
    matched = matching("prune: ignore", patterns, paths)
    return {
        path for path in paths if any(path == top or path.startswith(f"{top}.") for top in matched)
    }


def _half(groups: Iterable[Group]) -> list[int]:
    return [root for group in groups for root in group.units[1::2]]


def _give_up(
    trace: ChannelTrace,
    model: nn.Module,
    run: Run,
    groups: Sequence[Group],
    failures: Mapping[str, str],
) -> list[str]:
    """Fix the channels of modules that do not run without them; gives notes that say so."""
    notes = []
    for path, reason in failures.items():
        touched = _touching(trace, groups, path) if path else []
        touched = touched or [
            group for group in groups if cut_model(trace, model, run, _half([group])).failures
        ]
        # All of them fit, but not together: nothing tells them apart.
        for group in touched or groups:
            trace.coupling.fix(np.array(group.units))
        where = _where(path)
        names = ", ".join(f"'{group.path}'" for group in touched or groups)
        notes.append(f"{where} needs the width it has, so {names} stay whole: {reason}")
    return notes


def _touching(trace: ChannelTrace, groups: Sequence[Group], path: str) -> list[Group]:
    """Groups whose sizes the code of a module knows; heads alone where they are among them."""
    labels: list[Labels] = []
    for call in trace.graph.sized:
        if call.path == path:
            labels += [*call.before, *call.after]
    roots = trace.graph.roots_of(labels)
    touched = [group for group in groups if roots & set(group.units)]
    heads = [group for group in touched if group.kind == "heads"]
    return heads or touched


def _nothing(found: Prunable, kinds: Collection[Kind], ignore: Sequence[str]) -> str:
    there = sorted({group.kind for group in find_groups(found.graph)} - set(kinds))
    wanted = ", ".join(sorted(kinds)) or "what units names"
    because = "".join(f"; {note}" for note in found.notes[:3])
    hint = "; ignore less" if ignore else ""
    if there:
        hint += f"; {', '.join(there)} might go: name them in units"
    return f"prune: nothing of {wanted} may go{because}{hint or '; leave pruning out'}"
