"""Stages of the ONNX compiler: a float model of a captured program, quantized ones, .ort files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from edgekit.compile.onnx_export import export_program
from edgekit.compile.onnx_file import read_file
from edgekit.compile.onnx_fold import fold_layouts, fold_lookups
from edgekit.compile.onnx_interface import rename_interface
from edgekit.compile.onnx_model import (
    MODEL,
    TENSOR_MAP,
    check,
    load,
    name_nodes,
    open_session,
    save,
    scratch_folder,
    tidy,
)
from edgekit.compile.onnx_norms import part_sums_from_norms
from edgekit.compile.onnx_ort import ORT_MODEL, convert
from edgekit.compile.onnx_pads import merge_slices
from edgekit.compile.onnx_parity import require_parity
from edgekit.compile.onnx_quantize import apply, watch_static
from edgekit.compile.onnx_ranges import BATCH_SAMPLES, Samples, observe
from edgekit.compile.program import PROGRAM, load_program
from edgekit.compile.range_drift import compare, keep, read_kept
from edgekit.compile.trained import trained_of
from edgekit.core.artifact import Artifact, Binding
from edgekit.core.codec import from_plain, to_plain
from edgekit.core.contract import Contract, InputContract, OutputContract
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.core.strategy import Quantize
from edgekit.data.dataset import open_dataset

_PLATFORMS = ("arm", "amd64")
# A little more is names and layout; a lot is weights that were widened.
_GROWTH_WORTH_SAYING = 1.2


def export(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Stage: the captured program (or the user's float file) in ``model`` as ``model.onnx``.

    Settings: contract. Raises: CompileError for an operator without an ONNX form, a graph that is
    not the contract's, or one that computes something else than the program.
    """
    contract = from_plain(Contract, request.settings["contract"], where="contract")
    folder = request.folder("model")
    is_program = (folder / PROGRAM).is_file()
    reporter.progress("exporting to ONNX", 0.0)
    with scratch_folder(out) as scratch:
        program = load_program(folder / PROGRAM) if is_program else None
        exported = export_program(program) if program else read_file(folder, scratch, reporter)
    model = exported.model
    rename_interface(model, contract)
    merge_slices(model)
    paths = fold_layouts(model, fold_lookups(model, exported.paths))
    part_sums_from_norms(model)
    tidy(model)
    name_nodes(model)
    check(model, "the exported graph")
    if program is not None:
        reporter.progress("comparing with torch", 0.7)
        require_parity(model.SerializeToString(), program, contract, request.seed)
    save(model, paths, out)
    return {"artifact": to_plain(_describe(contract))}


def _describe(contract: Contract) -> Artifact:
    return Artifact(
        format="onnx",
        runtime="onnx",
        entry=MODEL,
        precision="float32",
        inputs=_bindings(contract.inputs),
        outputs=_bindings(contract.outputs),
        batch=0 if contract.has_dynamic_batch else _fixed_batch(contract),
    )


def _bindings(items: Sequence[InputContract | OutputContract]) -> tuple[Binding, ...]:
    return tuple(Binding(name=item.name, position=index) for index, item in enumerate(items))


def _fixed_batch(contract: Contract) -> int:
    sizes = [item.shape[0] for item in contract.inputs if isinstance(item.shape[0], int)]
    return sizes[0] if sizes else 1


def quantize(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Stage: the model in ``float`` with fewer bits, calibrated on the dataset ``calibration``.

    Settings: artifact, quantize, contract. Returns the artifact, whether anything changed, notes.
    Raises: StepError for settings or data that cannot be used.
    """
    artifact = from_plain(Artifact, request.settings["artifact"], where="artifact")
    settings = from_plain(Quantize, request.settings["quantize"], where="quantize", error=StepError)
    folder = request.folder("float")
    model = load(folder)
    before = model.SerializeToString(deterministic=True)
    paths = json.loads((folder / TENSOR_MAP).read_bytes())
    samples = _samples(request, model, "calibration", reporter)
    with scratch_folder(out) as scratch:
        result = apply(model, paths, settings, samples, scratch, trained_of(request))
    tidy(result.model)
    check(result.model, "the quantized graph")
    open_session(result.model.SerializeToString())
    save(result.model, result.paths, out)
    is_changed = result.model.SerializeToString(deterministic=True) != before
    for note in result.notes:
        reporter.note(note)
    made = replace(artifact, precision=settings.precision)
    return {
        "artifact": to_plain(made),
        "changed": is_changed,
        "notes": list(result.notes),
        **keep(result.calibrated, settings, out),
    }


def compare_ranges(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Stage: how much of the dataset ``data`` lies outside the ranges in ``quantized``.

    Settings: artifact (of the float model in ``float``). Returns shares by tensor.
    """
    kept = read_kept(request.folder("quantized"))
    model = load(request.folder("float"))
    paths = json.loads((request.folder("float") / TENSOR_MAP).read_bytes())
    samples = _samples(request, model, "data", reporter)
    with scratch_folder(out) as scratch:
        model, watched = watch_static(model, paths, kept.quantize, samples, scratch)
    return compare(observe(model, watched, samples), watched, kept)


def _samples(request: StageRequest, model: ModelProto, role: str, reporter: Reporter) -> Samples:
    artifact = from_plain(Artifact, request.settings["artifact"], where="artifact")
    names = {item.name: model.graph.input[item.position].name for item in artifact.inputs}
    return Samples(
        dataset=lambda: open_dataset(request.folder(role)),
        batch=artifact.batch or BATCH_SAMPLES,
        is_batch_fixed=artifact.batch > 0,
        inputs=names,
        reporter=reporter,
        adapter=_adapter_input(names, request.settings.get("contract")),
    )


def _adapter_input(names: Mapping[str, str], plain: Any) -> str:
    contract = from_plain(Contract, plain, where="contract") if plain else None
    return names[contract.adapter.name] if contract and contract.adapter else ""


def to_ort(request: StageRequest, out: Path, reporter: Reporter) -> Mapping[str, Any]:
    """Stage: the final .onnx in ``artifact`` as ``model.ort``.

    Settings: artifact, platform ("arm" or "amd64"). Returns the artifact and notes.
    Raises: CompileError when ONNX Runtime refuses the model; StepError for another platform.
    """
    artifact = from_plain(Artifact, request.settings["artifact"], where="artifact")
    platform = request.settings["platform"]
    if platform not in _PLATFORMS:
        raise StepError(
            f"to_ort: platform '{platform}' is not known; allowed: {', '.join(_PLATFORMS)}"
        )
    source = (request.folder("artifact") / artifact.entry).read_bytes()
    convert(source, out / ORT_MODEL, platform)
    size = (out / ORT_MODEL).stat().st_size
    notes = [
        "not deterministic: ONNX Runtime writes tables of an .ort in the order of a hash map, so "
        "the bundle_id may differ between builds of the same input"
    ]
    if size > len(source) * _GROWTH_WORTH_SAYING:
        notes.append(
            f".ort holds weights as they are computed with: {size} bytes, {len(source)} as .onnx"
        )
    for note in notes:
        reporter.warn(note)
    made = replace(artifact, format="ort", entry=ORT_MODEL)
    return {"artifact": to_plain(made), "notes": notes}
