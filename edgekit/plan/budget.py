"""Where a byte budget asks for fewer layers: the container of many takes most of it."""

from collections.abc import Iterable

from edgekit.core.facts import ModelFacts
from edgekit.core.strategy import PlannedStep, Quantize
from edgekit.core.target import Target
from edgekit.core.units import format_quantity
from edgekit.core.verdict import Limit, Sense
from edgekit.plan.container import structure_bytes
from edgekit.plan.estimate import estimate_artifact_bytes
from edgekit.plan.forecast import forecasts
from edgekit.plan.foreseen import droppable, middle
from edgekit.plan.narrowing import without_blocks

_BYTES = ("artifact_bytes", "flash_bytes")
# Of a budget: what a container may take and still leave room for weights worth having.
_LARGER_PART = 0.5


def container_notes(
    facts: ModelFacts,
    target: Target,
    settings: Quantize | None,
    steps: Iterable[PlannedStep],
    limits: Iterable[Limit],
    *,
    has_student: bool = False,
) -> tuple[str, ...]:
    """A line on each byte limit that narrower layers alone will hardly meet, naming what will."""
    after = forecasts(facts, steps, has_student=has_student)[-1].likely
    size = estimate_artifact_bytes(after, target, settings)
    structure = structure_bytes(after, target.format, settings)
    return tuple(
        _note(limit, after, structure, _blocks_to_drop(limit, after, target, settings))
        for limit in limits
        if limit.figure in _BYTES
        and limit.sense is Sense.AT_MOST
        and size > limit.bound
        and structure > _LARGER_PART * limit.bound
    )


def _note(limit: Limit, facts: ModelFacts, structure: float, blocks: int) -> str:
    bound, taken = (format_quantity(item, limit.unit) for item in (limit.bound, structure))
    verb = "cannot meet it" if structure >= limit.bound else "will hardly meet it"
    how = f"prune with drop_layers = {blocks}" if blocks else "prune with drop_layers"
    return (
        f"{limit.figure}: the container of {len(facts.layers)} layers takes about {taken} of at "
        f"most {bound} before any weight (estimated), so narrower layers alone {verb}: take whole "
        f"layers out too ({how}, or a made student with distil.student_bytes)"
    )


def _blocks_to_drop(
    limit: Limit, facts: ModelFacts, target: Target, settings: Quantize | None
) -> int:
    """How many repeated blocks must go until the weights have the larger part; 0 if none can."""
    blocks = droppable(facts)
    for count in range(1, len(blocks) + 1):
        left = without_blocks(facts, middle(blocks, count))
        if structure_bytes(left, target.format, settings) <= _LARGER_PART * limit.bound:
            return count
    return len(blocks)
