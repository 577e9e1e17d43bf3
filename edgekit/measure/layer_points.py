"""Where a quantized graph can be compared with the float graph: which tensor is which.

By name where both files have their names: quantizers keep the names of what operators give, or
give them to what takes the value on (``MatMulInteger``, ``Cast``, ``Mul``: the last has the name of
the float ``MatMul``'s output). Else by structure (``layer_structure``).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgekit.graph.model import Graph, Operator, TensorQuantization
from edgekit.graph.weights import WeightLayer
from edgekit.measure.layer_links import (
    CONVERSIONS,
    MOVERS,
    TO_FLOATS,
    TO_INTEGERS,
    Links,
    layers_by_operator,
)
from edgekit.measure.layer_structure import after_bias, after_scaling, match_structure

_GIVES_INTEGERS = "FULLY_CONNECTED"
_RESHAPES = ("Reshape", "RESHAPE")
# What a value may pass on its way from an operator to the tensor with the float operator's name.
_PASSED = (*CONVERSIONS, "Mul", "Add", "Relu", "Clip", *_RESHAPES)
_MOST_STEPS = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Point:
    """One operator of the artifact, and the two tensors that should be alike.

    tensor, float_tensor: in the main graph of either file; -1 where there is no counterpart.
    quantization: of the artifact's tensor where it holds integers. layers: its weights. sources:
    the nearest points that its inputs come from, by position. path: the artifact's tensors from the
    operator's output on that stand for the same value.
    """

    operator: Operator
    tensor: int
    float_tensor: int
    layers: tuple[WeightLayer, ...] = ()
    quantization: TensorQuantization | None = None
    sources: tuple[int, ...] = ()
    path: tuple[int, ...] = ()

    @property
    def has_one_scale_for_channels(self) -> bool:
        """Whether a linear layer gives integers itself, as LiteRT's do; ONNX's give floats."""
        is_linear = any(item.kind == "linear" for item in self.layers)
        return is_linear and self.operator.name == _GIVES_INTEGERS and self.quantization is not None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Points:
    """What can be compared, in order, and the operators that cannot, with weights and without."""

    found: tuple[Point, ...]
    unmatched: tuple[Point, ...]


def find_points(float_graph: Graph, graph: Graph, *, is_named: bool) -> Points:
    """Every operator of the main graph with weights or with a quantized output, beside its float.

    is_named: both files have their names. Inputs that are quantized are points, too.
    """
    links, originals = Links(graph), Links(float_graph)
    finder = _ByName(links, originals) if is_named else _ByStructure(links, originals)
    return _Search(graph, links, finder).points()


@dataclass(frozen=True, slots=True)
class _Match:
    """Tensors from an operator's output to the one that is compared, and its float tensor."""

    path: tuple[int, ...]
    float_tensor: int


class _ByName:
    def __init__(self, links: Links, originals: Links) -> None:
        self._links = links
        self._names = _unique_names(originals)

    def match(self, operator: Operator) -> _Match:
        """The first tensor after the operator whose name the float graph has."""
        tensor, path, before = operator.outputs[0], [operator.outputs[0]], operator
        for _ in range(_MOST_STEPS):
            found = self.given(tensor)
            if found >= 0:
                return _Match((*path,), found)
            following = self._links.next_of(tensor, _PASSED)
            if following is None or not self._keeps_value(before, following):
                break
            tensor, before = following.outputs[0], following
            path.append(tensor)
        return _Match((operator.outputs[0],), -1)

    def _keeps_value(self, before: Operator, operator: Operator) -> bool:
        """Whether an operator only completes a value: a scale after a Cast, or a bias."""
        if operator.name == "Mul":
            return before.name in ("CAST", "Cast")
        return operator.name != "Add" or sum(map(self._links.is_computed, operator.inputs)) == 1

    def given(self, tensor: int) -> int:
        """The float graph's tensor of the same name; -1 where there is none."""
        return self._names.get(self._links.subgraph.tensors[tensor].name, -1)


def _unique_names(links: Links) -> dict[str, int]:
    """Computed tensors by name, less names that several have."""
    found: dict[str, int] = {}
    twice: set[str] = set()
    for index in (*links.subgraph.inputs, *links.maker):
        name = links.subgraph.tensors[index].name
        if found.setdefault(name, index) != index:
            twice.add(name)
    return {name: index for name, index in found.items() if name and name not in twice}


class _ByStructure:
    def __init__(self, links: Links, originals: Links) -> None:
        self._links, self._originals = links, originals
        self._pairs = match_structure(links, originals)

    def match(self, operator: Operator) -> _Match:
        """What the matched float operator gives, and where the artifact has that."""
        found = self._pairs.get(operator.index)
        if found is None:
            return _Match((operator.outputs[0],), -1)
        path = after_scaling(self._links, operator)
        end = after_bias(self._links, path[-1]) if found.adds_bias else path[-1]
        return _Match(path if end == path[-1] else (*path, end), found.tensor)

    def given(self, tensor: int) -> int:
        """An input of the float graph in the place of this one."""
        mine, theirs = self._links.subgraph.inputs, self._originals.subgraph.inputs
        is_same = len(mine) == len(theirs) and tensor in mine
        return theirs[mine.index(tensor)] if is_same else -1


