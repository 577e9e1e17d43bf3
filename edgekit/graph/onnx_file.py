"""The .onnx reader: protobuf of ONNX's ModelProto, one subgraph for each (nested) graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgekit.core.errors import InputError
from edgekit.graph.model import (
    Array,
    AttributeValue,
    Graph,
    Operator,
    Subgraph,
    TensorInfo,
    TensorQuantization,
    decode_constant,
)
from edgekit.graph.onnx_tensor import (
    UNKNOWN,
    Fields,
    TensorContent,
    ValueType,
    last_integer,
    last_text,
    read_tensor,
    read_value_type,
)
from edgekit.graph.protobuf import Budget, Message

_MOST_NESTED_GRAPHS = 16
_STANDARD_DOMAINS = ("", "ai.onnx")


def read(data: bytes, name: str) -> Graph:
    """The graph of an .onnx file.

    Raises: InputError with the offset where the bytes are not one; for local functions, sparse
    initializers and data in other files, which have to be exported otherwise.
    """
    view = memoryview(data).toreadonly()
    model = Message(view, name, start=0, end=len(view), budget=Budget())
    fields = model.collect()
    if 25 in fields:
        raise InputError(
            f"{name}: local functions; inline them first (onnx.inliner.inline_local_functions)"
        )
    ir_version, graphs = last_integer(fields, 1), fields.get(7, [])
    if len(graphs) != 1 or ir_version < 1:
        raise InputError(
            f"{name}: not a .tflite or .onnx file ({len(graphs)} graphs, format version "
            f"{ir_version} at byte 0 of {len(view)}); hand over the exported model file itself"
        )
    operator_sets = dict(_read_operator_set(item.nested()) for item in fields.get(8, ()))
    parts: list[Subgraph | None] = []
    _read_graph(graphs[0].nested(), _Scope(operator_sets=operator_sets, parts=parts))
    return Graph(
        format="onnx",
        name=name,
        subgraphs=tuple(part for part in parts if part is not None),
        operator_sets=operator_sets,
        metadata=tuple(last_text(item.nested().collect(), 1) for item in fields.get(14, ())),
    )


def _read_operator_set(message: Message) -> tuple[str, int]:
    fields = message.collect()
    return _domain(last_text(fields, 1)), last_integer(fields, 2)


def _domain(name: str) -> str:
    return "" if name in _STANDARD_DOMAINS else name


@dataclass(slots=True, kw_only=True)
class _Scope:
    """The names that one graph sees: its own tensors by index, and its parent's behind them."""

    operator_sets: Mapping[str, int]
    parts: list[Subgraph | None]
    parent: "_Scope | None" = None
    depth: int = 0
    index_of: dict[str, int] = field(default_factory=dict)
    tensors: list[TensorInfo] = field(default_factory=list)
    constants: dict[int, memoryview] = field(default_factory=dict)

    def find(self, name: str) -> tuple[TensorInfo, memoryview | None] | None:
        """A tensor of this graph or of one around it, with its data if it is a constant."""
        scope: _Scope | None = self
        while scope is not None:
            index = scope.index_of.get(name)
            if index is not None:
                return scope.tensors[index], scope.constants.get(index)
            scope = scope.parent
        return None

    def index(self, name: str) -> int:
        """The index of a tensor, made where the name is new; -1 for an absent one ("")."""
        if not name:
            return -1
        known = self.index_of.get(name)
        if known is not None:
            return known
        outer = self.parent.find(name) if self.parent is not None else None
        index = len(self.tensors)
        if outer is None:
            info = TensorInfo(index=index, name=name, dtype=UNKNOWN, shape=(), is_rank_known=False)
        else:
            info = replace(outer[0], index=index)
            if outer[1] is not None:
                self.constants[index] = outer[1]
        self.index_of[name] = index
        self.tensors.append(info)
        return index

    def declare(self, value: ValueType) -> int:
        """A tensor whose type the file states; it hides one of the same name outside."""
        index = self._own(value.name)
        if index >= 0 and not self.tensors[index].is_constant:
            self.tensors[index] = replace(
                self.tensors[index],
                dtype=value.dtype,
                shape=value.shape,
                is_rank_known=value.is_rank_known,
            )
        return index

    def hold(self, tensor: TensorContent, name: str) -> None:
        """A constant under a name."""
        index = self._own(name)
        if index < 0:
            return
        self.constants[index] = tensor.content
        self.tensors[index] = replace(
            self.tensors[index],
            dtype=tensor.dtype,
            shape=tensor.shape,
            is_rank_known=True,
            is_constant=True,
            stored_bytes=tensor.stored_bytes,
        )

    def _own(self, name: str) -> int:
        parent, self.parent = self.parent, None
        index = self.index(name)
        self.parent = parent
        return index


