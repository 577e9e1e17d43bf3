"""Stripping of .onnx: short names, no notes, no dead or repeated initializers."""

import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import numpy_helper

from edgekit.core.errors import CompileError

_FIRST = string.ascii_letters
_REST = string.ascii_letters + string.digits + "_"
_TYPED_FIELDS = {onnx.TensorProto.INT32: "int32_data", onnx.TensorProto.INT64: "int64_data"}

Rename = Callable[[str], str]


def strip_onnx(data: bytes, name: str) -> bytes:  # noqa: ARG001  (all strippers take a name)
    """The same model with short names and without what no engine reads.

    Positions of inputs and outputs, operator sets in use and every number stay.
    """
    model = onnx.load_from_string(data)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        model.ClearField(field)
    model.ClearField("metadata_props")
    model.ClearField("training_info")
    versions = {item.domain: item.version for item in model.opset_import}
    used = {node.domain for graph in _graphs(model.graph) for node in graph.node} | {"", "ai.onnx"}
    kept = [item for item in model.opset_import if item.domain in used]
    model.ClearField("opset_import")
    model.opset_import.extend(kept)
    for graph in _graphs(model.graph):
        _strip_graph(graph, versions)
    _share_initializers(model.graph)
    _shorten_names(model.graph)
    stripped: bytes = model.SerializeToString(deterministic=True)
    return stripped


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and the graphs nested in its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (
                (attribute.g, *attribute.graphs) if attribute.HasField("g") else (attribute.graphs)
            ):
                yield from _graphs(inner)


def _inner_graphs(attribute: Any) -> list[Any]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _strip_graph(graph: Any, versions: Mapping[str, int]) -> None:
    graph.name = "g"
    for field in ("doc_string", "metadata_props", "value_info", "quantization_annotation"):
        graph.ClearField(field)
    for value in (*graph.input, *graph.output):
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    for node in graph.node:
        for field in ("name", "doc_string", "metadata_props"):
            node.ClearField(field)
        _drop_defaults(node, versions)
    for tensor in graph.initializer:
        _compact_tensor(tensor)


def _drop_defaults(node: Any, versions: Mapping[str, int]) -> None:
    """Remove attributes that say what their absence says."""
    defaults = _defaults(node, versions)
    kept = []
    for attribute in node.attribute:
        attribute.ClearField("doc_string")
        if defaults.get(attribute.name) != attribute.SerializeToString(deterministic=True):
            kept.append(attribute)
    if len(kept) < len(node.attribute):
        copies = [onnx.AttributeProto.FromString(item.SerializeToString()) for item in kept]
        node.ClearField("attribute")
        node.attribute.extend(copies)


def _defaults(node: Any, versions: Mapping[str, int]) -> dict[str, bytes]:
    """Default attributes by name; none for operators whose schema onnx does not know."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = versions.get(domain, versions.get("ai.onnx", 0))
    if not onnx.defs.has(node.op_type, version, domain):
        return {}
    schema = onnx.defs.get_schema(node.op_type, version, domain)
    return {
        name: attribute.default_value.SerializeToString(deterministic=True)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.name
    }


def _compact_tensor(tensor: Any) -> None:
    """The shorter of the two encodings: raw bytes, or a number of as many bytes as it needs."""
    tensor.ClearField("doc_string")
    tensor.ClearField("metadata_props")
    field = _TYPED_FIELDS.get(tensor.data_type)
    if field is None:
        return
    values = numpy_helper.to_array(tensor)
    typed = onnx.TensorProto(dims=tensor.dims, data_type=tensor.data_type, name=tensor.name)
    getattr(typed, field).extend(values.reshape(-1).tolist())
    raw = onnx.TensorProto(dims=tensor.dims, data_type=tensor.data_type, name=tensor.name)
    raw.raw_data = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()
    tensor.CopyFrom(min(raw, typed, key=lambda item: item.ByteSize()))


def _share_initializers(graph: Any) -> None:
    """Keep the initializers of the main graph that are used, one for each content."""
    held = {item.name for item in (*graph.input, *graph.output)}
    used = {name for inner in _graphs(graph) for node in inner.node for name in node.input}
    used |= {item.name for inner in _graphs(graph) for item in inner.output}
    hidden = _names_made_inside(graph)
    first: dict[bytes, str] = {}
    replaced: dict[str, str] = {}
    kept = []
    for tensor in graph.initializer:
        if tensor.name in held or tensor.name in hidden:
            kept.append(tensor)
        elif tensor.name in used:
            copy = onnx.TensorProto.FromString(tensor.SerializeToString())
            copy.ClearField("name")
            key = copy.SerializeToString(deterministic=True)
            if key in first:
                replaced[tensor.name] = first[key]
            else:
                first[key] = tensor.name
                kept.append(tensor)
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    graph.ClearField("initializer")
    graph.initializer.extend(copies)
    for inner in _graphs(graph):
        for node in inner.node:
            node.input[:] = [replaced.get(name, name) for name in node.input]


def _names_made_inside(graph: Any) -> set[str]:
    """Names that a nested graph makes for itself: there they may mean something else."""
    inner = [item for item in _graphs(graph) if item is not graph]
    made = {value.name for item in inner for value in item.input}
    made |= {tensor.name for item in inner for tensor in item.initializer}
    return made | {name for item in inner for node in item.node for name in node.output}


def _shorten_names(graph: Any) -> None:
    """Give every tensor a short name, the shortest to those that are named most often."""
    counts: Counter[str] = Counter()
    _make_unique(graph, {}, counts)
    # Counter.most_common is stable: equal counts stay in order of first mention.
    short = dict(zip((name for name, _ in counts.most_common()), _short_names(), strict=False))
    short[""] = ""
    for inner in _graphs(graph):
        _rename(inner, short.__getitem__)


def _short_names() -> Iterator[str]:
    """a, b, ..., Z, aa, ab, ...: C identifiers, as ONNX asks."""
    names = list(_FIRST)
    while True:
        yield from names
        names = [name + letter for name in names for letter in _REST]


def _make_unique(graph: Any, outer: Mapping[str, str], counts: "Counter[str]") -> None:
    """Rename so that no name means two things, following how nested graphs see outer names."""
    names = dict(outer)

    def unique(name: str) -> str:
        if not name:
            return ""
        if name not in names:
            raise CompileError(
                f"the graph reads tensor '{name}', which nothing makes; export again"
            )
        counts[names[name]] += 1
        return names[name]

    made = [item.name for item in (*graph.input, *graph.initializer)]
    made += [name for node in graph.node for name in node.output if name]
    for name in dict.fromkeys(made):
        names[name] = str(len(counts))
        counts[names[name]] = 0
    for node in graph.node:
        for attribute in node.attribute:
            for inner in _inner_graphs(attribute):
                _make_unique(inner, names, counts)
    _rename(graph, unique)


def _rename(graph: Any, new_name: Rename) -> None:
    for item in (*graph.input, *graph.output, *graph.initializer):
        item.name = new_name(item.name)
    for node in graph.node:
        node.input[:] = [new_name(name) for name in node.input]
        node.output[:] = [new_name(name) for name in node.output]
