"""doctor, toolchain, cache, devices and targets."""

import importlib.metadata
import json

import pytest

from edgekit.catalog import search
from edgekit.core.progress import Reporter
from edgekit.store import Store

TARGET = """
schema = 1
name = "{name}"
title = "The target {name}"
format = "tflite"
suffix = ".tflite"
compiler = "litert"
runtime = "litert"
runtime_package = "ai-edge-litert"
minimum_runtime_version = "2.3.0"

[toolchain]
requirements = ["{requirement}"]
modules = ["click"]

[[precision]]
name = "int8"
layers = ["conv", "linear"]
note = "a note on int8"

[[runtime_library]]
abi = "android-arm64"
bytes = 23420128
version = "2.3.0"
sha256 = "{digest}"
source = "weighed by hand"
"""
OPERATORS = """
schema = 1
native = ["aten.conv2d.default", "aten.relu.default"]
fallback = ["aten.sort.default"]
unsupported = []

[notes]
"aten.sort.default" = "sorted on one thread"
"""


@pytest.fixture
def two_targets(tmp_path, monkeypatch):
    """A catalog of two targets: the pins of ``here`` are met, those of ``odd`` by nobody."""
    requirements = {
        "here": f"click=={importlib.metadata.version('click')}",
        "odd": "no-such-package-of-edgekit==1.0",
    }
    for name, requirement in requirements.items():
        folder = tmp_path / "root" / "targets" / name
        folder.mkdir(parents=True)
        toml = TARGET.format(name=name, requirement=requirement, digest="0" * 64)
        (folder / "target.toml").write_text(toml)
        (folder / "operators.toml").write_text(OPERATORS)
    monkeypatch.setattr(search, "built_in_root", lambda: tmp_path / "root")


@pytest.fixture
def stored(tmp_path):
    """A cache with two results; the first one is the longest unused."""
    import os

    keys = ("a" * 64, "b" * 64)
    with Store() as store:
        for index, key in enumerate(keys):

            def produce(out):
                (out / "file.bin").write_bytes(b"x" * 10_000)
                return {}

            store.fill(key, produce, reporter=Reporter(stage=f"stage{index}"))
            record = tmp_path / "cache" / "results" / key / "result.json"
            os.utime(record, (1_000_000 + index, 1_000_000 + index))
    return keys


def test_cache_list_shows_stages_and_what_they_take(stored, command):
    found = command("cache", "list")
    lines = found.out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["stage0", "stage1"]
    assert "1970-01-12" in lines[2]
    assert lines[-1].startswith("2 results, 2")


def test_cache_list_in_json_has_whole_keys(stored, command, tmp_path):
    found = json.loads(command("cache", "list", "--json").out)
    assert tuple(item["key"] for item in found["entries"]) == stored
    assert found["root"] == str(tmp_path / "cache")
    assert found["bytes"] > 20_000


def test_an_empty_cache_is_said_in_one_line(command):
    assert command("cache", "list").out.startswith("0 results, 0 B in ")


def test_cache_bound_removes_the_longest_unused_first(stored, command):
    found = command("cache", "bound", "15 kB", "--json")
    assert 10_000 < json.loads(found.out)["freed_bytes"] < 20_000
    with Store() as store:
        assert [item.key for item in store.entries()] == [stored[1]]


@pytest.mark.parametrize("size", ["15 apples", "-1", "1.5"])
def test_cache_bound_wants_bytes(size, command):
    found = command("cache", "bound", "--", size)
    assert found.code == 2
    assert "allowed" in found.err or "write a number" in found.err


def test_cache_bound_takes_a_plain_number_as_bytes(stored, command):
    assert command("cache", "bound", "0").code == 0
    with Store() as store:
        assert store.entries() == ()


def test_cache_clear_removes_everything(stored, command):
    assert "freed 2" in command("cache", "clear").out
    with Store() as store:
        assert store.size_bytes() == 0


@pytest.fixture
def unfinished(stored):
    """What a training that was killed leaves behind, older than the results."""
    import os

    key = "c" * 64
    with Store() as store:
        folder = store.checkpoints(key, "distil")
        (folder / "epoch3.pt").write_bytes(b"x" * 30_000)
        for item in (*folder.parent.rglob("*"), folder.parent):
            os.utime(item, (1, 1))
    return key


def test_cache_list_shows_checkpoints_without_a_result(unfinished, command):
    lines = command("cache", "list").out.splitlines()
    assert lines[2].split()[:3] == ["distil", "(unfinished)", "cccccccccccc"]
    assert "30 kB" in lines[2]
    assert lines[-1].startswith("2 results, 1 unfinished, 5")
    found = json.loads(command("cache", "list", "--json").out)["entries"]
    assert [item["is_unfinished"] for item in found] == [True, False, False]


def test_cache_bound_removes_old_checkpoints_first(unfinished, stored, command):
    found = json.loads(command("cache", "bound", "25 kB", "--json").out)
    assert found["freed_bytes"] == 30_000 + len("distil")
    with Store() as store:
        assert tuple(item.key for item in store.entries()) == stored


def test_cache_clear_removes_checkpoints(unfinished, command):
    assert "freed 5" in command("cache", "clear").out
    with Store() as store:
        assert store.size_bytes() == 0


