"""A float .onnx or .tflite as a source: its facts and contract are read from the file itself."""

import hashlib
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.core.contract import Contract, InputContract, OutputContract
from edgekit.core.errors import CompileError, SessionError, WorkloadError
from edgekit.core.facts import LayerFact, LayerKind, ModelFacts, ModelFamily, OperatorFact
from edgekit.core.progress import Reporter
from edgekit.flow.sources import Source
from edgekit.graph import Graph, Operator, Subgraph, read_graph
from edgekit.runtime.engine import EngineTensor
from edgekit.runtime.engines import open_engine

RUNTIMES = {"onnx": "onnx", "tflite": "litert"}
LAYERS: dict[str, LayerKind] = {
    "CONV_2D": "conv",
    "CONV_3D": "conv",
    "TRANSPOSE_CONV": "conv",
    "DEPTHWISE_CONV_2D": "depthwise",
    "FULLY_CONNECTED": "linear",
    "EMBEDDING_LOOKUP": "embedding",
    "Conv": "conv",
    "ConvTranspose": "conv",
    "Gemm": "linear",
    "MatMul": "linear",
    "Gather": "embedding",
    "LSTM": "recurrent",
    "GRU": "recurrent",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "recurrent",
}
INTEGER_OPERATORS = ("DEQUANTIZE", "QLinearConv", "QLinearMatMul", "DequantizeLinear")
MIN_WEIGHT_RANK = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedGraph:
    """What ``capture`` gives for a torch model, for a graph file."""

    facts: ModelFacts
    contract: Contract


def capture_graph(source: Source, out: Path, reporter: Reporter) -> CapturedGraph:
    """Copy the file into ``out`` as ``model.onnx`` or ``model.tflite`` and describe it.

    Raises: CompileError when it is quantized already or its engine refuses it; WorkloadError when
    the workload's inputs and outputs are not the file's.
    """
    path, form = Path(source.workload.model), source.format
    content = path.read_bytes()
    graph = read_graph(content, name=path.name)
    _require_float(graph, path)
    shutil.copyfile(path, out / f"model.{form}")
    try:
        engine = open_engine(RUNTIMES[form], content)
    except SessionError as refusal:
        raise CompileError(f"{path}: {refusal}; export the model again") from refusal
    try:
        contract = _contract(source, engine.inputs, engine.outputs)
    finally:
        engine.close()
    reporter.note(f"{path.name}: taken as it is, a float {form} graph")
    return CapturedGraph(facts=facts_of_graph(graph, content), contract=contract)


def facts_of_graph(graph: Graph, content: bytes) -> ModelFacts:
    """The numbers of a float graph; shapes that the file does not state count as nothing."""
    main = graph.subgraphs[0]
    layers = tuple(_layers(main))
    parameters = sum(item.elements for item in main.tensors if item.is_constant)
    form: Literal["onnx", "tflite"] = "onnx" if graph.format == "onnx" else "tflite"
    return ModelFacts(
        family=_family(main, layers),
        parameters=parameters,
        weight_bytes=graph.weight_bytes,
        macs=sum(layer.macs for layer in layers),
        peak_activation_bytes=_peak_activation_bytes(main),
        operators=tuple(
            OperatorFact(operator=item.name, module_path=_output_name(main, item))
            for item in main.operators
        ),
        layers=layers,
        source_format=form,
        digest=hashlib.sha256(content).hexdigest(),
    )


def _layers(graph: Subgraph) -> Iterator[LayerFact]:
    for item in graph.operators:
        kind = LAYERS.get(item.name)
        weight = next(
            (
                graph.tensors[index]
                for index in item.inputs
                if index >= 0
                and graph.tensors[index].is_constant
                and len(graph.tensors[index].shape) >= MIN_WEIGHT_RANK
            ),
            None,
        )
        if kind is None or weight is None:
            continue
        if kind == "conv" and item.name == "Conv" and weight.shape[1] == 1 and weight.shape[0] > 1:
            kind = "depthwise"
        yield LayerFact(
            module_path=weight.name,
            kind=kind,
            weight_shape=weight.shape,
            parameters=weight.elements,
            macs=_macs(graph, item, kind, weight.elements),
        )


