"""The stage that removes names and metadata: its result is what ships and what is measured."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.core.artifact import Artifact
from edgekit.core.codec import from_plain, to_plain
from edgekit.core.errors import CompileError
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.core.units import format_bytes
from edgekit.graph.model import Graph
from edgekit.graph.reader import read_graph

_Stripper = Callable[[bytes, str], bytes]


def _tflite_stripper() -> _Stripper:
    from edgekit.compile.strip_tflite import strip_tflite  # noqa: PLC0415

    return strip_tflite


def _onnx_stripper() -> _Stripper:
    from edgekit.compile.strip_onnx import strip_onnx  # noqa: PLC0415

    return strip_onnx


# Imported when it is used: a toolchain holds the packages of its own target only.
_STRIPPERS = {"tflite": _tflite_stripper, "onnx": _onnx_stripper}


def strip(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Write the artifact without what no engine needs, under the same name; give it back.

    Settings: ``artifact``, a plain ``core.artifact.Artifact``. Input ``artifact``: its folder.
    Positions of inputs and outputs stay, and so does every number; the same bytes in give the
    same bytes out. An .ort file passes unchanged: strip the .onnx before converting it.
    Raises: CompileError for an unknown format, or if stripping changed the graph (our defect).
    """
    where = f"stage '{request.name}': artifact"
    artifact = from_plain(Artifact, request.settings.get("artifact"), where=where)
    data = (request.folder("artifact") / artifact.entry).read_bytes()
    if artifact.format == "ort":
        reporter.note(f"{artifact.entry}: an .ort file cannot be stripped; it ships as it is")
        stripped = data
    else:
        stripped = strip_bytes(data, artifact.format, name=artifact.entry)
        saved = len(data) - len(stripped)
        reporter.note(
            f"{artifact.entry}: {format_bytes(saved)} of names and metadata removed, "
            f"{format_bytes(len(stripped))} left"
        )
    target = out / artifact.entry
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(stripped)
    return {"artifact": to_plain(artifact)}


def strip_bytes(data: bytes, model_format: str, *, name: str) -> bytes:
    """The stripped file; never longer than what came in.

    Raises: CompileError and InputError as ``strip``.
    """
    if model_format not in _STRIPPERS:
        allowed = ", ".join((*_STRIPPERS, "ort"))
        raise CompileError(f"{name}: cannot strip format '{model_format}'; allowed: {allowed}")
    before = read_graph(data, name=name)
    stripped = _STRIPPERS[model_format]()(data, name)
    if len(stripped) >= len(data):
        return data
    require_same(before, read_graph(stripped, name=name))
    return stripped


def require_same(before: Graph, after: Graph) -> None:
    """Check that two graphs differ in names and metadata only.

    Raises: CompileError that names the first difference.
    """
    pairs = zip(_facts(before), _facts(after), strict=False)
    for left, right in pairs:
        if left != right:
            raise CompileError(
                f"{before.name}: stripping changed the model at {left[:3]}; this is a defect of "
                "edgekit, please report it with the model"
            )
    if sum(1 for _ in _facts(before)) != sum(1 for _ in _facts(after)):
        raise CompileError(
            f"{before.name}: stripping lost a part of the model; this is a defect of edgekit, "
            "please report it with the model"
        )


def _facts(graph: Graph) -> Iterator[tuple[Any, ...]]:
    """What must not change: operators in order, and dtype, shape and data of what they touch."""
    for place, subgraph in enumerate(graph.subgraphs):
        yield (place, "inputs", tuple(_tensor_facts(graph, place, i) for i in subgraph.inputs))
        yield (place, "outputs", tuple(_tensor_facts(graph, place, i) for i in subgraph.outputs))
        for operator in subgraph.operators:
            touched = (*operator.inputs, -2, *operator.outputs)
            facts = tuple(_tensor_facts(graph, place, index) for index in touched)
            yield (place, operator.index, operator.name, operator.version, facts)


def _tensor_facts(graph: Graph, place: int, index: int) -> tuple[Any, ...]:
    if index < 0:
        return (index,)
    subgraph = graph.subgraphs[place]
    info = subgraph.tensors[index]
    found: tuple[Any, ...] = (info.is_constant,)
    if info.is_constant:
        found += (info.dtype, info.shape, bytes(subgraph.constants[index]))
    elif graph.format == "tflite":  # elsewhere shapes inside are notes that stripping removes
        found += (info.dtype, info.shape)
    # In .onnx, scales are inputs of operators, which are compared as such; two of them may share
    # one constant, which then has no scale of its own.
    if info.quantization is not None and graph.format == "tflite":
        scales, points = info.quantization.scales, info.quantization.zero_points
        found += (scales.tobytes(), points.tobytes(), info.quantization.axis)
    return found
