"""The ``[hardware]`` table: facts with a source each, in words that a plan understands."""

from collections.abc import Callable
from typing import TypeVar

from edgekit.catalog.document import Node
from edgekit.catalog.reading import choice, choices, quantity, table, text, texts, whole
from edgekit.core.profile import Fact, Hardware
from edgekit.core.units import BYTE_UNITS, HERTZ_UNITS, parse_bytes, parse_hertz

Value = TypeVar("Value")

ABIS = (
    "android-arm64",
    "android-arm32",
    "android-x86_64",
    "ios-arm64",
    "linux-x86_64",
    "linux-aarch64",
    "linux-armv7",
    "linux-riscv64",
    "macos-arm64",
    "windows-x86_64",
    "windows-arm64",
    "none",
)

ARCHITECTURES = (
    "aarch64",
    "armv7-a",
    "armv6-m",
    "armv7-m",
    "armv7e-m",
    "armv8-m.main",
    "armv8.1-m.main",
    "x86_64",
    "riscv64",
    "riscv32",
    "xtensa-lx6",
    "xtensa-lx7",
)

# Names as gcc's -march takes them for Arm, as Linux prints them in /proc/cpuinfo for x86.
# A misspelt extension would silently cost the plan a fast kernel, so the list is closed.
FEATURES = (
    *("neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2", "sme"),
    *("dsp", "mve", "fp", "fp.dp"),
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx_vnni_int8"),
    *("avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("rvv", "pie"),
)

FACT_KEYS = ("value", "source")
OPTIONAL_FACTS = ("soc", "cores", "clock", "ram", "flash", "accelerators")


def read_hardware(node: Node) -> Hardware:
    """The hardware of a device; facts that nobody could source are left out."""
    facts = table(node, required=("abi", "architecture", "features"), optional=OPTIONAL_FACTS)

    def of(key: str, read: Callable[[Node], Value]) -> Fact[Value] | None:
        return _read_fact(facts[key], read) if key in facts else None

    return Hardware(
        abi=choice(facts["abi"], ABIS, "ABI"),
        architecture=_read_fact(
            facts["architecture"], lambda item: choice(item, ARCHITECTURES, "architecture")
        ),
        features=_read_fact(
            facts["features"], lambda item: choices(item, FEATURES, "instruction set extension")
        ),
        soc=of("soc", text),
        cores=of("cores", lambda item: whole(item, least=1, most=1024)),
        clock_hz=of("clock", lambda item: quantity(item, parse_hertz, HERTZ_UNITS)),
        ram_bytes=of("ram", read_bytes),
        flash_bytes=of("flash", read_bytes),
        accelerators=of("accelerators", texts),
    )


def read_bytes(node: Node) -> int:
    """Bytes with a unit, such as ``"256 kB"``."""
    return quantity(node, parse_bytes, BYTE_UNITS)


def _read_fact(node: Node, read: Callable[[Node], Value]) -> Fact[Value]:
    parts = table(node, required=FACT_KEYS)
    return Fact(value=read(parts["value"]), source=text(parts["source"]))
