"""Device profiles and targets: one row each, or one in full with every source."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from edgekit.core.profile import UNCONFIRMED, DeviceProfile, Fact, Hardware
from edgekit.core.target import RuntimeLibrary, Target
from edgekit.core.units import format_bytes
from edgekit.report.parts import bullets, pairs, table
from edgekit.report.strategy import asked_steps
from edgekit.report.verdict import accepted_text, bound_text


def devices_table(profiles: Iterable[DeviceProfile]) -> RenderableType:
    """One row for every profile."""
    rows = [
        (
            item.name,
            item.title,
            item.family,
            _memory(item.hardware),
            item.default_target,
        )
        for item in profiles
    ]
    return table(("device", "title", "family", "RAM / flash", "target"), rows)


def _memory(hardware: Hardware) -> str:
    ram, flash = hardware.ram_bytes, hardware.flash_bytes
    shown = [format_bytes(item.value) if item is not None else "-" for item in (ram, flash)]
    return " / ".join(shown)


def device_detail(profile: DeviceProfile) -> RenderableType:
    """One profile: facts with their sources, limits, strategy, and where it was read."""
    about = pairs(
        [
            ("device", profile.name),
            ("title", profile.title),
            ("family", f"{profile.family}{', generic' if profile.is_generic else ''}"),
            ("summary", profile.summary),
            ("target", profile.default_target),
            ("threads", str(profile.threads)),
            ("set aside", _reserves(profile)),
            ("may stay float", f"{profile.float_share_tolerance:.1%} of the weights' bytes"),
            ("file", profile.origin),
            ("extends", " > ".join(profile.extends)),
        ]
    )
    hardware = table(("fact", "value", "source"), _facts(profile.hardware), title="Hardware")
    limits = [
        (item.figure, bound_text(item), accepted_text(item), item.source) for item in profile.limits
    ]
    bounds = table(("limit", "bound", "evidence", "source"), limits, title="Limits")
    return Group(about, Text(), hardware, Text(), bounds, asked_steps(profile))


def _reserves(profile: DeviceProfile) -> str:
    shares = (("RAM", profile.reserve_ram), ("flash", profile.reserve_flash))
    kept = [f"{format_bytes(count)} of {what}" for what, count in shares if count]
    return f"{' and '.join(kept)} for the rest of the app" if kept else "nothing"


def _facts(hardware: Hardware) -> list[tuple[str, str, str]]:
    rows = [("abi", hardware.abi, "")]
    for item in fields(hardware):
        fact = getattr(hardware, item.name)
        if isinstance(fact, Fact):
            rows.append((item.name, _fact_text(item.name, fact), fact.source))
        elif fact is None:
            rows.append((item.name, "-", "not stated"))
    return rows


def _fact_text(name: str, fact: Fact[Any]) -> str:
    shown = _value_text(name, fact.value)
    return shown if fact.is_confirmed else f"{shown} ({UNCONFIRMED})"


def _value_text(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return format_bytes(value)
    if name.endswith("_hz"):
        return f"{value / 1e6:g} MHz"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return str(value)


def targets_table(rows: Iterable[tuple[Target, str]]) -> RenderableType:
    """One row for every target, with the state of its toolchain on this machine."""
    cells = [
        (
            target.name,
            target.title,
            target.format,
            ", ".join(item.precision for item in target.precisions),
            state,
        )
        for target, state in rows
    ]
    return table(("target", "title", "format", "precisions", "here"), cells)


def target_detail(target: Target, state: str) -> RenderableType:
    """One target: what compiles and runs it, its pins, what it adds to an app, what it takes."""
    about = pairs(
        [
            ("target", target.name),
            ("title", target.title),
            ("summary", target.summary),
            ("format", f"{target.format} ({target.suffix})"),
            ("compiler", target.compiler),
            ("runtime", f"{target.runtime}: {_runtime_version(target)}"),
            ("here", state),
            ("file", target.origin),
        ]
    )
    precisions = table(
        ("precision", "layers", "note"),
        [(item.precision, ", ".join(item.layers), item.note) for item in target.precisions],
        title="Precisions",
    )
    libraries = table(
        ("abi", "bytes", "at most", "version", "source"),
        [_library(item) for item in target.runtime_libraries],
        title="Bytes that the runtime adds to an app",
    )
    pins = bullets("Toolchain pins", target.toolchain.requirements)
    return Group(about, pins, Text(), precisions, Text(), libraries, _operators(target))


def _library(library: RuntimeLibrary) -> tuple[str, str, str, str, str]:
    source = f"stand-in: {library.source}" if library.is_stand_in else library.source
    if library.at_most_source:
        source = f"{source}; at most: {library.at_most_source}"
    most = "-" if library.at_most_bytes is None else format_bytes(library.at_most_bytes)
    return library.abi, format_bytes(library.bytes), most, library.version, source


def _runtime_version(target: Target) -> str:
    return f"{target.runtime_package} {target.minimum_runtime_version} or newer"


def _operators(target: Target) -> RenderableType:
    counts = Counter(item.support for item in target.operators)
    noted = [f"{item.name}: {item.support}; {item.note}" for item in target.operators if item.note]
    total = ", ".join(f"{count} {support}" for support, count in sorted(counts.items()))
    return bullets("PyTorch operators", [total or "none listed", *noted])
