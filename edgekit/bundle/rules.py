"""What a manifest must say beyond its schema to make sense; ``manifest_fault`` names what is wrong.

The schema gives types; these rules give meaning: names that match, files that exist, numbers in
range. A manifest without a fault can be served, as far as its own words go.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from edgekit.bundle.manifest import Component, Golden, Manifest
from edgekit.bundle.paths import DOCUMENTS, collision, path_fault
from edgekit.core.artifact import Binding
from edgekit.core.codec import nearest
from edgekit.core.contract import (
    DTYPES,
    NO_ADAPTER,
    Adapter,
    Contract,
    Image,
    InputContract,
    Shape,
    Text,
)
from edgekit.core.verdict import Limit

MAXIMUM_FILES = 10_000

_SHA256 = re.compile(r"[0-9a-f]{64}")


def manifest_fault(manifest: Manifest) -> str:
    """The first thing that is wrong with a manifest, as a sentence; "" where nothing is."""
    for faults in (
        _file_faults(manifest),
        _component_faults(manifest),
        _golden_faults(manifest),
        _limit_faults(manifest.limits, manifest.waived),
    ):
        for fault in faults:
            return fault
    return ""


def _file_faults(manifest: Manifest) -> Iterator[str]:
    if not 0 < len(manifest.files) <= MAXIMUM_FILES:
        yield f"lists {len(manifest.files)} files; allowed: 1 to {MAXIMUM_FILES}"
    for entry in manifest.files:
        fault = path_fault(entry.path)
        if fault:
            yield f"files: the path {entry.path!r} {fault}"
        if entry.path.lower().split("/")[0] in DOCUMENTS:
            yield f"files: '{entry.path}' is a document and may not be listed"
        if entry.bytes < 0:
            yield f"files: '{entry.path}' has {entry.bytes} bytes"
        if not _SHA256.fullmatch(entry.sha256):
            yield f"files: the sha256 of '{entry.path}' is not 64 lower-case hex digits"
    paths = [entry.path for entry in manifest.files]
    clash = collision(paths)
    if clash:
        yield f"files: {clash}"
    if paths != sorted(paths):
        yield "files: not sorted by path"


def _component_faults(manifest: Manifest) -> Iterator[str]:
    paths = {entry.path for entry in manifest.files}
    if not manifest.components:
        yield "has no component"
    yield from _repeated("components", [item.name for item in manifest.components])
    for component in manifest.components:
        where = f"component '{component.name}'"
        artifact = component.artifact
        if artifact.entry not in paths:
            yield f"{where}: its artifact '{artifact.entry}' is not among the files"
        if artifact.batch < 0:
            yield f"{where}: batch is {artifact.batch}; 0 means any, else a size"
        yield from (f"{where}: {fault}" for fault in _contract_faults(component, paths))


def _contract_faults(component: Component, paths: set[str]) -> Iterator[str]:
    contract, artifact = component.contract, component.artifact
    sides: tuple[tuple[str, Sequence[Binding], list[tuple[str, str, Shape]]], ...] = (
        ("inputs", artifact.inputs, [(i.name, i.dtype, i.shape) for i in contract.inputs]),
        ("outputs", artifact.outputs, [(o.name, o.dtype, o.shape) for o in contract.outputs]),
    )
    for side, bindings, tensors in sides:
        if not tensors:
            yield f"the contract has no {side}"
        names = [name for name, _, _ in tensors]
        yield from _repeated(side, names)
        yield from _repeated(side, [str(item.position) for item in bindings])
        if sorted(item.name for item in bindings) != sorted(names):
            yield f"{side}: the artifact's names are not the contract's"
        yield from (
            f"{side}: '{item.name}' is at position {item.position}"
            for item in bindings
            if item.position < 0
        )
        for name, dtype, shape in tensors:
            yield from (f"{side}: '{name}' {fault}" for fault in _tensor_faults(dtype, shape))
    for item in contract.inputs:
        yield from (f"inputs: '{item.name}' {fault}" for fault in _source_faults(item, paths))
    if sum(isinstance(item.source, Adapter) for item in contract.inputs) > 1:
        yield "inputs: more than one takes an adapter"
    if not contract.given_inputs:
        yield "the contract has no input but an adapter"


def _tensor_faults(dtype: str, shape: Shape) -> Iterator[str]:
    if dtype not in DTYPES:
        yield f"has dtype '{dtype}'{nearest(dtype, DTYPES)}"
    if not shape:
        yield "has no batch axis"
    for size in shape:
        if isinstance(size, int) and size < 1:
            yield f"has an axis of size {size}"
        if size == "":
            yield "has an axis without a name"


def _source_faults(item: InputContract, paths: set[str]) -> Iterator[str]:
    source, inner = item.source, item.shape[1:]
    if isinstance(source, Text) and source.tokenizer not in paths:
        yield f"has the tokenizer '{source.tokenizer}', which is not among the files"
    if isinstance(source, Image):
        yield from _image_faults(source)
    if isinstance(source, Adapter):
        yield from _adapter_faults(source, paths)
    is_same = len(inner) == len(source.element_shape) and all(
        isinstance(size, str) or size == wanted
        for size, wanted in zip(inner, source.element_shape, strict=True)
    )
    if not is_same:
        yield f"has shape {item.shape}, but its samples have {source.element_shape}"
    if source.dtype != item.dtype:
        yield f"has dtype {item.dtype}, but its samples have {source.dtype}"


def _adapter_faults(source: Adapter, paths: set[str]) -> Iterator[str]:
    if not source.adapters:
        yield "has no adapter to choose"
    if source.dtype != "float32":
        yield f"has adapters of {source.dtype}; they are float32"
    for name, path in source.adapters.items():
        if name in NO_ADAPTER:
            yield f"has an adapter {name!r}, which stands for none"
        if path not in paths:
            yield f"has the adapter '{name}' in '{path}', which is not among the files"


def _image_faults(source: Image) -> Iterator[str]:
    for label, values in (("mean", source.mean), ("deviation", source.deviation)):
        if len(values) not in (1, source.channels):
            yield f"has {len(values)} values of {label} for {source.channels} channels"
    if 0.0 in source.deviation:
        yield "has a deviation of 0"


def _golden_faults(manifest: Manifest) -> Iterator[str]:
    golden: Golden = manifest.golden
    contract = manifest.components[0].contract
    paths = {entry.path for entry in manifest.files}
    inputs = {item.name for item in contract.given_inputs}
    outputs = {item.name for item in contract.outputs}
    if golden.samples < 1:
        yield f"golden: has {golden.samples} samples; at least 1 is needed for a self-test"
    for side, found, wanted in (
        ("inputs", set(golden.inputs), inputs),
        ("outputs", set(golden.outputs), outputs),
        ("tolerance", set(golden.tolerance), outputs),
    ):
        if found != wanted:
            yield f"golden: {side} are {sorted(found)}; the contract has {sorted(wanted)}"
    for path in (*golden.inputs.values(), *golden.outputs.values()):
        if path not in paths:
            yield f"golden: '{path}' is not among the files"
    yield from _golden_adapter_faults(golden, contract)
    for name, tolerance in golden.tolerance.items():
        if tolerance < 0:
            yield f"golden: the tolerance of '{name}' is {tolerance}"


def _golden_adapter_faults(golden: Golden, contract: Contract) -> Iterator[str]:
    chosen = () if golden.adapters is None else golden.adapters
    if len(chosen) != (golden.samples if contract.adapters else 0):
        yield f"golden: names {len(chosen)} adapters for {golden.samples} samples"
    allowed = [NO_ADAPTER[-1], *contract.adapters]
    for name in chosen:
        if name not in allowed:
            yield f"golden: '{name}' is no adapter{nearest(name, allowed)}"


def _limit_faults(limits: Sequence[Limit], waived: Sequence[str]) -> Iterator[str]:
    names = [limit.figure for limit in limits]
    if not limits:
        yield "has no limits, so nothing about it can be proven"
    yield from _repeated("limits", names)
    yield from _repeated("waived", waived)
    for limit in limits:
        if not limit.accepts:
            yield f"limits: '{limit.figure}' accepts no evidence"
    for name in waived:
        if name not in names:
            yield f"waived: '{name}' is no limit{nearest(name, names)}"


def _repeated(what: str, names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"{what}: '{name}' stands twice"
        seen.add(name)
