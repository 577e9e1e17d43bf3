"""A device profile: TOML, and what it inherits, as a ``core.profile.DeviceProfile``."""

from dataclasses import dataclass
from typing import Any, cast

from edgekit.catalog.document import Document, Node, read_document
from edgekit.catalog.figures import FIGURES, FigureKind
from edgekit.catalog.hardware import OPTIONAL_FACTS, read_bytes, read_hardware
from edgekit.catalog.reading import (
    any_table,
    choice,
    choices,
    fail,
    flag,
    items,
    number,
    plain,
    quantity,
    table,
    text,
    whole,
)
from edgekit.catalog.search import PROFILE_FOLDER, Entry, locate_profile
from edgekit.core.codec import nearest
from edgekit.core.errors import ProfileError
from edgekit.core.profile import DeviceProfile
from edgekit.core.strategy import CONDITIONS, Step
from edgekit.core.verdict import EvidenceKind, Limit, Sense

SCHEMA = 1
FAMILIES = ("phone", "embedded", "edge-server", "laptop")
BOUNDS = tuple(sense.value for sense in Sense)

# Said by each file for itself; everything else is inherited through `extends`.
_OWN = ("schema", "name", "title", "extends", "summary", "is_generic")
_REQUIRED = ("schema", "name", "title")
_INHERITED_REQUIRED = ("family", "default_target", "hardware", "limits", "strategy")
_OPTIONAL = ("threads", "reserve_ram", "reserve_flash", "float_share_tolerance")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chain:
    """The files of one profile, its own first, each with the name that it goes by."""

    documents: tuple[Document, ...]
    names: tuple[str, ...]


def load_profile(name_or_path: str) -> DeviceProfile:
    """The device profile of a name or of a file, with everything that it inherits.

    Raises: ProfileError with file and line for whatever is wrong in the TOML, and for an unknown
    name.
    """
    chain = _read_chain(locate_profile(name_or_path))
    merged = chain.documents[-1].root
    for document in reversed(chain.documents[:-1]):
        merged = _merge(document.root, merged)
    return _convert(merged, chain)


def _read_chain(entry: Entry) -> _Chain:
    documents: list[Document] = []
    names: list[str] = []
    next_entry: Entry | None = entry
    while next_entry is not None:
        document = read_document(next_entry.path, name=next_entry.path.name)
        documents.append(document)
        names.append(_check_own_keys(document.root, next_entry))
        next_entry = _parent(document.root, tuple(documents), names)
    return _Chain(documents=tuple(documents), names=tuple(names))


def _check_own_keys(root: Node, entry: Entry) -> str:
    own = table(root, required=_REQUIRED, optional=(*_OWN, *_INHERITED_REQUIRED, *_OPTIONAL))
    check_schema(own["schema"])
    name = text(own["name"])
    if name != entry.name:
        fail(own["name"], f"the name is '{name}', the file's name says '{entry.name}': make them"
             " the same")  # fmt: skip
    return name


def check_schema(node: Node) -> None:
    """Refuse a file that was written for another edgekit."""
    stated = whole(node, least=0)
    if stated != SCHEMA:
        fail(node, f"schema {stated} is not known to this edgekit; it reads schema {SCHEMA}")


def _parent(root: Node, documents: tuple[Document, ...], names: list[str]) -> Entry | None:
    if "extends" not in root.value:
        return None
    node = root.value["extends"]
    parent = text(node)
    if "/" in parent or parent.endswith(".toml"):
        fail(node, f"extends is '{parent}'; write the name of a profile, not a path")
    seen = tuple(document.path for document in documents)
    try:
        # A profile of the user's may extend the built-in one of the same name.
        entry = locate_profile(parent, skip=(*seen, *(path.absolute() for path in seen)))
    except ProfileError as wrong:
        if parent in names:
            fail(node, f"profiles extend each other: {' -> '.join((*names, parent))}")
        raise ProfileError(f"{node.where}: {wrong}") from wrong
    if entry.path.resolve() in {path.resolve() for path in seen}:
        fail(node, f"profiles extend each other: {' -> '.join((*names, parent))}")
    return entry


def _merge(child: Node, parent: Node) -> Node:
    """The child's file on top of its parent's; the parent's own title and the like are dropped."""
    merged = {key: item for key, item in parent.value.items() if key not in _OWN}
    if "is_generic" in parent.value and "hardware" in merged:
        merged["hardware"] = _without_assumptions(merged["hardware"])
    for key, item in child.value.items():
        if key in ("hardware", "limits") and key in merged and item.is_table:
            merged[key] = _merge_table(item, merged[key], is_limits=key == "limits")
        else:
            merged[key] = item
    return Node(value=merged, path=child.path, source=child.source)


def _without_assumptions(hardware: Node) -> Node:
    """What a generic profile assumes (memory, cores) is no fact of a real device."""
    kept = {key: item for key, item in any_table(hardware).items() if key not in OPTIONAL_FACTS}
    return Node(value=kept, path=hardware.path, source=hardware.source)


def _merge_table(child: Node, parent: Node, *, is_limits: bool) -> Node:
    merged = dict(any_table(parent))
    for key, item in child.value.items():
        # A fact is replaced whole: a new value must not keep the old one's source.
        if is_limits and key in merged and item.is_table and merged[key].is_table:
            merged[key] = _merge_limit(item, merged[key])
        else:
            merged[key] = item
    return Node(value=merged, path=child.path, source=child.source)