@dataclass(slots=True)
class _Search:
    """The walk over the artifact's operators."""

    graph: Graph
    links: Links
    finder: _ByName | _ByStructure
    # Which point a tensor belongs to, and the float tensor that it stands for.
    owner: dict[int, int] = field(default_factory=dict)
    meaning: dict[int, int] = field(default_factory=dict)

    def points(self) -> Points:
        layers = layers_by_operator(self.graph)
        found: list[Point] = []
        unmatched: list[Point] = []
        for point in self._candidates(layers):
            if self._is_same_again(point, found):
                self.owner[point.tensor] = point.sources[0]
                continue
            if point.float_tensor < 0:
                # What only quantizes the value of such an operator says nothing new.
                known = {tensor for item in unmatched for tensor in item.path}
                is_new = point.layers or known.isdisjoint(point.operator.inputs)
                unmatched += [point] if is_new else []
                continue
            for tensor in self._tensors_of(point):
                self.owner.setdefault(tensor, len(found))
                self.meaning.setdefault(tensor, point.float_tensor)
            found.append(point)
        return Points(found=tuple(found), unmatched=tuple(unmatched))

    def _is_same_again(self, point: Point, found: list[Point]) -> bool:
        """Whether a value that was only moved gets the scale that it had."""
        if point.operator.name not in TO_INTEGERS or len(point.sources) != 1:
            return False
        before, after = found[point.sources[0]].quantization, point.quantization
        return (
            before is not None
            and after is not None
            and np.array_equal(before.scales, after.scales)
            and np.array_equal(before.zero_points, after.zero_points)
        )

    def _candidates(self, layers: Mapping[int, tuple[WeightLayer, ...]]) -> Iterator[Point]:
        yield from self._inputs()
        for operator in self.links.subgraph.operators:
            if not operator.outputs or not any(map(self.links.is_computed, operator.inputs)):
                continue
            if operator.name in TO_INTEGERS:
                yield from self._requantized(operator)
            elif operator.name not in CONVERSIONS:
                yield from self._computed(operator, layers.get(operator.index, ()))

    def _inputs(self) -> Iterator[Point]:
        """Inputs that hold integers with a scale already when they come."""
        for tensor in self.links.subgraph.inputs:
            quantization = self.links.quantization_of(tensor)
            if quantization is not None:
                yield Point(
                    operator=Operator(index=-1, name="input", inputs=(), outputs=(tensor,)),
                    tensor=tensor,
                    float_tensor=self.finder.given(tensor),
                    quantization=quantization,
                )

    def _requantized(self, operator: Operator) -> Iterator[Point]:
        """A value that gets a scale (or another one) apart from the operator that made it."""
        source, tensor = operator.inputs[0], operator.outputs[0]
        if tensor in self.owner:
            return
        yield Point(
            operator=operator,
            tensor=tensor,
            float_tensor=self._meaning_of(source),
            quantization=self.links.quantization_of(tensor),
            sources=self._sources(operator),
        )

    def _meaning_of(self, tensor: int) -> int:
        """The float tensor that a tensor stands for, perhaps in another shape; -1 for none."""
        for _ in range(_MOST_STEPS):
            found = self.meaning.get(tensor, -1)
            found = found if found >= 0 else self.finder.given(tensor)
            maker = self.links.maker.get(tensor)
            if found >= 0 or maker is None or maker.name not in _RESHAPES:
                return found
            tensor = maker.inputs[0]
        return -1

    def _computed(self, operator: Operator, layers: tuple[WeightLayer, ...]) -> Iterator[Point]:
        if operator.name in MOVERS and not layers:
            return
        match = self.finder.match(operator)
        if match.path[-1] in self.owner:
            return
        path = self._to_integers(match.path)
        integers = [item for item in path if self.links.quantization_of(item) is not None]
        if not layers and not integers:
            return
        tensor = (integers or [path[-1]])[-1]
        yield Point(
            operator=operator,
            tensor=tensor,
            float_tensor=match.float_tensor,
            layers=layers,
            quantization=self.links.quantization_of(tensor) if integers else None,
            sources=self._sources(operator),
            path=path,
        )

    def _to_integers(self, path: tuple[int, ...]) -> tuple[int, ...]:
        """The path and, where the value is quantized at once and only there, the integers."""
        if any(self.links.quantization_of(item) is not None for item in path):
            return path
        longer = path
        for _ in range(2):
            reader = self.links.next_of(longer[-1], (*TO_INTEGERS, *_RESHAPES))
            if reader is None:
                break
            longer = (*longer, reader.outputs[0])
            if reader.name in TO_INTEGERS:
                return longer
        return path

    def _tensors_of(self, point: Point) -> tuple[int, ...]:
        """What stands for a point's value: its path, and copies of its integers in floats."""
        readers = self.links.readers.get(point.tensor, [])
        copies = (reader.outputs[0] for reader in readers if reader.name in TO_FLOATS)
        return (*point.path, point.tensor, *copies)

    def _sources(self, operator: Operator) -> tuple[int, ...]:
        """The nearest points behind the operator's inputs, over what is no point itself."""
        nearest = self.links.ancestors(operator, self.owner)
        return tuple(sorted({self.owner[tensor] for tensor in nearest}))