def test_doctor_lists_packages_and_always_ends_with_0(command):
    found = command("doctor")
    assert found.code == 0
    assert importlib.metadata.version("onnxruntime") in found.out
    assert "C compiler" in found.out


def test_doctor_in_json_has_facts_and_checks(command):
    found = json.loads(command("doctor", "--json").out)
    assert {"facts", "checks", "toolchains"} <= found.keys()


@pytest.mark.usefixtures("two_targets")
def test_doctor_can_demand_a_target_and_names_the_command(command):
    found = command("doctor", "--require", "odd")
    assert found.code == 5
    assert "edgekit toolchain install odd" in found.err


@pytest.mark.usefixtures("two_targets")
def test_doctor_is_content_with_a_target_that_is_here(command):
    assert command("doctor", "--require", "here").code == 0


@pytest.mark.usefixtures("two_targets")
def test_toolchain_list_says_what_is_missing(command):
    found = json.loads(command("toolchain", "list", "--json").out)["toolchains"]
    states = {item["name"]: item["state"] for item in found}
    assert states["odd"] == "missing"
    assert states["here"] == "used in place"
    text = " ".join(command("toolchain", "list").out.split())
    assert "no-such-package-of-edgekit" in text


@pytest.mark.usefixtures("two_targets")
def test_toolchain_install_that_cannot_be_done_ends_with_5(command, monkeypatch):
    # No index is asked: pip has nowhere to look.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert command("toolchain", "install", "odd").code == 5


@pytest.mark.usefixtures("two_targets")
def test_toolchain_verbs_reach_flow(command, monkeypatch, tmp_path):
    from edgekit.flow import toolchain

    made = toolchain.UsableToolchain(
        name="here", python=tmp_path / "bin" / "python", versions={}, digest="d"
    )

    def install(target, *, listener):
        Reporter(stage="toolchain", listener=listener).progress(f"making {target.name}")
        return made

    monkeypatch.setattr(toolchain, "install", install)
    found = command("toolchain", "install", "here")
    assert found.out == f"here: {made.python}\n"
    assert "toolchain: making here" in found.err
    assert json.loads(command("toolchain", "install", "here", "--json").out)["digest"] == "d"


@pytest.mark.usefixtures("two_targets")
def test_toolchain_remove_of_nothing_frees_nothing(command):
    assert command("toolchain", "remove", "here").out == "freed 0 B\n"
    assert json.loads(command("toolchain", "remove", "here", "--json").out) == {"freed_bytes": 0}


def test_devices_lists_the_generic_ones_among_all(command):
    found = command("devices")
    names = [line.split()[0] for line in found.out.splitlines() if line[:1].isalpha()]
    assert {"phone", "embedded", "edge-server", "laptop"} <= set(names)
    listed = json.loads(command("devices", "--json").out)["devices"]
    assert [item["name"] for item in listed] == names[1:]


def test_one_device_shows_facts_with_sources_and_limits_with_evidence(command):
    from edgekit.catalog import load_profile

    profile = load_profile("embedded")
    text = " ".join(command("devices", "embedded").out.split())
    assert profile.hardware.architecture.source in text
    assert "emulator or device" in text
    assert "training data" in text
    assert profile.origin in text.replace(" ", "")
    for limit in profile.limits:
        assert limit.figure in text


def test_a_device_by_path_says_what_it_extends(command, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('schema = 1\nextends = "phone"\nname = "mine"\ntitle = "My own phone"\n')
    text = command("devices", path).out
    assert "My own phone" in text
    assert "extends" in text
    assert json.loads(command("devices", path, "--json").out)["extends"] == ["phone"]


def test_an_unknown_device_is_an_input_error_with_the_nearest(command):
    found = command("devices", "fone")
    assert found.code == 2
    assert "phone" in found.err


@pytest.mark.usefixtures("two_targets")
def test_targets_are_listed_with_their_state(command):
    found = json.loads(command("targets", "--json").out)["targets"]
    states = {item["target"]["name"]: item["toolchain"]["state"] for item in found}
    assert states == {"here": "used in place", "odd": "missing"}
    assert "used in place" in command("targets").out


@pytest.mark.usefixtures("two_targets")
def test_one_target_shows_pins_precisions_libraries_and_operators(command):
    text = " ".join(command("targets", "odd").out.split())
    for part in (
        "no-such-package-of-edgekit==1.0",
        "ai-edge-litert 2.3.0 or newer",
        "missing; the current environment lacks:",
        "int8 conv, linear a note on int8",
        "android-arm64 23.4 MB - 2.3.0 weighed by hand",
        "1 fallback, 2 native",
        "aten.sort.default: fallback; sorted on one thread",
    ):
        assert part in text, part
    document = json.loads(command("targets", "odd", "--json").out)
    assert document["target"]["name"] == "odd"


def test_the_targets_that_come_with_edgekit_are_here(command):
    found = json.loads(command("targets", "--json").out)["targets"]
    states = {item["target"]["name"]: item["toolchain"]["state"] for item in found}
    assert states["litert"] == states["onnx"] == "used in place"
