import os
import platform
from pathlib import Path

from edgekit.core.codec import canonical_json
from edgekit.measure.host import describe_host, features_of


def test_the_host_is_this_machine():
    host = describe_host()
    assert host.machine == platform.machine()
    assert host.cores == len(os.sched_getaffinity(0))
    total = Path("/proc/meminfo").read_text().split()[1]
    assert host.ram_bytes == int(total) * 1024


def test_nothing_names_the_machine_or_its_user(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "my-secret-host")
    monkeypatch.setattr(platform, "release", lambda: "6.1.0-built-by-somebody")
    text = canonical_json(describe_host()).decode()
    assert "secret" not in text
    assert "somebody" not in text
    assert str(Path.home()) not in text


X86 = """processor\t: 0
model name\t: A Processor 9000
flags\t\t: fpu vme sse4_2 avx2 avx512_vnni avx_vnni smap

processor\t: 1
model name\t: Another
"""
ARM = "processor : 0\nCPU part : 0xd0b\nFeatures : fp asimd asimdhp asimddp i8mm sve\n"


def test_x86_is_read(tmp_path):
    (tmp_path / "cpuinfo").write_text(X86)
    host = describe_host(tmp_path / "cpuinfo")
    assert host.processor == "A Processor 9000"
    assert host.features == ("avx2", "avx512_vnni", "avx_vnni", "sse4_2")


def test_arm_has_gccs_names(tmp_path):
    (tmp_path / "cpuinfo").write_text(ARM)
    host = describe_host(tmp_path / "cpuinfo")
    assert host.processor == "0xd0b"
    assert host.features == ("asimd", "dotprod", "fp16", "i8mm", "sve")


def test_what_is_not_told_is_unknown(tmp_path):
    host = describe_host(tmp_path / "none")
    assert host.processor == "unknown"
    assert host.features == features_of("") == ()
