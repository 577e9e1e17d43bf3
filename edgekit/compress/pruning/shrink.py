"""A smaller model made of a larger one: narrower and shallower, with its weights.

Depth and width go together: a file pays for every layer (about 1 kB of operators, shapes and
scales), so a narrow deep net is a large file; and a shallow wide one forgets what its layers did.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from edgekit.compress.count import Count, count_run
from edgekit.compress.example import Example, as_example
from edgekit.compress.pruning.channels import Aim, Pruned, prune_found, refuse_unchanged
from edgekit.compress.pruning.depth import Block, droppable, find_blocks, without_blocks
from edgekit.compress.pruning.prunable import Prunable, find_prunable
from edgekit.core.errors import StepError
from edgekit.core.steps.prune import Goal, Importance, Prune
from edgekit.plan.container import STUDENT_FILE_BYTES, STUDENT_LAYER_BYTES

_DEPTHS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a model may have at most: parameters, MACs a sample, bytes of a file; 0 for any.

    bits: of each weight in the file.
    """

    parameters: int = 0
    macs: int = 0
    bytes: int = 0
    bits: int = 32

    def is_met(self, count: Count) -> bool:
        """Whether a model is within it."""
        limits = (
            (count.parameters, self.parameters),
            (count.macs, self.macs),
            (count.artifact_bytes(self.bits), self.bytes),
        )
        return all(have <= limit for have, limit in limits if limit)

    def limits(self, layers: int) -> dict[Goal, float]:
        """What it leaves to a model of so many layers.

        Raises: StepError where the layers alone are over it.
        """
        found: dict[Goal, float] = {"macs": self.macs} if self.macs else {}
        parameters = [float(self.parameters)] if self.parameters else []
        if self.bytes:
            container = STUDENT_FILE_BYTES + STUDENT_LAYER_BYTES * layers
            room = self.bytes - container
            if room <= 0:
                raise StepError(
                    f"shrink: {self.bytes:,} bytes hold no {layers} layers: a file needs about "
                    f"{container:,} for them before any weight"
                )
            parameters.append(room * 8 / self.bits)
        return found | ({"parameters": min(parameters)} if parameters else {})

    def __str__(self) -> str:
        """The limits that it has."""
        named = {"parameters": self.parameters, "MACs": self.macs, "bytes": self.bytes}
        return ", ".join(f"{value:,} {name}" for name, value in named.items() if value)


def shrink_to(  # noqa: PLR0913  # limits are told apart by their names
    model: nn.Module,
    example_inputs: Any,
    *,
    parameters: int = 0,
    macs: int = 0,
    bytes: int = 0,  # noqa: A002  # the unit, as everywhere
    bits: int = 32,
    importance: Importance = "group-norm",
    ignore: tuple[str, ...] = (),
    multiple: int = 1,
    calibration: Sequence[Any] = (),
) -> Pruned:
    """A copy of a model that is narrowed and thinned to a budget, its weights inherited.

    Of all ways to the budget, it takes the one in which the smaller of two shares is largest: that
    of the layers that stay, and that of the width that stays in each. The width of a transformer
    itself goes only where heads, neurons and layers are not enough.
    bytes: of a file whose weights have ``bits`` bits each, its container estimated (``Count``).
    calibration: more inputs like ``example_inputs``, to tell which layers matter.
    Raises: StepError for no budget, one that the model is within, and one out of reach, with the
    least that can be reached.
    """
    budget = Budget(parameters=parameters, macs=macs, bytes=bytes, bits=bits)
    example = as_example(example_inputs)
    now = count_run(model, example)
    if not (parameters or macs or bytes) or budget.is_met(now):
        raise StepError(
            f"shrink: the budget is {str(budget) or 'none'}, and the model has {now.parameters:,} "
            f"parameters, {now.macs:,} MACs and about {now.artifact_bytes(bits):,} bytes: there is "
            "nothing to shrink; give a smaller budget"
        )
    blocks = droppable(model, find_blocks(model, [example, *map(as_example, calibration)]))
    settings = Prune(units=("channels", "heads"), importance=importance, ignore=ignore)
    ways = _Ways(model, example, settings, budget, multiple)
    found = ways.best(blocks)
    if found is None:
        wider = replace(settings, units=("channels", "heads", "embedding"))
        ways = _Ways(model, example, wider, budget, multiple)
        found = ways.best(blocks)
    if found is None:
        raise StepError(
            f"shrink: {budget} are out of reach, even with {len(blocks)} layers gone: "
            + ways.reason.removeprefix("shrink: ")
        )
    refuse_unchanged(found, settings)
    return replace(found, before=now)


class _Ways:
    """Ways to a budget: so many layers less, and then as much width as it takes."""

    def __init__(
        self,
        model: nn.Module,
        example: Example,
        settings: Prune,
        budget: Budget,
        multiple: int,
    ) -> None:
        self._model, self._example = model, example
        self._settings, self._budget = settings, budget
        self._multiple = settings.round_to or multiple
        self.reason = ""

    def best(self, blocks: Sequence[Block]) -> Pruned | None:
        """The most balanced way; None where there is none."""
        counts = sorted({round(len(blocks) * step / _DEPTHS) for step in range(_DEPTHS + 1)})
        found: list[tuple[float, Pruned]] = []
        for count in counts:
            try:
                found.append(self._way([block.path for block in blocks[:count]]))
            except StepError as error:
                self.reason = str(error)
        return max(found, key=lambda item: item[0])[1] if found else None

    def _way(self, dropped: Sequence[str]) -> tuple[float, Pruned]:
        """How balanced it is to drop these layers and narrow the rest, and what comes of it.

        Raises: StepError where the budget is out of reach.
        """
        before = count_run(self._model, self._example)
        shallow = (
            without_blocks(self._model, dropped, self._example).model if dropped else self._model
        )
        now = count_run(shallow, self._example)
        depth = now.layers / before.layers
        if dropped and self._budget.is_met(now):
            return depth, Pruned(model=shallow, before=before, after=now, dropped=tuple(dropped))
        units, ignore = self._settings.units, self._settings.ignore
        prunable = find_prunable(shallow, self._example, units, ignore)
        aim = Aim(limits=self._budget.limits(now.layers), multiple=self._multiple)
        pruned = prune_found(prunable, self._settings, aim)
        width = min(1.0, 1 - _mean_loss(prunable, pruned))
        return min(depth, width), replace(pruned, before=before, dropped=tuple(dropped))


def _mean_loss(prunable: Prunable, pruned: Pruned) -> float:
    """The mean share of rows that went, over the layers that groups are made in."""
    rows = {group.root[0]: len(prunable.graph.slots[group.root]) for group in prunable.groups}
    lost = [
        len(pruned.removed.get(name.removesuffix(".weight"), ())) / count
        for name, count in rows.items()
    ]
    return sum(lost) / len(lost)
