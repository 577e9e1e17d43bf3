"""The machine that measures: enough to judge its figures by, and nothing that names it."""

import os
import platform
from pathlib import Path

from edgekit.bundle.manifest import Host

# Instruction set extensions that change what kernels an engine picks, by gcc's names; on Arm,
# Linux has other names for some.
_KNOWN = (
    "sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx_vnni_int8", "avx512f",
    "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8",
    "amx_bf16", "asimd", "neon", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip
_ARM_NAMES = {"asimddp": "dotprod", "asimdhp": "fp16"}


def describe_host(cpu_info: Path = Path("/proc/cpuinfo")) -> Host:
    """The machine that this runs on; what it does not tell is "unknown" or 0."""
    lines = _first_processor(cpu_info)
    return Host(
        system=f"{platform.system()} {platform.release().split('-')[0]}",
        machine=platform.machine(),
        processor=lines.get("model name") or lines.get("CPU part", "unknown"),
        cores=len(os.sched_getaffinity(0)),
        ram_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        features=features_of(lines.get("flags") or lines.get("Features", "")),
    )


def features_of(flags: str) -> tuple[str, ...]:
    """The extensions among Linux's processor flags that matter to an engine, sorted."""
    words = {_ARM_NAMES.get(word, word) for word in flags.split()}
    return tuple(sorted(words & {*_KNOWN, *_ARM_NAMES.values()}))


def _first_processor(cpu_info: Path) -> dict[str, str]:
    if not cpu_info.is_file():
        return {}
    block = cpu_info.read_text(errors="replace").split("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
