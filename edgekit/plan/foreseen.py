"""What a model will probably be after some steps, at the least and at the most."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from edgekit.core.facts import ModelFacts
from edgekit.plan.narrowing import Block, blocks_of, is_inside, scaled, without_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A model after some steps: as it will probably be, at the least and at the most.

    unknown: why the interval is wide.
    """

    likely: ModelFacts
    least: ModelFacts
    most: ModelFacts
    unknown: tuple[str, ...] = ()


def ranged(now: Forecast, shares: tuple[float, float, float], *why: str) -> Forecast:
    """A forecast with its three models scaled."""
    least, likely, most = shares
    return Forecast(
        least=scaled(now.least, least),
        likely=scaled(now.likely, likely),
        most=scaled(now.most, most),
        unknown=(*now.unknown, *why),
    )


def dropped(now: Forecast, count: int, share: float = 0.0, ignore: Iterable[str] = ()) -> Forecast:
    """Without so many blocks, or that share of them: which ones go is known once they ran.

    ignore: patterns of module paths whose blocks stay.
    """
    if not (count or share):
        return now
    ignored = tuple(ignore)
    least, likely, most = (droppable(facts, ignored) for facts in (now.least, now.likely, now.most))
    if not likely:
        why = "no repeated blocks are seen in the module paths"
        return ranged(now, (0.3, 0.8, 1.0), why)
    # A share of thirds must not lose one to rounding.
    gone = count or int(share * len(likely) + 1e-9)
    return Forecast(
        least=without_blocks(now.least, least[max(0, len(least) - gone) :]),
        likely=without_blocks(now.likely, middle(likely, gone)),
        most=without_blocks(now.most, most[:gone]),
        unknown=now.unknown,
    )


def droppable(facts: ModelFacts, ignore: Iterable[str] = ()) -> list[Block]:
    """Blocks that can be left out, the smallest first; every list keeps one."""
    blocks = sorted(blocks_of(facts), key=lambda block: block.parameters)
    left = Counter(_list_of(block) for block in blocks)
    found = []
    for block in blocks:
        is_ignored = any(_is_in(block, facts, pattern) for pattern in ignore)
        if block.keeps_shape and not is_ignored and left[_list_of(block)] > 1:
            left[_list_of(block)] -= 1
            found.append(block)
    return found


def _is_in(block: Block, facts: ModelFacts, pattern: str) -> bool:
    """Whether a pattern names a block or a layer in it."""
    paths = [
        layer.module_path for layer in facts.layers if is_inside(layer.module_path, block.path)
    ]
    return any(re.search(pattern, path) for path in (block.path, *paths))


def _list_of(block: Block) -> str:
    return block.path.rpartition(".")[0]


def middle(blocks: list[Block], count: int) -> list[Block]:
    """So many of them, spread evenly over their sizes."""
    count = min(count, len(blocks))
    return [blocks[int((index + 0.5) * len(blocks) / count)] for index in range(count)]