def _read_graph(message: Message, scope: _Scope) -> int:
    """Read one graph into ``scope.parts``; its index there."""
    if scope.depth > _MOST_NESTED_GRAPHS:
        raise message.fail(message.start, f"graphs nested deeper than {_MOST_NESTED_GRAPHS}")
    place = len(scope.parts)
    scope.parts.append(None)
    fields = message.collect()
    if 15 in fields:
        raise InputError(
            f"{message.name}: sparse initializers; store them densely before handing it over"
        )
    for held in fields.get(5, ()):
        tensor = read_tensor(held.nested())
        scope.hold(tensor, tensor.name)
    # Inputs (11), annotated tensors (13), outputs (12).
    inputs, _, outputs = (
        [scope.declare(read_value_type(item.nested())) for item in fields.get(number, ())]
        for number in (11, 13, 12)
    )
    nodes = [item.nested() for item in fields.get(1, ())]
    operators = tuple(_read_node(node, index, scope) for index, node in enumerate(nodes))
    _mark_quantized(scope, operators, message.name)
    scope.parts[place] = Subgraph(
        name=last_text(fields, 2),
        tensors=tuple(scope.tensors),
        operators=operators,
        inputs=tuple(index for index in inputs if index not in scope.constants),
        outputs=tuple(outputs),
        constants=scope.constants,
    )
    return place


def _read_node(message: Message, index: int, scope: _Scope) -> Operator:
    fields = message.collect()
    kind, domain = last_text(fields, 4), _domain(last_text(fields, 7))
    if not kind:
        raise message.fail(message.start, "a node without an operator")
    inputs = [item.text() for item in fields.get(1, ())]
    outputs = [item.text() for item in fields.get(2, ())]
    attributes: dict[str, AttributeValue] = {}
    for item in fields.get(5, ()):
        _read_attribute(item.nested(), scope, attributes, outputs if kind == "Constant" else ())
    return Operator(
        index=index,
        name=kind,
        domain=domain,
        version=scope.operator_sets.get(domain, 0),
        inputs=tuple(scope.index(name) for name in inputs),
        outputs=tuple(scope.index(name) for name in outputs),
        attributes=attributes,
    )


def _read_attribute(
    message: Message,
    scope: _Scope,
    found: dict[str, AttributeValue],
    constant: Sequence[str],
) -> None:
    """Put one attribute into ``found``; a Constant's tensor becomes the constant it names."""
    fields = message.collect()
    if constant and 5 in fields:
        scope.hold(read_tensor(fields[5][-1].nested()), constant[0])
    value = _attribute_value(fields, scope)
    if value is not None:
        found[last_text(fields, 1)] = value


def _attribute_value(fields: Fields, scope: _Scope) -> AttributeValue | None:
    if 2 in fields:
        return fields[2][-1].real()
    if 3 in fields:
        return fields[3][-1].integer()
    if 4 in fields:
        return fields[4][-1].text()
    if 6 in fields:
        return _read_nested(fields[6][-1].nested(), scope)
    if 7 in fields:
        return tuple(real for item in fields[7] for real in item.fixed("<f4").tolist())
    if 8 in fields:
        return tuple(number for item in fields[8] for number in item.integers().tolist())
    if 9 in fields:
        return tuple(item.text() for item in fields[9])
    if 11 in fields:
        return tuple(_read_nested(item.nested(), scope) for item in fields[11])
    return None


def _read_nested(message: Message, scope: _Scope) -> int:
    inner = _Scope(
        operator_sets=scope.operator_sets, parts=scope.parts, parent=scope, depth=scope.depth + 1
    )
    return _read_graph(message, inner)


def _mark_quantized(scope: _Scope, operators: Sequence[Operator], name: str) -> None:
    """Give the integers that Quantize- and DequantizeLinear make or take their scales."""
    for operator in operators:
        if operator.name == "DequantizeLinear" and operator.inputs:
            index = operator.inputs[0]
        elif operator.name == "QuantizeLinear" and operator.outputs:
            index = operator.outputs[0]
        else:
            continue
        found = _linear_quantization(scope, operator, name)
        if found is not None and index >= 0:
            scope.tensors[index] = replace(scope.tensors[index], quantization=found)


def _linear_quantization(scope: _Scope, operator: Operator, name: str) -> TensorQuantization | None:
    held = [index if index in scope.constants else -1 for index in (*operator.inputs, -1, -1)[1:3]]
    if held[0] < 0:
        return None
    scales = _numbers(scope, held[0], name)
    points = np.zeros(1) if held[1] < 0 else _numbers(scope, held[1], name)
    block = operator.attributes.get("block_size", 0)
    axis = operator.attributes.get("axis", 1)
    is_per_tensor = scales.size == 1 and not block
    return TensorQuantization(
        scales=scales.reshape(-1).astype(np.float32),
        zero_points=points.reshape(-1).astype(np.int64),
        axis=0 if is_per_tensor or not isinstance(axis, int) else axis,
        block_size=block if isinstance(block, int) else 0,
    )


def _numbers(scope: _Scope, index: int, name: str) -> Array:
    info = scope.tensors[index]
    found = decode_constant(scope.constants[index], info.dtype, info.shape, where=name)
    return found if found.dtype.kind in "fiu" else np.zeros(0)
