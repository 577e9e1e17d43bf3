"""Where a transformer's attention can be read from, and how student and teacher are compared.

A module that gives its probabilities (an eager one of transformers) is read as it is. Of others
the queries and keys are caught where they are made, and their products compared (MiniLMv2). What
has neither, a convolutional network say, is compared by where its layers are active.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edgekit.compress.distillation.features import MAX_PAIRS, at_depth
from edgekit.compress.distillation.losses import attention_probability_loss, query_key_loss
from edgekit.compress.distillation.taps import Caught, Layer, Tap
from edgekit.core.errors import StepError

# What the layers of queries and keys are called, and what makes both (and values) in one.
_APART = (
    ("query", "key"),
    ("q_proj", "k_proj"),
    ("q_lin", "k_lin"),
    ("to_q", "to_k"),
    ("wq", "wk"),
    ("q", "k"),
)
_FUSED = ("qkv", "c_attn", "qkv_proj", "Wqkv", "in_proj", "to_qkv")
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
_HEAD_WIDTH = ("head_dim", "attention_head_size", "head_size", "dim_head")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One attention module.

    taps: its probabilities, or its queries and keys (one tap where they are made in one). tokens:
    how many attend. heads: 0 for probabilities, which have them as an axis.
    """

    path: str
    taps: tuple[Tap, ...]
    tokens: int
    heads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePair:
    """An attention module of the student and the one of the teacher that it learns from."""

    student: Site
    teacher: Site

    def loss(self, ours: Caught, theirs: Caught, is_counted: Tensor | None) -> Tensor:
        """Divergence of what both gave. is_counted: (n, tokens), which are not padding."""
        if is_counted is not None and is_counted.shape[1] != self.student.tokens:
            is_counted = None  # a mask of other tokens than these
        one = [ours[tap] for tap in self.student.taps]
        other = [theirs[tap] for tap in self.teacher.taps]
        if not self.student.heads:
            return attention_probability_loss(one[0], other[0], is_counted)
        heads = math.gcd(self.student.heads, self.teacher.heads)
        return query_key_loss(
            queries_and_keys(one, self.student),
            queries_and_keys(other, self.teacher),
            heads,
            is_counted,
        )


def pair_sites(
    student: nn.Module,
    teacher: nn.Module,
    ours: Sequence[Layer],
    theirs: Sequence[Layer],
) -> tuple[SitePair, ...]:
    """Attention modules of both, paired by depth; none where one of them has none to read."""
    for find in (_probability_sites, _query_key_sites):
        one, other = find(student, ours), find(teacher, theirs)
        if one and other and {site.tokens for site in one} == {site.tokens for site in other}:
            return _by_depth(one, other)
    return ()


def queries_and_keys(caught: Sequence[Tensor], site: Site) -> tuple[Tensor, Tensor]:
    """Queries and keys of equal widths; keys that several heads share are repeated for each.

    Shapes: (n, tokens, width) each.
    Raises: StepError for widths that are no multiple of the heads.
    """
    query, key = caught if len(caught) == 2 else caught[0].chunk(3, dim=-1)[:2]
    width, key_width = query.shape[-1], key.shape[-1]
    if width == key_width:
        return query, key
    head_width = width // site.heads
    shape = (*key.shape[:2], key_width // head_width, 1, head_width)
    groups = width // key_width
    if width % key_width or key_width % head_width:
        raise StepError(
            f"distil: attention_weight: '{site.path}' has queries of width {width} and keys of "
            f"{key_width}, which do not make whole heads; set attention_weight to 0"
        )
    return query, key.reshape(shape).expand(-1, -1, -1, groups, -1).reshape(query.shape)


def _by_depth(ours: Sequence[Site], theirs: Sequence[Site]) -> tuple[SitePair, ...]:
    count = min(len(ours), len(theirs), MAX_PAIRS)
    return tuple(
        SitePair(student=at_depth(ours, number, count), teacher=at_depth(theirs, number, count))
        for number in range(1, count + 1)
    )


def _probability_sites(_: nn.Module, layers: Sequence[Layer]) -> list[Site]:
    giving = [layer for layer in layers if layer.has_attention]
    # A block may hand on what its attention gave: the innermost is meant.
    inner = [
        layer
        for layer in giving
        if not any(other.path.startswith(f"{layer.path}.") for other in giving)
    ]
    return [
        Site(path=layer.path, taps=(Tap(layer.path, "attention"),), tokens=layer.shape[1])
        for layer in inner
    ]


def _query_key_sites(model: nn.Module, layers: Sequence[Layer]) -> list[Site]:
    shapes = {layer.path: layer.shape for layer in layers if len(layer.shape) == 3}
    # In the order in which they ran, which is that of their queries.
    owners = dict.fromkeys(path.rpartition(".")[0] for path in shapes)
    found = (_query_key_site(model.get_submodule(path), path, shapes) for path in owners)
    return [site for site in found if site is not None]


def _query_key_site(
    module: nn.Module, path: str, shapes: Mapping[str, tuple[int, ...]]
) -> Site | None:
    start = f"{path}." if path else ""
    for query, key in _APART:
        if start + query in shapes and start + key in shapes:
            _, tokens, width = shapes[start + query]
            taps = (Tap(start + query), Tap(start + key))
            heads = _heads(module, width)
            return Site(path=path, taps=taps, tokens=tokens, heads=heads) if heads else None
    for name in _FUSED:
        _, tokens, width = shapes.get(start + name, (0, 0, 0))
        heads = _heads(module, width // 3)
        # Fused ones are read only where queries, keys and values are a third each, one by one.
        if width and width % 3 == 0 and heads:
            return Site(path=path, taps=(Tap(start + name),), tokens=tokens, heads=heads)
    return None


def _heads(module: nn.Module, width: int) -> int:
    """How many heads queries of this width make; 0 where the module does not say."""
    head_width = _whole(module, _HEAD_WIDTH)
    if head_width and width % head_width == 0:
        return width // head_width
    heads = _whole(module, _HEADS)
    return heads if heads and width % heads == 0 else 0


def _whole(module: nn.Module, names: Sequence[str]) -> int:
    values = [getattr(module, name, None) for name in names]
    return next((value for value in values if isinstance(value, int) and value > 0), 0)
