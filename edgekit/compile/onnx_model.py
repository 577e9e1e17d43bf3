"""An ONNX model as the compiler's steps handle it: tools at work, tidy graphs, stable bytes."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import numpy_helper

from edgekit.compile.silence import silence
from edgekit.core.codec import canonical_json
from edgekit.core.errors import CompileError, StepError

MODEL = "model.onnx"
TENSOR_MAP = "tensor_map.json"
# The first operator set with INT4 tensors (ONNX 1.16).
OPSET = 21
# protobuf's own limit on one message is 2 GiB; graph and names need some of it.
MAX_MODEL_BYTES = 2_000_000_000
_SILENT = 4


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """One of ONNX Runtime's tools at work: silent, its errors (of built-in types) as StepError."""
    try:
        with silence():
            yield
    except (ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise StepError(
            f"quantize: {what} failed: {first_line(error)}; leave the layer that it names in float "
            "by an override, or choose other settings"
        ) from error


@contextlib.contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """A folder inside ``out`` that also takes the tools' temporary files, and is gone after."""
    with tempfile.TemporaryDirectory(prefix=".scratch-", dir=out) as name:
        before = tempfile.tempdir
        tempfile.tempdir = name
        try:
            yield Path(name)
        finally:
            tempfile.tempdir = before


def open_session(
    model: bytes, *, options: onnxruntime.SessionOptions | None = None, **more: Any
) -> onnxruntime.InferenceSession:
    """A session on the CPU with one thread; its own log is silent, its errors are exceptions.

    Raises: CompileError when ONNX Runtime refuses the model.
    """
    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    try:
        return onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], **more
        )
    except RUNTIME_ERRORS as refused:
        raise CompileError(
            f"ONNX Runtime {onnxruntime.__version__} refuses the model: {first_line(refused)}; "
            "its CPU provider must have a kernel for every operator and type"
        ) from refused


_STATE = onnxruntime.capi.onnxruntime_pybind11_state
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    _STATE.Fail,
    _STATE.InvalidArgument,
    _STATE.InvalidGraph,
    _STATE.InvalidProtobuf,
    _STATE.NotImplemented,
    _STATE.RuntimeException,
)


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def check(model: onnx.ModelProto, where: str) -> None:
    """Raise CompileError unless the model is valid ONNX with types and shapes that agree."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CompileError(f"{where}: not a valid ONNX model: {first_line(error)}") from error


def load(folder: Path) -> onnx.ModelProto:
    """The model that a stage of this compiler wrote."""
    return onnx.load_model(folder / MODEL)


def save(model: onnx.ModelProto, paths: Mapping[str, str], out: Path) -> None:
    """Write ``model.onnx`` and ``tensor_map.json``: the same model gives the same bytes.

    Raises: CompileError when the model is past protobuf's limit.
    """
    size = model.ByteSize()
    if size > MAX_MODEL_BYTES:
        raise CompileError(
            f"the ONNX model has {size} bytes; one file holds at most {MAX_MODEL_BYTES}: "
            "split the model or choose a smaller one"
        )
    names = {item.name for item in model.graph.initializer}
    (out / MODEL).write_bytes(model.SerializeToString(deterministic=True))
    (out / TENSOR_MAP).write_bytes(
        canonical_json({name: path for name, path in paths.items() if name in names})
    )


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The constants of the main graph by name."""
    return {item.name: item for item in model.graph.initializer}


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of an attribute, or its default where the node leaves it out."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def replace_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Make these the nodes of the main graph, in this order."""
    # Messages of a repeated field die when it is cleared: keep copies.
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def replace_initializers(model: onnx.ModelProto, tensors: Sequence[onnx.TensorProto]) -> None:
    """Make these the constants of the main graph, in this order."""
    kept = [onnx.TensorProto.FromString(item.SerializeToString()) for item in tensors]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def tidy(model: onnx.ModelProto) -> None:
    """Take out what neither runs nor names: stack traces, shapes of inner tensors, dead constants.

    Metadata of exporters holds paths of the machine that they ran on.
    """
    graph = model.graph
    for holder in (model, graph, *_all_nodes(graph), *graph.input, *graph.output):
        holder.doc_string = ""
        del holder.metadata_props[:]
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    graph.name = "model"
    model.producer_name = model.producer_version = model.domain = ""
    model.model_version = 0
    used = used_names(graph)
    replace_initializers(model, [item for item in graph.initializer if item.name in used])
    _drop_unused_domains(model)


def used_names(graph: onnx.GraphProto) -> set[str]:
    """Every tensor name that a node (of a nested graph, too) or an output reads."""
    names = {item.name for item in graph.output}
    for node in _all_nodes(graph):
        names.update(node.input)
        for nested in _nested_graphs(node):
            names.update(item.name for item in nested.output)
    return names


def hidden_reads(model: onnx.ModelProto) -> set[str]:
    """Names that the main graph's outputs and nested graphs read, beside its own nodes."""
    names = {item.name for item in model.graph.output}
    for node in model.graph.node:
        for nested in _nested_graphs(node):
            names |= used_names(nested)
    return names


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for nested in _nested_graphs(node):
            yield from _all_nodes(nested)


def _nested_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for item in node.attribute:
        if item.type == onnx.AttributeProto.GRAPH:
            yield item.g
        elif item.type == onnx.AttributeProto.GRAPHS:
            yield from item.graphs


def _drop_unused_domains(model: onnx.ModelProto) -> None:
    used = {node.domain for node in _all_nodes(model.graph)} | {""}
    for function in model.functions:
        used.update(node.domain for node in function.node)
    kept = {item.domain: item.version for item in model.opset_import if item.domain in used}
    del model.opset_import[:]
    model.opset_import.extend(
        onnx.helper.make_opsetid(domain, version) for domain, version in sorted(kept.items())
    )


def require_domain(model: onnx.ModelProto, domain: str) -> None:
    """Declare an operator domain that new nodes use."""
    if domain not in {item.domain for item in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(domain, 1))


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node of the main graph a name of its own: the tools pick nodes by name."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}.{index}"
        taken.add(node.name)


def array_of(tensor: onnx.TensorProto) -> Any:
    """A constant as a numpy array."""
    return numpy_helper.to_array(tensor)
