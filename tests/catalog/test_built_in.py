"""The facts that ship: sourced, consistent, and the best practice that the issue names."""

import hashlib
import importlib.util
import platform
import re
import tomllib
from pathlib import Path

import pytest

from edgekit.catalog import find_profiles, find_targets, load_profile, load_target
from edgekit.catalog.search import built_in_root
from edgekit.core.verdict import EvidenceKind

ROOT = built_in_root()
PROFILES = sorted(path.stem for path in (ROOT / "device_profiles").glob("*.toml"))
GENERIC = ("phone", "embedded", "edge-server", "laptop")
REAL = [name for name in PROFILES if name not in GENERIC]
FACTS = ("architecture", "features", "soc", "cores", "clock_hz", "ram_bytes", "flash_bytes",
         "accelerators")  # fmt: skip


def built_in(name):
    return load_profile(str(ROOT / "device_profiles" / f"{name}.toml"))


def limits_of(name):
    return {limit.figure: limit for limit in built_in(name).limits}


def test_there_are_four_generic_and_at_least_ten_real_profiles():
    assert [name for name in PROFILES if built_in(name).is_generic] == sorted(GENERIC)
    assert len(REAL) >= 10
    assert {built_in(name).hardware.abi for name in REAL} >= {
        "android-arm64", "ios-arm64", "linux-x86_64", "linux-aarch64", "none"
    }  # fmt: skip


@pytest.mark.parametrize("name", PROFILES)
def test_every_fact_names_a_source_worth_the_name(name):
    hardware = built_in(name).hardware
    for field in FACTS:
        fact = getattr(hardware, field)
        if fact is not None:
            assert len(fact.source) >= 15, (name, field, fact.source)
            assert "://" not in fact.source


@pytest.mark.parametrize("name", REAL)
def test_no_real_device_inherits_an_assumption(name):
    hardware = built_in(name).hardware
    assert hardware.soc is not None
    for field in FACTS:
        fact = getattr(hardware, field)
        assert fact is None or "assumed" not in fact.source


@pytest.mark.parametrize("name", PROFILES)
def test_every_source_says_when_it_was_read_or_what_is_assumed(name):
    hardware = built_in(name).hardware
    for field in FACTS:
        fact = getattr(hardware, field)
        if fact is not None and not fact.source.startswith("assumed"):
            assert re.search(r", read 20\d\d-\d\d$", fact.source), (name, field, fact.source)


def test_no_fact_that_ships_is_unconfirmed():
    facts = [
        (name, field)
        for name in PROFILES
        for field in FACTS
        if (fact := getattr(built_in(name).hardware, field)) and not fact.is_confirmed
    ]
    assert facts == []


@pytest.mark.parametrize("name", PROFILES)
def test_limits_leave_room_for_the_rest_of_the_app(name):
    profile = built_in(name)
    limits = limits_of(name)
    hardware = profile.hardware
    for figure, fact, reserve in (
        ("flash_bytes", hardware.flash_bytes, profile.reserve_flash),
        ("ram_bytes", hardware.ram_bytes, profile.reserve_ram),
        ("peak_memory_bytes", hardware.ram_bytes, profile.reserve_ram),
    ):
        if figure in limits and fact is not None:
            assert limits[figure].bound <= fact.value - reserve, (name, figure)
    if "flash_bytes" in limits:
        assert limits["artifact_bytes"].bound <= limits["flash_bytes"].bound


# Instruction sets: where each was read (2026-11) stands in the profile.
FEATURES = {
    "galaxy-s23": {"neon", "fp16", "dotprod", "i8mm", "bf16"},
    "redmi-note-4": {"neon"},
    "iphone-15-pro": {"neon", "fp16", "dotprod", "i8mm", "bf16"},
    "iphone-8": {"neon", "fp16"},
    "raspberry-pi-5": {"neon", "fp16", "dotprod"},
    "jetson-orin-nano": {"neon", "fp16", "dotprod"},
    "sk-tda4vm": {"neon"},
    "mini-pc-n100": {"sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni"},
    "nrf52840-dk": {"dsp", "fp"},
    "raspberry-pi-pico": set(),
    "raspberry-pi-pico-2": {"dsp", "fp"},
    "alif-ensemble-e7": {"dsp", "mve", "fp", "fp.dp"},
    "esp32-s3-devkitc-1": {"fp", "pie"},
}


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_instruction_sets_are_those_that_were_read(name):
    assert set(built_in(name).hardware.features.value) == FEATURES[name]


