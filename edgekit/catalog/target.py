"""A target: ``target.toml`` and its ``operators.toml`` as a ``core.target.Target``."""

import re
from typing import get_args

from edgekit.catalog.document import Document, Node, read_document
from edgekit.catalog.hardware import ABIS
from edgekit.catalog.profile import check_schema
from edgekit.catalog.reading import (
    any_table,
    choice,
    choices,
    fail,
    flag,
    items,
    table,
    text,
    texts,
    whole,
)
from edgekit.catalog.search import TARGET_FOLDER, locate_target
from edgekit.core.precision import Precision
from edgekit.core.target import (
    OperatorSupport,
    PrecisionSupport,
    RuntimeLibrary,
    Support,
    Target,
    Toolchain,
)

OPERATORS_FILE = "operators.toml"
PRECISIONS: tuple[str, ...] = get_args(Precision)
LAYER_KINDS = ("conv", "depthwise", "linear", "embedding", "recurrent", "other")
SUPPORTS: tuple[Support, ...] = ("native", "fallback", "unsupported")

_REQUIRED = (
    *("schema", "name", "title", "format", "suffix", "compiler", "runtime"),
    *("runtime_package", "minimum_runtime_version", "toolchain", "precision"),
)
_OPTIONAL = ("summary", "runtime_library")
_LIBRARY_REQUIRED = ("abi", "bytes", "version", "sha256", "source")
_LIBRARY_OPTIONAL = ("at_most_bytes", "at_most_source", "is_stand_in")
_PINNED = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(\[[a-z0-9,_-]+\])?==[0-9][A-Za-z0-9.!+]*$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
_VERSION = re.compile(r"^[0-9]+(\.[0-9A-Za-z]+)*$")


def load_target(name_or_path: str) -> Target:
    """The target of a name, of a folder or of a ``target.toml``, with its operators.

    Raises: ProfileError with file and line for whatever is wrong in the TOML, and for an unknown
    name.
    """
    entry = locate_target(name_or_path)
    main = read_document(entry.path, name=f"{entry.name}/{entry.path.name}")
    path = entry.path.parent / OPERATORS_FILE
    operators = read_document(path, name=f"{entry.name}/{path.name}")
    keys = table(main.root, required=_REQUIRED, optional=_OPTIONAL)
    check_schema(keys["schema"])
    if text(keys["name"]) != entry.name:
        fail(keys["name"], f"the name is '{text(keys['name'])}', the folder's name says"
             f" '{entry.name}': make them the same")  # fmt: skip
    libraries = keys.get("runtime_library")
    proven = _matching(keys["minimum_runtime_version"], _VERSION, "a version such as 1.2.3")
    return Target(
        name=text(keys["name"]),
        title=text(keys["title"]),
        format=text(keys["format"]),
        suffix=_matching(keys["suffix"], re.compile(r"^\.[a-z0-9]+$"), "a suffix such as .onnx"),
        compiler=text(keys["compiler"]),
        runtime=text(keys["runtime"]),
        runtime_package=text(keys["runtime_package"]),
        minimum_runtime_version=proven,
        toolchain=_read_toolchain(keys["toolchain"]),
        runtime_libraries=() if libraries is None else _read_libraries(libraries, proven),
        precisions=_read_precisions(keys["precision"]),
        operators=_read_operators(operators.root),
        summary=text(keys["summary"]) if "summary" in keys else "",
        origin=str(entry.path),
        digests=_digests(entry.name, main, operators),
    )


def _read_toolchain(node: Node) -> Toolchain:
    parts = table(node, required=("requirements", "modules"), optional=("lock", "extra"))
    for item in items(parts["requirements"]):
        _matching(item, _PINNED, "a requirement with an exact version, such as onnx==1.2.3")
    return Toolchain(
        requirements=texts(parts["requirements"]),
        modules=texts(parts["modules"]),
        lock=text(parts["lock"]) if "lock" in parts else "",
        extra=text(parts["extra"]) if "extra" in parts else "",
    )