def _macs(graph: Subgraph, item: Operator, kind: LayerKind, elements: int) -> int:
    if kind == "embedding":
        return 0
    shape = graph.tensors[item.outputs[0]].shape
    if kind not in ("conv", "depthwise") or len(shape) < MIN_WEIGHT_RANK + 1:
        return elements
    spatial = shape[1:-1] if item.name.isupper() else shape[2:]
    return elements * math.prod(length for length in spatial if length > 0)


def _family(graph: Subgraph, layers: tuple[LayerFact, ...]) -> ModelFamily:
    kinds = {layer.kind for layer in layers}
    names = {item.name for item in graph.operators}
    is_attention = bool(names & {"SOFTMAX", "Softmax"}) and bool(names & {"BATCH_MATMUL", "MatMul"})
    if kinds & {"conv", "depthwise"}:
        return "convnet"
    if is_attention and "embedding" in kinds:
        return "transformer"
    return "mlp" if kinds == {"linear"} else "other"


def _peak_activation_bytes(graph: Subgraph) -> int:
    """The largest sum of one operator's inputs and outputs: a lower bound of what is live."""
    peak = 0
    for item in graph.operators:
        tensors = {index for index in (*item.inputs, *item.outputs) if index >= 0}
        live = sum(
            4 * graph.tensors[index].elements
            for index in tensors
            if not graph.tensors[index].is_constant
        )
        peak = max(peak, live)
    return peak


def _output_name(graph: Subgraph, item: Operator) -> str:
    return graph.tensors[item.outputs[0]].name if item.outputs else ""


def _require_float(graph: Graph, path: Path) -> None:
    for subgraph in graph.subgraphs:
        for tensor in subgraph.tensors:
            if tensor.quantization is not None and tensor.dtype in ("int8", "uint8", "int4"):
                raise CompileError(
                    f"{path.name}: tensor {tensor.name!r} is {tensor.dtype}: the file is "
                    "quantized already; give the float model that it was made from"
                )
            if tensor.is_constant and tensor.dtype == "float16":
                raise CompileError(
                    f"{path.name}: tensor {tensor.name!r} is float16: the file is in half "
                    "precision already; give the float model that it was made from"
                )
        for item in subgraph.operators:
            if item.name in INTEGER_OPERATORS:
                raise CompileError(
                    f"{path.name}: it holds {item.name}, so it is quantized already; give the "
                    "float model that it was made from"
                )


def _contract(
    source: Source, inputs: tuple[EngineTensor, ...], outputs: tuple[EngineTensor, ...]
) -> Contract:
    workload = source.workload
    for kind, named, found in (
        ("inputs", workload.inputs, inputs),
        ("outputs", workload.outputs, outputs),
    ):
        if len(named) != len(found):
            there = ", ".join(item.name for item in found)
            raise WorkloadError(
                f"{source.origin}: the workload names {len(named)} {kind}, the file has "
                f"{len(found)}: {there}"
            )
    return Contract(
        inputs=tuple(
            InputContract(name=name, dtype=tensor.dtype.name, shape=_shape(tensor), source=kind)
            for (name, kind), tensor in zip(workload.inputs.items(), inputs, strict=True)
        ),
        outputs=tuple(
            OutputContract(
                name=name, dtype=tensor.dtype.name, shape=_shape(tensor), meaning=meaning
            )
            for (name, meaning), tensor in zip(workload.outputs.items(), outputs, strict=True)
        ),
    )


def _shape(tensor: EngineTensor) -> tuple[int | str, ...]:
    head = tensor.shape[0] if tensor.shape else 1
    return ("batch" if head < 0 else head, *tensor.shape[1:])
