"""Operators of a static INT8 .tflite that are better left in float, between layers in integers."""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence

from edgekit.graph.model import Operator, Subgraph

# XNNPACK, which runs LiteRT's models on phones and larger CPUs, has these as floats alone; as
# integers they run one number after the other. Microseconds of 32 x 32 x 32 values between two
# convolutions, integer and float (ai-edge-litert 2.3.0, one thread, x86-64 with VNNI, 2026-11):
# DIV 1010 / 9, SQUARED_DIFFERENCE and RSQRT of a layer norm 320 / 50, HARD_SWISH 108 / 1,
# RELU of its own 95 / 10, SQRT 70 / 1, SOFTMAX 70 / 20, AVERAGE_POOL_2D 22 / 1, GELU 7 / 1.
_FASTER_AS_FLOATS = (
    *("AVERAGE_POOL_2D", "DIV", "GELU", "HARD_SWISH", "RELU"),
    *("RSQRT", "SOFTMAX", "SQRT", "SQUARED_DIFFERENCE"),
)
# Their inputs and results span orders of magnitude, which 256 steps do not hold: a variance, its
# root, an exponential. With the arithmetic around them they are norms, softplus and mish: a conv
# net with group, instance and layer norm gave 15% top-1 as integers, 75% as float (2026-11).
_WIDE_RANGES = ("DIV", "EXP", "LOG", "POW", "RSQRT", "SQRT", "SQUARED_DIFFERENCE")
_ARITHMETIC = (
    *("ADD", "MAXIMUM", "MEAN", "MINIMUM", "MUL", "RESHAPE", "SELECT", "SELECT_V2", "SUB", "SUM"),
    *("TANH", "TRANSPOSE", "NEG", "ABS", "SQUARE", "GREATER"),
)
# What makes the scores that a softmax reads: under a mask of -3e38 their range holds no score.
_OF_SCORES = ("ADD", "MUL", "DIV", "SUB", "RESHAPE", "TRANSPOSE", "SELECT", "SELECT_V2")
# What a change x A^T B^T is made of: the pieces of the row, and the products.
_OF_ADAPTERS = (
    *("BATCH_MATMUL", "EXPAND_DIMS", "GATHER", "RESHAPE", "SLICE", "SPLIT", "SPLIT_V"),
    *("SQUEEZE", "STRIDED_SLICE", "TRANSPOSE"),
)


def float_islands(subgraph: Subgraph) -> tuple[Operator, ...]:
    """The operators to leave in float, in order.

    Those that run faster so, and those of wide ranges with the arithmetic on both sides of them,
    up to the next operator of another kind: a layer, an activation, an edge of the graph. Before a
    softmax, those that make its scores and their mask. Then what gives a layer's channels back
    their ranges (the step "spread") and is read as floats alone.
    """
    chosen = {item.index for item in subgraph.operators if item.name in _FASTER_AS_FLOATS}
    links = _Links(subgraph)
    wide = [item for item in subgraph.operators if item.name in _WIDE_RANGES]
    chosen |= _reached(wide, links.before, (*_ARITHMETIC, *_WIDE_RANGES))
    chosen |= _reached(wide, links.after, (*_ARITHMETIC, *_WIDE_RANGES))
    softmaxes = [item for item in subgraph.operators if item.name == "SOFTMAX"]
    chosen |= _reached(softmaxes, links.before, _OF_SCORES)
    chosen |= _spread_behind(subgraph, links, chosen)
    return tuple(item for item in subgraph.operators if item.index in chosen)


def _spread_behind(subgraph: Subgraph, links: "_Links", chosen: Container[int]) -> set[int]:
    """Multiplications of a linear layer's channels that floats alone read, with their reshapes."""
    found: set[int] = set()
    for item in subgraph.operators:
        if not _is_spread(item, subgraph, links):
            continue
        behind = _reached([item], links.after, ("RESHAPE",))
        between = (it for it in subgraph.operators if it.index in behind)
        readers = {it.index for one in between for it in links.after(one)} - behind
        if readers and all(place in chosen for place in readers):
            found |= behind
    return found


def _is_spread(item: Operator, subgraph: Subgraph, links: "_Links") -> bool:
    tensors = [subgraph.tensors[index] for index in item.inputs if index >= 0]
    if item.name != "MUL" or not any(it.is_constant and it.elements > 1 for it in tensors):
        return False
    before = _reached([item], links.before, ("RESHAPE",))
    givers = (it for one in subgraph.operators if one.index in before for it in links.before(one))
    return any(it.name == "FULLY_CONNECTED" for it in givers)


def _reached(
    start: Sequence[Operator],
    step: Callable[[Operator], Iterable[Operator]],
    kinds: Sequence[str],
) -> set[int]:
    """The places of the operators that steps over such kinds lead to, the start among them."""
    waiting, seen = list(start), {item.index for item in start}
    while waiting:
        for item in step(waiting.pop()):
            if item.name in kinds and item.index not in seen:
                seen.add(item.index)
                waiting.append(item)
    return seen


def adapter_operators(subgraph: Subgraph, position: int) -> tuple[Operator, ...]:
    """The operators that cut an adapter out of an input and multiply with it, in order.

    One scale for all factors of all layers would leave the small ones few of its 256 steps. The sum
    with the layer's own result is no longer among them.
    """
    reached, chosen = {subgraph.inputs[position]}, []
    for item in subgraph.operators:
        if item.name in _OF_ADAPTERS and reached.intersection(item.inputs):
            reached.update(item.outputs)
            chosen.append(item)
    return tuple(chosen)


class _Links:
    """Which operators give and take each tensor."""

    def __init__(self, subgraph: Subgraph) -> None:
        self._makers = {index: item for item in subgraph.operators for index in item.outputs}
        self._readers: dict[int, list[Operator]] = {}
        for item in subgraph.operators:
            for index in item.inputs:
                self._readers.setdefault(index, []).append(item)

    def before(self, item: Operator) -> Iterator[Operator]:
        """The operators whose results this one reads."""
        return (self._makers[index] for index in item.inputs if index in self._makers)

    def after(self, item: Operator) -> Iterator[Operator]:
        """The operators that read this one's results."""
        return (reader for index in item.outputs for reader in self._readers.get(index, ()))


def names_of(operators: Sequence[Operator]) -> tuple[str, ...]:
    """The kinds of these operators, each once, in alphabetical order."""
    return tuple(sorted({item.name for item in operators}))