def _read_libraries(node: Node, proven: str) -> tuple[RuntimeLibrary, ...]:
    found = tuple(_read_library(item) for item in items(node))
    for item, library in zip(items(node), found, strict=True):
        _check_version(item, library, proven)
    for index, library in enumerate(found):
        if library.abi in [earlier.abi for earlier in found[:index]]:
            fail(items(node)[index], f"the library for '{library.abi}' stands twice")
    return found


def _read_library(node: Node) -> RuntimeLibrary:
    parts = table(node, required=_LIBRARY_REQUIRED, optional=_LIBRARY_OPTIONAL)
    abi = choice(parts["abi"], ABIS, "ABI")
    if abi == "none":
        fail(parts["abi"], "bare metal has no runtime library")
    if ("at_most_bytes" in parts) != ("at_most_source" in parts):
        fail(node, "'at_most_bytes' and 'at_most_source' go together: a bound needs its reason")
    count = whole(parts["bytes"], least=1)
    bound = parts.get("at_most_bytes")
    return RuntimeLibrary(
        abi=abi,
        bytes=count,
        version=_matching(parts["version"], _VERSION, "a version such as 1.2.3"),
        sha256=_matching(parts["sha256"], _SHA256, "64 hexadecimal digits"),
        source=text(parts["source"]),
        at_most_bytes=None if bound is None else whole(bound, least=count),
        at_most_source="" if bound is None else text(parts["at_most_source"]),
        is_stand_in=flag(parts["is_stand_in"]) if "is_stand_in" in parts else False,
    )


def _check_version(node: Node, library: RuntimeLibrary, proven: str) -> None:
    """Another version's bytes are no citation of this one's without a bound or an open word."""
    is_exact = library.version == proven
    if is_exact or library.at_most_bytes is not None or library.is_stand_in:
        return
    fail(node, f"the library is of version {library.version}, the artifacts are proven on {proven}:"
         " state 'at_most_bytes' and 'at_most_source' for that version, or 'is_stand_in = true',"
         " which settles no limit")  # fmt: skip


def _read_precisions(node: Node) -> tuple[PrecisionSupport, ...]:
    found: list[PrecisionSupport] = []
    for item in items(node):
        parts = table(item, required=("name", "layers"), optional=("note",))
        name = choice(parts["name"], PRECISIONS, "precision")
        if name in [earlier.precision for earlier in found]:
            fail(parts["name"], f"precision '{name}' stands twice")
        layers = choices(parts["layers"], LAYER_KINDS, "kind of layer")
        note = text(parts["note"]) if "note" in parts else ""
        found.append(PrecisionSupport(precision=name, layers=layers, note=note))
    return tuple(found)


def _read_operators(root: Node) -> tuple[OperatorSupport, ...]:
    keys = table(root, required=("schema", *SUPPORTS), optional=("notes",))
    check_schema(keys["schema"])
    notes = any_table(keys["notes"]) if "notes" in keys else {}
    found: dict[str, OperatorSupport] = {}
    for support in SUPPORTS:
        for item in items(keys[support]):
            name = text(item)
            if name in found:
                fail(item, f"'{name}' is both {found[name].support} and {support}")
            note = text(notes[name]) if name in notes else ""
            found[name] = OperatorSupport(name=name, support=support, note=note)
    for name, note_node in notes.items():
        if name not in found:
            fail(note_node, f"a note on '{name}', which no list names")
    return tuple(found[name] for name in sorted(found))


def _digests(name: str, *documents: Document) -> dict[str, str]:
    return {f"{TARGET_FOLDER}/{name}/{item.path.name}": item.digest for item in documents}


def _matching(node: Node, pattern: re.Pattern[str], wanted: str) -> str:
    value = text(node)
    if not pattern.match(value):
        fail(node, f"{node.label} is '{value[:80]}', not {wanted}")
    return value
