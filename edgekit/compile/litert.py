"""Stages of the LiteRT compiler: a float .tflite of a captured program, and quantized ones."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from edgekit.compile.facts import weighted_modules
from edgekit.compile.litert_convert import convert_program
from edgekit.compile.litert_names import follow_names, map_own_names, map_tensors
from edgekit.compile.litert_parity import Bindings, bind, require_parity
from edgekit.compile.litert_quantize import quantize_model
from edgekit.compile.litert_ranges import observe, watch
from edgekit.compile.litert_recipe import plan_recipe
from edgekit.compile.program import PROGRAM, load_program
from edgekit.compile.range_drift import compare, keep, read_kept
from edgekit.compile.trained import trained_of
from edgekit.core.artifact import Artifact, Binding
from edgekit.core.codec import canonical_json, from_plain, to_plain
from edgekit.core.contract import Contract
from edgekit.core.errors import CompileError, StepError
from edgekit.core.precision import INTEGERS
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.core.strategy import Quantize
from edgekit.data.dataset import open_dataset
from edgekit.graph.model import Graph
from edgekit.graph.reader import read_graph
from edgekit.graph.weights import weight_layers

MODEL = "model.tflite"
TENSOR_MAP = "tensor_map.json"


def export(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Stage: the captured program (or the user's float file) in ``model`` as ``model.tflite``.

    Settings: contract. Raises: CompileError for an operator that LiteRT has no form of, and for a
    graph that computes something else than the program.
    """
    contract = from_plain(Contract, request.settings["contract"], where="contract")
    folder = request.folder("model")
    if (folder / MODEL).is_file():
        return _take_file(folder / MODEL, out, contract)
    program = load_program(folder / PROGRAM)
    reporter.progress("exporting to LiteRT", 0.0)
    content, batch = _convert(program, contract, reporter)
    graph = read_graph(content, name=MODEL)
    bindings = bind(graph, contract)
    (out / MODEL).write_bytes(content)
    _write_map(out, map_tensors(graph, program, weighted_modules(program)))
    return {"artifact": to_plain(_artifact(bindings, batch))}


def _convert(program: ExportedProgram, contract: Contract, reporter: Reporter) -> tuple[bytes, int]:
    """The float .tflite, which computes what the program does, and its batch (0 for any).

    litert-torch 0.10 cannot flatten around every open batch axis, and turns a picture of one
    channel by a reshape with the batch that it was traced with, which the engine refuses.
    """
    if not contract.has_dynamic_batch:
        return _checked(program, contract, reporter, is_dynamic=False), 1
    try:
        return _checked(program, contract, reporter, is_dynamic=True), 0
    except CompileError as refusal:
        content = _checked(program, contract, reporter, is_dynamic=False)
        reporter.warn(
            f"the batch axis cannot stay open ({refusal}); exported for a batch of 1: a session "
            "runs the rows of a batch one by one"
        )
        return content, 1


def _checked(
    program: ExportedProgram, contract: Contract, reporter: Reporter, *, is_dynamic: bool
) -> bytes:
    content = convert_program(program, is_dynamic=is_dynamic)
    reporter.progress("comparing with torch", 0.8)
    bindings = bind(read_graph(content, name=MODEL), contract)
    require_parity(content, program, contract, bindings, 0 if is_dynamic else 1)
    return content


