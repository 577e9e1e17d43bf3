"""Structured pruning of channels, neurons, heads and widths, as a function of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from edgekit.compress.count import Count, count_run
from edgekit.compress.example import as_example
from edgekit.compress.pruning.goal import (
    Costs,
    Key,
    Reached,
    Shares,
    fill_up,
    kept_counts,
    least_ratio,
    units_to_remove,
)
from edgekit.compress.pruning.groups import Group, removed_from
from edgekit.compress.pruning.importance import IN_LOSS, Losses, score_units
from edgekit.compress.pruning.own_shares import own_shares
from edgekit.compress.pruning.prunable import Prunable, cut, find_prunable
from edgekit.compress.pruning.surgery import kept_indices, narrow
from edgekit.core.errors import StepError
from edgekit.core.steps.prune import Goal, Prune, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """A model with less in it.

    removed: numbers of output channels (rows) that went, by parameter name; of dropped layers, the
    module paths that went, as the original had them. masks: those that were given, for the
    weights that stay. rewritten: modules that became blocks of calls, since their code holds sizes.
    """

    model: nn.Module
    before: Count
    after: Count
    removed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    reached: tuple[Reached, ...] = ()
    rewritten: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """How far to prune in one go.

    limits: the most of each goal that may stay; none takes what the settings say. progress: what
    part of the shares that the settings name goes now. multiple: what channel counts should be
    multiples of. initial: units of each group before earlier rounds.
    """

    limits: Mapping[Goal, float] = field(default_factory=dict)
    progress: float = 1.0
    multiple: int = 1
    initial: Mapping[Key, int] = field(default_factory=dict)


def prune_channels(  # a model, how to run it, what to do, and what it may look at
    model: nn.Module,
    example_inputs: Any,
    settings: Prune,
    *,
    losses: Losses | None = None,
    masks: Mapping[str, Tensor] | None = None,
    multiple: int = 1,
    seed: int = 0,
) -> Pruned:
    """A copy of a model without the units that matter least; the model itself stays as it is.

    example_inputs: a tensor, a tuple of arguments, a dict of them, or an ``example.Example``.
    multiple: what channel counts become multiples of, where ``settings.round_to`` is 0. Layers are
    not dropped here (``depth.drop_layers``).
    Raises: StepError where nothing can go, a pattern matches nothing, or a goal cannot be met.
    """
    units = asked_units(settings)
    prunable = find_prunable(model, as_example(example_inputs), units, settings.ignore)
    pruned = prune_found(
        prunable,
        settings,
        Aim(multiple=settings.round_to or multiple),
        losses=losses,
        masks=masks,
        seed=seed,
    )
    refuse_unchanged(pruned, settings)
    return pruned


def refuse_unchanged(pruned: Pruned, settings: Prune) -> None:
    """Refuse a pruning that took nothing out.

    Raises: StepError.
    """
    if pruned.removed or pruned.dropped:
        return
    asked = (
        f"keep is {settings.keep:,.0f} {settings.goal}"
        if settings.keep
        else (f"the ratio is {settings.ratio:g}")
    )
    raise StepError(
        f"prune: nothing goes: {asked}, and the model has {pruned.before.parameters:,} parameters "
        f"and {pruned.before.macs:,} MACs, in groups that are rounded to multiples; ask for more "
        "to go, or lower round_to"
    )


def prune_heads(
    model: nn.Module, example_inputs: Any, ratio: float, *, ignore: tuple[str, ...] = ()
) -> Pruned:
    """A copy of a transformer without this share of the attention heads of every layer.

    Heads that share keys and values go together with them.
    """
    settings = Prune(units=("heads",), ratio=ratio, ignore=ignore)
    return prune_channels(model, example_inputs, settings)


def asked_units(settings: Prune) -> tuple[Unit, ...]:
    """The units that may go; those with a share of their own are among them."""
    extra: list[Unit] = []
    if settings.head_ratio is not None:
        extra.append("heads")
    if settings.ffn_ratio is not None:
        extra.append("ffn")
    return tuple(dict.fromkeys((*settings.units, *extra)))


def prune_found(  # as prune_channels, on a model that was traced
    prunable: Prunable,
    settings: Prune,
    aim: Aim,
    *,
    losses: Losses | None = None,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Pruned:
    """``prune_channels`` on a model whose groups are known; it may be that nothing has to go."""
    model, graph = prunable.model, prunable.graph
    scores = score_units(settings.importance, model, prunable.groups, losses=losses, seed=seed)
    groups = [group for group in prunable.groups if group.key in scores]
    roots, reached = _Chooser(prunable, groups, scores, settings, aim).choose()
    found = cut(prunable, roots)
    kept = kept_indices(graph, roots)
    before, after = (count_run(item, prunable.example) for item in (model, found.model))
    consumed = {slot for group in groups for slot in group.consumed}
    return Pruned(
        model=found.model,
        before=before,
        after=after,
        removed=removed_from(graph, roots, consumed),
        masks={
            name: narrow(mask, kept[name]) if name in kept else mask
            for name, mask in (masks or {}).items()
        },
        reached=reached,
        rewritten=found.rewritten,
        notes=(*prunable.notes, *_rounding_notes(groups, aim.multiple)),
    )


class _Chooser:
    """Chooses the units that go."""

    def __init__(
        self,
        prunable: Prunable,
        groups: Sequence[Group],
        scores: Mapping[Key, Tensor],
        settings: Prune,
        aim: Aim,
    ) -> None:
        self._groups, self._scores, self._settings, self._aim = groups, scores, settings, aim
        self._costs = Costs(prunable.graph, prunable.model, samples=prunable.example.samples)
        self._own = own_shares(prunable.model, groups, settings)

    def choose(self) -> tuple[list[int], tuple[Reached, ...]]:
        """The roots of units that go, and what is left of each goal.

        Raises: StepError for a goal out of reach, with the least that can be reached.
        """
        settings, aim = self._settings, self._aim
        if settings.goal == "channels" and not (settings.keep or aim.limits):
            roots = self._removed(self._kept(settings.ratio * aim.progress))
            left = self._cost_of("channels", roots)
            return roots, (Reached(goal="channels", wanted=left, reached=left),)
        now = self._cost_of(settings.goal, [])
        limits = aim.limits or {settings.goal: settings.keep or now * (1 - settings.ratio)}
        roots = self._within(limits)
        return roots, tuple(
            Reached(goal=goal, wanted=limit, reached=self._cost_of(goal, roots))
            for goal, limit in limits.items()
        )

    def _within(self, limits: Mapping[Goal, float]) -> list[int]:
        def excess(roots: Sequence[int]) -> float:
            return max(self._cost_of(goal, roots) / limit for goal, limit in limits.items())

        if excess([]) <= 1:
            return []
        ratio = least_ratio(lambda ratio: excess(self._removed(self._kept(ratio))))
        if ratio is None:
            raise StepError(self._out_of_reach(limits))
        counts = fill_up(
            [group for group in self._groups if group.key not in self._own],
            self._kept(ratio),
            self._aim.multiple,
            lambda kept: excess(self._removed(kept)) <= 1,
        )
        return self._removed(counts)

    def _out_of_reach(self, limits: Mapping[Goal, float]) -> str:
        roots = self._removed(self._kept(1.0))
        asked = ", ".join(f"{limit:,.0f} {goal}" for goal, limit in limits.items())
        least = ", ".join(f"{self._cost_of(goal, roots):,.0f} {goal}" for goal in limits)
        return (
            f"prune: {asked} cannot be reached: with all that may go gone, {least} stay; ask for "
            "that much or more, or let more go (units, ignore, round_to, drop_layers)"
        )

    def _kept(self, ratio: float) -> dict[Key, int]:
        shares = Shares(
            ratio=ratio,
            own={key: share * self._aim.progress for key, share in self._own.items()},
            is_global=self._settings.is_global,
            multiple=self._aim.multiple,
            initial=self._aim.initial,
        )
        is_in_loss = self._settings.importance in IN_LOSS
        return kept_counts(self._groups, self._scores, shares, is_in_loss=is_in_loss)

    def _removed(self, kept: Mapping[Key, int]) -> list[int]:
        return units_to_remove(self._groups, self._scores, kept)

    def _cost_of(self, goal: Goal, roots: Sequence[int]) -> float:
        if goal != "channels":
            return self._costs.of(goal, roots)
        gone = set(roots)
        return sum(
            group.width * sum(root not in gone for root in group.units) for group in self._groups
        )


def _rounding_notes(groups: Sequence[Group], multiple: int) -> list[str]:
    small = [
        group.path
        for group in groups
        if group.kind != "heads" and multiple > 1 and group.channels < 2 * multiple
    ]
    if not small:
        return []
    shown = ", ".join(f"'{path}'" for path in dict.fromkeys(small[:3]))
    return [
        f"groups with fewer than {2 * multiple} channels: {len(small)} ({shown}): they are rounded "
        f"to a smaller multiple than {multiple}"
    ]