def test_best_practice_by_default():
    last = {name: built_in(name).steps[-1] for name in GENERIC}
    assert {name: step.settings["precision"] for name, step in last.items()} == {
        "phone": "int8", "embedded": "int4", "edge-server": "fp16", "laptop": "int8"
    }  # fmt: skip
    assert all(step.name == "quantize" and step.is_required for step in last.values())
    assert limits_of("phone")["footprint_bytes"].bound == 100e6
    assert limits_of("phone")["footprint_bytes"].accepts == (EvidenceKind.CITED, EvidenceKind.HOST)
    assert limits_of("phone")["latency_ratio"].bound == 1.0
    assert limits_of("edge-server")["latency_ratio"].bound == 1.05
    assert limits_of("edge-server")["metric_drop"].bound == 0.5
    assert [step.name for step in built_in("embedded").steps] == ["prune", "distil", "quantize"]
    assert built_in("embedded").steps[0].settings["ratio"] == 0.92


@pytest.mark.parametrize("name", PROFILES)
def test_integers_of_8_bits_are_prepared_for_transformers_last_of_all(name):
    *before, quantize = built_in(name).steps
    whens = [(step.name, step.when) for step in before if step.name in ("smooth", "spread")]
    wanted = [("smooth", "one scale for inputs"), ("spread", "one scale for outputs")]
    is_int8 = quantize.settings["precision"] == "int8"
    assert whens == (wanted if is_int8 else [])
    if is_int8:
        # Nothing may stand behind a multiplication, and no build may fail for one.
        assert [step.name for step in before[-2:]] == ["smooth", "spread"]
        assert all(step.settings["may_change_nothing"] for step in before[-2:])
        assert before[-2].settings["has_multipliers"]


@pytest.mark.parametrize("name", PROFILES)
def test_four_bits_are_never_promised_to_be_fast(name):
    profile = built_in(name)
    if profile.steps[-1].settings["precision"] == "int4":
        assert "latency_ratio" not in limits_of(name)
    if profile.hardware.abi == "none":
        assert "footprint_bytes" not in limits_of(name)


@pytest.mark.parametrize("name", PROFILES)
def test_the_default_target_exists_and_knows_the_library(name):
    profile = built_in(name)
    assert profile.default_target in {entry.name for entry in find_targets()}
    target = load_target(profile.default_target)
    if profile.hardware.abi != "none":
        assert target.runtime_library(profile.hardware.abi) is not None
    stored = {item.precision for item in target.precisions}
    assert profile.steps[-1].settings["precision"] in stored


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_the_pins_are_those_of_the_package(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    expected = {*extras[f"{name}-runtime"], *extras[name]} - {f"edgekit[{name}-runtime]"}
    target = load_target(name)
    toolchain = target.toolchain
    assert f"{target.runtime_package}=={target.minimum_runtime_version}" in expected
    assert set(toolchain.requirements) == expected
    assert toolchain.extra == name
    assert all(importlib.util.find_spec(module) for module in toolchain.modules)


# The libraries that an import of the engine maps, seen in /proc/self/maps.
LIBRARIES = {
    "litert": ("ai_edge_litert", ("libpywrap_litert_common.so", "libLiteRt.so")),
    "onnx": (
        "onnxruntime",
        (
            "capi/onnxruntime_pybind11_state.cpython-311-x86_64-linux-gnu.so",
            "capi/libonnxruntime_providers_shared.so",
        ),
    ),
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the wheel at hand is another one")
@pytest.mark.parametrize("name", sorted(LIBRARIES))
def test_the_cited_library_is_the_installed_one(name):
    package, files = LIBRARIES[name]
    folder = Path(importlib.util.find_spec(package).origin).parent
    paths = [folder / file for file in files]
    library = load_target(name).runtime_library("linux-x86_64")
    assert library.bytes == sum(path.stat().st_size for path in paths)
    assert library.sha256 == hashlib.sha256(paths[0].read_bytes()).hexdigest()


# Bytes of the arm64-v8a and ios-arm64 files, read off the packages and pins that `source` names.
PHONE_LIBRARIES = {
    ("litert", "android-arm64"): (5_508_376, 17_428_456 + 5_991_672),
    ("litert", "ios-arm64"): (8_068_840, 13_665_152 + 6_362_912),
    ("onnx", "android-arm64"): (34_208_680, 34_208_680 + (34_208_680 - 32_120_992)),
    ("onnx", "ios-arm64"): (48_347_664, 48_347_664 + (48_347_664 - 42_691_992)),
}


@pytest.mark.parametrize(("name", "abi"), sorted(PHONE_LIBRARIES))
def test_a_phones_library_is_a_phones_own_and_bounded(name, abi):
    libraries = {item.abi: item for item in load_target(name).runtime_libraries}
    library = libraries[abi]
    assert (library.bytes, library.at_most_bytes) == PHONE_LIBRARIES[name, abi]
    desktops = {libraries[item].sha256 for item in libraries if "linux" in item or "macos" in item}
    assert library.sha256 not in desktops


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_no_built_in_library_is_a_stand_in(name):
    assert not any(item.is_stand_in for item in load_target(name).runtime_libraries)


def test_everything_built_in_can_be_found():
    assert set(PROFILES) <= {entry.name for entry in find_profiles()}