def _merge_limit(child: Node, parent: Node) -> Node:
    dropped = BOUNDS if any(key in child.value for key in BOUNDS) else ()
    kept = {key: item for key, item in parent.value.items() if key not in dropped}
    return Node(value={**kept, **child.value}, path=child.path, source=child.source)


def _convert(root: Node, chain: _Chain) -> DeviceProfile:
    keys = table(
        root,
        required=(*_REQUIRED, *_INHERITED_REQUIRED),
        optional=(*_OWN, *_OPTIONAL),
    )
    optional: dict[str, Any] = {}
    if "threads" in keys:
        optional["threads"] = whole(keys["threads"], least=1, most=1024)
    for name in ("reserve_ram", "reserve_flash"):
        if name in keys:
            optional[name] = read_bytes(keys[name])
    if "float_share_tolerance" in keys:
        optional["float_share_tolerance"] = number(keys["float_share_tolerance"], least=0, most=1)
    if "is_generic" in keys:
        optional["is_generic"] = flag(keys["is_generic"])
    if "summary" in keys:
        optional["summary"] = text(keys["summary"])
    return DeviceProfile(
        name=text(keys["name"]),
        title=text(keys["title"]),
        family=cast(Any, choice(keys["family"], FAMILIES, "family")),
        hardware=read_hardware(keys["hardware"]),
        default_target=text(keys["default_target"]),
        limits=_read_limits(keys["limits"]),
        steps=_read_steps(keys["strategy"]),
        extends=chain.names[1:],
        origin=str(chain.documents[0].path),
        digests=_digests(chain),
        **optional,
    )


def _read_limits(node: Node) -> tuple[Limit, ...]:
    limits = any_table(node)
    if not limits:
        fail(node, "there is no limit in [limits], so nothing could be proven; state at least one")
    for figure, limit in limits.items():
        if figure not in FIGURES:
            fail(limit, f"unknown figure '{figure}' in [limits]{nearest(figure, list(FIGURES))}")
    # In the order of the table in code, so that reports read alike.
    return tuple(
        _read_limit(figure, limits[figure], kind)
        for figure, kind in FIGURES.items()
        if figure in limits
    )


def _read_limit(figure: str, node: Node, kind: FigureKind) -> Limit:
    parts = table(node, required=("accepts",), optional=BOUNDS)
    stated = [key for key in BOUNDS if key in parts]
    if len(stated) != 1:
        fail(node, f"{node.label} must state one of at_most and at_least; it states {len(stated)}")
    bound = parts[stated[0]]
    accepts = choices(parts["accepts"], tuple(EvidenceKind), "evidence")
    if not accepts:
        fail(parts["accepts"], f"{node.label} accepts no evidence; name some of"
             f" {', '.join(kind.may_accept)}")  # fmt: skip
    for accepted in accepts:
        if accepted not in kind.may_accept:
            fail(parts["accepts"], f"{figure} cannot be settled on '{accepted}'; allowed:"
                 f" {', '.join(kind.may_accept)}")  # fmt: skip
    return Limit(
        figure=figure,
        sense=Sense(stated[0]),
        bound=_read_bound(bound, kind),
        unit=kind.unit,
        accepts=tuple(EvidenceKind(item) for item in accepts),
        source=bound.where,
    )


def _read_bound(node: Node, kind: FigureKind) -> float:
    if kind.parse is None:
        return number(node, least=0)
    return float(quantity(node, kind.parse, kind.units))


def _read_steps(node: Node) -> tuple[Step, ...]:
    steps = items(table(node, required=("step",))["step"])
    if not steps:
        fail(node, "[strategy] has no steps; state at least one [[strategy.step]]")
    found = tuple(_read_step(item) for item in steps)
    quantizing = [index for index, step in enumerate(found) if step.name == "quantize"]
    if len(quantizing) > 1:
        # Other steps may come again: prune, distil, prune a little more.
        fail(
            steps[quantizing[1]],
            "step 'quantize' stands twice in [strategy], and the second would round what the first "
            "has rounded; take one out",
        )
    return found


def _read_step(node: Node) -> Step:
    parts = table(node, required=("name", "reason"), optional=("required", "when", "settings"))
    is_required = "required" in parts and flag(parts["required"])
    if is_required == ("when" in parts):
        fail(node, f"{node.label} must say either required = true or when = one of"
             f" {', '.join(CONDITIONS)}")  # fmt: skip
    settings = parts.get("settings")
    if settings is not None:
        any_table(settings)
    return Step(
        name=text(parts["name"]),
        is_required=is_required,
        when="" if is_required else choice(parts["when"], CONDITIONS, "condition"),
        reason=text(parts["reason"]),
        settings={} if settings is None else plain(settings),
    )


def _digests(chain: _Chain) -> dict[str, str]:
    """By path in the catalog, the same on every machine; sha256 of every file that took part."""
    digests: dict[str, str] = {}
    for document in chain.documents:
        key = f"{PROFILE_FOLDER}/{document.path.name}"
        while key in digests:  # a user's phone.toml that extends the built-in one
            key += "+"
        digests[key] = document.digest
    return digests