def quantize(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Stage: the model in ``float`` with fewer bits, calibrated on the dataset ``calibration``.

    Settings: artifact, quantize, contract. Returns the artifact, whether any weight is stored
    otherwise than before, and notes on layers that were not given what was asked.
    Raises: StepError for settings or data that cannot be used.
    """
    artifact = from_plain(Artifact, request.settings["artifact"], where="artifact")
    settings = from_plain(Quantize, request.settings["quantize"], where="quantize", error=StepError)
    folder = request.folder("float")
    content = (folder / artifact.entry).read_bytes()
    paths: dict[str, str] = json.loads((folder / TENSOR_MAP).read_bytes())
    is_calibrated = settings.activations == "static" and settings.precision in INTEGERS
    dataset = open_dataset(request.folder("calibration")) if is_calibrated else None
    quantized = quantize_model(
        content,
        artifact,
        paths,
        settings,
        dataset,
        reporter,
        adapter=_adapter_position(artifact, request.settings.get("contract")),
        trained=trained_of(request),
    )
    graph = read_graph(quantized.content, name=MODEL)
    (out / MODEL).write_bytes(quantized.content)
    _write_map(out, follow_names(graph, paths))
    for note in quantized.notes:
        reporter.note(note)
    return {
        "artifact": to_plain(replace(artifact, entry=MODEL, precision=settings.precision)),
        "changed": _stored(graph) != _stored(read_graph(content, name=MODEL)),
        "notes": list(quantized.notes),
        **keep(quantized.calibrated, settings, out),
    }


def compare_ranges(request: StageRequest, _: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Stage: how much of the dataset ``data`` lies outside the ranges in ``quantized``.

    Settings: artifact (of the float model in ``float``). Returns shares by tensor.
    """
    artifact = from_plain(Artifact, request.settings["artifact"], where="artifact")
    kept = read_kept(request.folder("quantized"))
    content = (request.folder("float") / artifact.entry).read_bytes()
    graph = read_graph(content, name=artifact.entry)
    adapter = _adapter_position(artifact, request.settings.get("contract"))
    paths: dict[str, str] = json.loads((request.folder("float") / TENSOR_MAP).read_bytes())
    watched = watch(graph, plan_recipe(graph, paths, kept.quantize, adapter=adapter))
    dataset = open_dataset(request.folder("data"))
    runs = observe(content, graph, artifact, watched, dataset, reporter)
    return compare(runs, watched, kept)


def _adapter_position(artifact: Artifact, plain: Any) -> int | None:
    contract = from_plain(Contract, plain, where="contract") if plain else None
    name = contract.adapter.name if contract and contract.adapter else None
    return next((item.position for item in artifact.inputs if item.name == name), None)


def _stored(graph: Graph) -> list[str]:
    return [layer.precision for layer in weight_layers(graph)]


def _take_file(path: Path, out: Path, contract: Contract) -> Mapping[str, Any]:
    graph = read_graph(path.read_bytes(), name=path.name)
    _require_float(graph)
    subgraph = graph.subgraphs[0]
    if len(subgraph.inputs) != len(contract.inputs):
        raise CompileError(
            f"{path.name} has {len(subgraph.inputs)} inputs, the contract {len(contract.inputs)}"
        )
    if len(subgraph.outputs) != len(contract.outputs):
        raise CompileError(
            f"{path.name} has {len(subgraph.outputs)} outputs, the contract {len(contract.outputs)}"
        )
    shutil.copyfile(path, out / MODEL)
    _write_map(out, map_own_names(graph))
    bindings = Bindings(
        inputs=tuple(Binding(name=item.name, position=i) for i, item in enumerate(contract.inputs)),
        outputs=tuple(
            Binding(name=item.name, position=i) for i, item in enumerate(contract.outputs)
        ),
    )
    head = contract.inputs[0].shape[0] if contract.inputs else 1
    batch = 0 if contract.has_dynamic_batch or not isinstance(head, int) else head
    return {"artifact": to_plain(_artifact(bindings, batch))}


def _require_float(graph: Graph) -> None:
    for subgraph in graph.subgraphs:
        for item in subgraph.tensors:
            has_scales = item.quantization is not None and item.quantization.scales.size
            if has_scales or item.dtype in ("float16", "int8", "int4", "uint8"):
                raise CompileError(
                    f"{graph.name}: tensor '{item.name}' is {item.dtype}, so the file is quantized "
                    "already; hand over the float model that it was made from"
                )


def _artifact(bindings: Bindings, batch: int) -> Artifact:
    return Artifact(
        format="tflite",
        runtime="litert",
        entry=MODEL,
        precision="float32",
        inputs=bindings.inputs,
        outputs=bindings.outputs,
        batch=batch,
    )


def _write_map(out: Path, paths: Mapping[str, str]) -> None:
    (out / TENSOR_MAP).write_bytes(canonical_json(paths))
