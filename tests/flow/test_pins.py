"""Pins against what is installed, by PEP 440 as pip reads it."""

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.core.errors import ProfileError
from edgekit.core.target import Target, Toolchain
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
    lock = "# c\nTyping_Extensions==4.1 --hash=sha256:00\nnumpy[x]==2.0 \\\n    --hash=sha256:11\n"
    named = pins("a.b==1", lock=lock).packages
    assert named == ("a-b", "numpy", "torch", "typing-extensions")


def test_the_digest_follows_pins_lock_and_versions() -> None:
    base = pins("a==1", "b==2")
    digests = {
        base.digest({}),
        base.digest({"a": "1"}),
        pins("a==1").digest({}),
        pins("a==1", "b==2", lock="x").digest({}),
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
    for text in (f"{LOCK_HEADER}{lock_platform()}\na==1\n", "a==1 --hash=sha256:0\n"):
        path.write_text(text)
        assert pins_of(locked).lock == text
    path.write_text(f"{LOCK_HEADER}Python 2.7 on beos ppc\na==1\n")
    found = pins_of(locked)
    assert found.lock == ""
    assert "Python 2.7 on beos ppc, not for Python 3" in found.lock_note
    assert pins_of(replace(locked, toolchain=Toolchain(requirements=()))).lock_note == ""
