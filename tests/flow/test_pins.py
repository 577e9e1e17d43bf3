"""Pins against what is installed, by PEP 440 as pip reads it."""

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.catalog import load_target
from edgekit.core.errors import ProfileError
from edgekit.core.target import Target, Toolchain
from edgekit.flow.lock_file import read_lock
from edgekit.flow.pins import (
    LOCK_HEADER,
    Pins,
    environment_digest,
    installed_versions,
    lock_platform,
    missing_modules,
    pins_of,
    problems_with,
)

HASH = f"--hash=sha256:{'0' * 64}"


def pins(*requirements: str, lock: str = "", modules: tuple[str, ...] = ()) -> Pins:
    return Pins(name="x", requirements=requirements, modules=modules, lock=lock)


def target(tmp_path: Path, toolchain: Toolchain) -> Target:
    return Target(
        name="x",
        title="X",
        format="x",
        suffix=".x",
        compiler="x",
        runtime="x",
        runtime_package="x",
        minimum_runtime_version="1",
        toolchain=toolchain,
        origin=str(tmp_path / "target.toml"),
    )


@pytest.mark.parametrize(
    ("requirement", "version", "is_met"),
    [
        ("torch==2.13.0", "2.13.0+cpu", True),
        ("torch==2.13.0", "2.13", True),
        ("torch==2.13.0", "2.13.1", False),
        ("torch>=2.4,<3", "2.10.0", True),
        ("torch>=2.4,<3", "3.0", False),
        ("torch<4.13", "4.12.2", True),
        ("torch~=1.4.2", "1.4.9", True),
        ("torch>=1", "2.0rc1", True),
        ("torch[extra]==1.0", "1.0", True),
        ("Torch==1.0", "1.0", True),
        ("torch==1.0; python_version < '3'", "2.0", True),
    ],
)
def test_a_version_meets_a_pin_as_pip_reads_it(
    requirement: str, version: str, is_met: bool
) -> None:
    assert (problems_with(pins(requirement), {"torch": version}) == ()) is is_met


def test_problems_name_what_is_there_and_what_is_needed() -> None:
    found = problems_with(pins("a_b==1", "c==2"), {"a-b": "3"})
    assert found == ("a_b 3 is installed (needs a_b==1)", "c is not installed (needs c==2)")


def test_installed_versions_are_those_of_importlib_metadata() -> None:
    found = installed_versions(("numpy", "packaging", "no-such-thing"))
    assert found == {name: importlib.metadata.version(name) for name in ("numpy", "packaging")}
    everything = installed_versions(None)
    assert found.items() <= everything.items()
    assert installed_versions(("numpy",), Path("/nowhere")) == {}
    assert environment_digest() == environment_digest()


def test_the_locked_packages_count_as_well() -> None:
    lock = f"# c\nTyping_Extensions==4.1 {HASH}\nnumpy[x]==2.0 \\\n    {HASH}\n"
    named = pins("a.b==1", lock=lock).packages
    assert named == ("a-b", "numpy", "torch", "typing-extensions")


def test_the_digest_follows_pins_lock_and_versions() -> None:
    base = pins("a==1", "b==2")
    digests = {
        base.digest({}),
        base.digest({"a": "1"}),
        pins("a==1").digest({}),
        pins("a==1", "b==2", lock=f"a==1 {HASH}").digest({}),
    }
    assert len(digests) == 4
    assert pins("b==2", "a==1").digest({}) == base.digest({})
    assert pins("b==2", "a==1").identity == base.identity
    assert len(base.identity) == 12


def test_missing_modules_are_found_without_importing() -> None:
    assert missing_modules(pins(modules=("antigravity", "numpy.random"))) == ()
    assert missing_modules(pins(modules=("no_such_module.x",))) == (
        "module no_such_module is not found",
    )


def test_what_is_no_requirement_is_named_with_its_file(tmp_path: Path) -> None:
    wrong = target(tmp_path, Toolchain(requirements=("onnx 1.2",)))
    with pytest.raises(ProfileError, match=r"target\.toml: 'onnx 1.2' in toolchain.requirements"):
        pins_of(wrong)


def test_a_lock_serves_the_platform_that_it_names(tmp_path: Path) -> None:
    locked = target(tmp_path, Toolchain(requirements=("a==1",), lock="lock.txt"))
    with pytest.raises(ProfileError, match=r"toolchain.lock 'lock.txt' cannot be read"):
        pins_of(locked)
    path = tmp_path / "lock.txt"
    for text in (f"{LOCK_HEADER}{lock_platform()}\na==1 {HASH}\n", f"a==1 {HASH}\n"):
        path.write_text(text)
        assert pins_of(locked).lock == text
    path.write_text(f"{LOCK_HEADER}Python 2.7 on beos ppc\na==1\n")
    found = pins_of(locked)
    assert found.lock == ""
    assert "Python 2.7 on beos ppc, not for Python 3" in found.lock_note
    assert pins_of(replace(locked, toolchain=Toolchain(requirements=()))).lock_note == ""


@pytest.mark.parametrize(
    ("lock", "said"),
    [
        (f"b==1 {HASH}", "the pins ask for a==1 and the lock lacks it; make it anew"),
        (f"a==2 {HASH}", "the pins ask for a==1 and the lock holds a==2; make it anew"),
        ("a==1", "lock.txt: 'a==1' is no line of a lock"),
    ],
)
def test_a_lock_that_is_not_of_the_pins_is_named(tmp_path: Path, lock: str, said: str) -> None:
    (tmp_path / "lock.txt").write_text(lock)
    locked = target(
        tmp_path, Toolchain(requirements=("a==1", "c==1; python_version < '3'"), lock="lock.txt")
    )
    with pytest.raises(ProfileError, match=said):
        pins_of(locked)


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_a_shipped_target_locks_all_that_it_pins(name: str) -> None:
    shipped = load_target(name)
    text = (Path(shipped.origin).parent / shipped.toolchain.lock).read_text(encoding="utf-8")
    packages = read_lock(text, name)
    for requirement in shipped.toolchain.requirements:
        package, _, version = requirement.partition("==")
        assert packages[package].version == version
    # The CPU build and the index's own, which alone needs an accelerator's libraries.
    assert len(packages["torch"].sha256) == 2
    assert {"triton", "nvidia-cublas"} <= packages.keys()
    assert [item.name for item in packages.values() if len(item.sha256) > 1] == ["torch"]
