"""Write docs/devices.md from the built-in profiles. Run it after a profile changes."""

from pathlib import Path

from edgekit.catalog import load_profile
from edgekit.catalog.search import built_in_root
from edgekit.core.profile import UNCONFIRMED, DeviceProfile, Fact
from edgekit.core.units import format_quantity

ROOT = Path(__file__).resolve().parent.parent
FACTS = (
    ("SoC", "soc"),
    ("architecture", "architecture"),
    ("instruction set", "features"),
    ("cores", "cores"),
    ("clock", "clock_hz"),
    ("RAM", "ram_bytes"),
    ("flash", "flash_bytes"),
    ("accelerators", "accelerators"),
)
_BINARY = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_DECIMAL = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def render() -> str:
    """The text of docs/devices.md."""
    folder = built_in_root() / "device_profiles"
    profiles = [load_profile(str(path)) for path in sorted(folder.glob("*.toml"))]
    profiles.sort(key=lambda item: (not item.is_generic, item.family, item.name))
    lines = [
        "# Devices",
        "",
        "Written by `scripts/make_device_table.py` from `device_profiles/`; a test keeps it true."
        " To add one, see [adding_a_device.md](adding_a_device.md). `@` stands before the"
        " commit that was read. A fact that nobody could source is absent.",
        "",
        "| name | what it is | family | target | quantized to | inherits |",
        "|---|---|---|---|---|---|",
    ]
    for item in profiles:
        precision = item.steps[-1].settings["precision"]
        lines.append(
            f"| [`{item.name}`](#{item.name}) | {item.title} | {item.family} |"
            f" {item.default_target} | {precision} | {', '.join(item.extends) or '-'} |"
        )
    for item in profiles:
        lines += ["", f"## {item.name}", "", f"{item.title}. {item.summary}", "", *_facts(item)]
        lines += ["", *_limits(item)]
    return "\n".join(lines) + "\n"


def _facts(profile: DeviceProfile) -> list[str]:
    lines = ["| fact | value | source |", "|---|---|---|"]
    for label, field in FACTS:
        fact = getattr(profile.hardware, field)
        if fact is not None:
            mark = "" if fact.is_confirmed else f" ({UNCONFIRMED})"
            lines.append(f"| {label} | {_shown(field, fact)}{mark} | {fact.source} |")
    return lines


def _limits(profile: DeviceProfile) -> list[str]:
    lines = ["| limit | bound | settled on |", "|---|---|---|"]
    for limit in profile.limits:
        bound = _bytes(round(limit.bound)) if limit.unit == "bytes" else None
        bound = bound or format_quantity(limit.bound, limit.unit.replace("ratio", ""))
        sense = limit.sense.value.replace("_", " ")
        accepts = " or ".join(kind.value for kind in limit.accepts)
        lines.append(f"| {limit.figure} | {sense} {bound} | {accepts} |")
    return lines


def _shown(field: str, fact: Fact) -> str:  # type: ignore[type-arg]
    if field == "clock_hz":
        is_fast = fact.value >= 10**9
        return f"{fact.value / 10**9:g} GHz" if is_fast else f"{fact.value / 10**6:g} MHz"
    if field.endswith("_bytes"):
        return _bytes(fact.value)
    if isinstance(fact.value, tuple):
        return ", ".join(fact.value) or "none"
    return str(fact.value)


def _bytes(count: int) -> str:
    """The unit in which the count is the shortest exact number."""
    forms = [f"{count / size:g} {unit}" for unit, size in (*_BINARY, *_DECIMAL) if count >= size]
    exact = [
        form
        for form, size in zip(
            forms, [size for _, size in (*_BINARY, *_DECIMAL) if count >= size], strict=True
        )
        if round(float(form.split()[0]) * size) == count
    ]
    return min(exact, key=lambda form: (len(form.split()[0]), form))


if __name__ == "__main__":
    (ROOT / "docs" / "devices.md").write_text(render(), encoding="utf-8")
