"""Shares of their own that some groups lose: heads, neurons, layers by pattern."""

from collections.abc import Sequence

from torch import nn

from edgekit.compress.layer_paths import matching, nearest_paths
from edgekit.compress.pruning.goal import Key
from edgekit.compress.pruning.groups import Group
from edgekit.core.errors import StepError
from edgekit.core.steps.prune import Prune


def own_shares(model: nn.Module, groups: Sequence[Group], settings: Prune) -> dict[Key, float]:
    """Shares that some groups have of their own: of heads, of neurons, of layers by pattern.

    A group that runs through several layers loses the smallest share that one of them asks for.
    Raises: StepError for a pattern that matches no layer of which anything may go.
    """
    by_kind = {"heads": settings.head_ratio, "ffn": settings.ffn_ratio}
    own = {group.key: share for group in groups if (share := by_kind.get(group.kind)) is not None}
    paths = [path for path, _ in model.named_modules() if path]
    by_layer: dict[Key, float] = {}
    for pattern, share in settings.layer_ratios.items():
        matched = matching("prune: layer_ratios", (pattern,), paths)
        touched = [group for group in groups if matched & set(_made_in(group))]
        if not touched:
            there = sorted({path for group in groups for path in _made_in(group)})
            raise StepError(
                f"prune: layer_ratios: nothing may go of the outputs of '{pattern}'"
                f"{nearest_paths(pattern, there)}"
            )
        for group in touched:
            by_layer[group.key] = min(share, by_layer.get(group.key, share))
    return own | by_layer


def _made_in(group: Group) -> tuple[str, ...]:
    """The layers whose outputs a group is."""
    return tuple(
        dict.fromkeys(
            slot[0].rpartition(".")[0] for slot in group.key if slot not in group.consumed
        )
    )
