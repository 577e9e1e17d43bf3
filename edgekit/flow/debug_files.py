"""Finds the two models that are compared: the artifact that ships, and the float one before it.

The manifest names the stages that made the bundle, with the digests of what they gave: that is how
the float artifact, with the names of its tensors, is found in the cache. A file that the user
hands over stands in for it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from edgekit.bundle.manifest import StageRecord
from edgekit.bundle.verify import VerifiedBundle
from edgekit.core.artifact import Artifact, Binding
from edgekit.core.codec import from_plain
from edgekit.core.contract import Contract
from edgekit.core.errors import InputError
from edgekit.flow.making import TENSOR_MAP
from edgekit.graph import Graph, read_graph
from edgekit.graph.weights import weight_layers
from edgekit.measure.audit_subject import FLOATS
from edgekit.measure.debug import Side
from edgekit.store import Store, StoredResult

_KEY = re.compile("[0-9a-f]{64}")
EXPORTS = ("export compressed", "export")
_FORMATS = {"tflite": "tflite", "onnx": "onnx", "ort": "onnx"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatModel:
    """The float side. source: where it came from. tensor_map: tensor name to module path."""

    side: Side
    source: str
    tensor_map: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DebugFiles:
    """Both sides. named: the artifact's graph before its names were stripped, where it is found."""

    original: FloatModel
    side: Side
    named: Graph | None
    notes: tuple[str, ...] = ()


@contextmanager
def find_files(bundle: VerifiedBundle, float_file: Path | None) -> Iterator[DebugFiles]:
    """The models of a verified bundle; the cache holds its entries while this is open.

    Raises: InputError where the bundle's artifact is a float model itself, or its float model is
    neither in the cache nor handed over.
    """
    records = bundle.manifest.lineage.stages
    exported = next((item for name in EXPORTS for item in records if item.name == name), None)
    changed = next((item for item in records if item.name == "quantize"), None)
    if changed is None:
        raise InputError(
            f"{bundle.name}: nothing to debug: no step has quantized its artifact, which is the "
            "float model as it was exported"
        )
    with Store() as store:
        named = _stored(store, changed)
        side, graph, notes = _artifact(bundle, named)
        if float_file is not None:
            original = _from_file(float_file, bundle, side)
        else:
            found = None if exported is None else _stored(store, exported)
            original = _from_store(found) if found else _nowhere(bundle, store)
            notes += _after_steps(bundle)
        yield DebugFiles(original=original, side=side, named=graph, notes=notes)


def _stored(store: Store, record: StageRecord) -> StoredResult | None:
    """A stage's result, if it is the very one that the bundle was made of."""
    # A bundle may come from anywhere, and the store wants no other text for a key.
    found = store.get(record.key) if _KEY.fullmatch(record.key) else None
    return found if found is not None and found.digest == record.output else None


def _side(result: StoredResult) -> Side:
    artifact = from_plain(Artifact, result.values["artifact"], where="artifact")
    content = (result.folder / artifact.entry).read_bytes()
    return Side(model=content, graph=read_graph(content, name=artifact.entry), artifact=artifact)


def _artifact(
    bundle: VerifiedBundle, stored: StoredResult | None
) -> tuple[Side, Graph | None, tuple[str, ...]]:
    """What is run: the file that ships; in the place of an .ort the .onnx that it was made from."""
    artifact = bundle.manifest.components[0].artifact
    before = None if stored is None else _side(stored)
    if artifact.format != "ort":
        content = bytes(bundle.read(artifact.entry))
        graph = read_graph(content, name=artifact.entry)
        side = Side(model=content, graph=graph, artifact=artifact)
        return side, None if before is None else before.graph, ()
    if before is None:
        raise InputError(
            f"{bundle.name}: an .ort file cannot be read layer by layer, and the .onnx that it was "
            f"made from is not in the cache; {_rebuild(bundle)}"
        )
    note = "the .onnx that the bundle's .ort was made from is compared, with the same weights"
    return before, before.graph, (note,)


def _from_store(result: StoredResult) -> FloatModel:
    path = result.folder / TENSOR_MAP
    paths = json.loads(path.read_bytes()) if path.is_file() else {}
    return FloatModel(side=_side(result), source="the cache", tensor_map=paths)


def _after_steps(bundle: VerifiedBundle) -> tuple[str, ...]:
    """That the float model is not the user's own, where steps changed it before it was exported."""
    steps = bundle.manifest.strategy.steps
    names = [item.name for item in steps if item.is_run and item.name != "quantize"]
    if not names:
        return ()
    return (
        f"the float model is what {', '.join(names)} left, so what these steps changed themselves "
        "is in no figure here; --float FILE with your own export shows it",
    )


def _nowhere(bundle: VerifiedBundle, store: Store) -> NoReturn:
    raise InputError(
        f"{bundle.name}: its float model is not in the cache {store.root}; hand it over with "
        f"--float FILE, or {_rebuild(bundle)}"
    )


def _rebuild(bundle: VerifiedBundle) -> str:
    manifest = bundle.manifest
    return (
        "build it again, which keeps it there, and debug the new bundle: edgekit build WORKLOAD "
        f"--device {manifest.device} --target {manifest.target} --effort {manifest.effort} "
        f"--seed {manifest.seed}"
    )


def _from_file(path: Path, bundle: VerifiedBundle, side: Side) -> FloatModel:
    try:
        content = path.read_bytes()
    except OSError as fault:
        raise InputError(f"--float {path}: cannot be read: {fault.strerror}") from fault
    graph = read_graph(content, name=path.name)
    wanted = _FORMATS.get(side.artifact.format, side.artifact.format)
    if graph.format != wanted:
        raise InputError(
            f"--float {path}: is a .{graph.format}, and the bundle's artifact is a .{wanted}; "
            f"hand over the float model as .{wanted}"
        )
    integers = sorted({item.precision for item in weight_layers(graph)} - set(FLOATS))
    if integers:
        raise InputError(
            f"--float {path}: has weights stored as {', '.join(integers)}; hand over the float "
            "model that it was made from"
        )
    contract = bundle.manifest.components[0].contract
    artifact = replace(side.artifact, inputs=_bound(path, graph, side, contract))
    return FloatModel(
        side=Side(model=content, graph=graph, artifact=artifact),
        source=str(path),
        tensor_map={},
    )


def _bound(path: Path, graph: Graph, side: Side, contract: Contract) -> tuple[Binding, ...]:
    """The file's inputs by the contract's names where it has them, else in the artifact's order."""
    subgraph = graph.subgraphs[0]
    names = [subgraph.tensors[index].name for index in subgraph.inputs]
    if len(names) != len(contract.inputs) or len(subgraph.outputs) != len(contract.outputs):
        raise InputError(
            f"--float {path}: has {len(names)} inputs and {len(subgraph.outputs)} outputs, the "
            f"bundle {len(contract.inputs)} and {len(contract.outputs)}: it is another model"
        )
    if set(names) != {item.name for item in contract.inputs}:
        return side.artifact.inputs
    return tuple(Binding(name=name, position=place) for place, name in enumerate(names))
