"""Locks as pip writes requirements with hashes, and which of their files are installed."""

import hashlib
from pathlib import Path

import pytest

from edgekit.core.errors import MissingDependencyError, ProfileError
from edgekit.flow.lock_file import (
    ChosenFile,
    LockedPackage,
    constraints,
    files_in,
    hashed_requirements,
    read_lock,
)

A, B = "a" * 64, "b" * 64


def test_a_lock_is_read_as_pip_reads_it() -> None:
    text = (
        "# edgekit lock for here\n\n"
        f"Typing_Extensions==4.1 --hash=sha256:{A}\n"
        f"numpy[x]==2.0 \\\n    --hash=sha256:{A} \\\n    --hash=sha256:{B}  # via torch\n"
    )
    assert read_lock(text, "lock.txt") == {
        "typing-extensions": LockedPackage(name="typing-extensions", version="4.1", sha256=(A,)),
        "numpy": LockedPackage(name="numpy", version="2.0", sha256=(A, B)),
    }
    assert constraints(read_lock(text, "lock.txt")) == "typing-extensions==4.1\nnumpy==2.0\n"
    assert read_lock("", "lock.txt") == {}


@pytest.mark.parametrize(
    "line",
    [
        "a==1",
        f"a>=1 --hash=sha256:{A}",
        f"a==1.* --hash=sha256:{A}",
        f"a==1; python_version < '4' --hash=sha256:{A}",
        "a==1 --hash=sha256:abc",
        f"a==1 --hash=md5:{A}",
        f"a==1 --hash=sha256:{A} b==1",
        "--index-url somewhere",
        "-r other.txt",
        f"./a.whl --hash=sha256:{A}",
    ],
)
def test_a_line_that_is_not_one_version_with_hashes_is_refused(line: str) -> None:
    with pytest.raises(ProfileError, match=r"lock\.txt: '.*' is no line of a lock: NAME==VERSION"):
        read_lock(f"b==1 --hash=sha256:{A}\n{line}\n", "lock.txt")


def test_what_is_no_version_is_named() -> None:
    with pytest.raises(ProfileError, match=r"lock\.txt: 'one' of a is no version"):
        read_lock(f"a==one --hash=sha256:{A}", "lock.txt")


def test_a_package_stands_once() -> None:
    with pytest.raises(ProfileError, match="a-b stands twice"):
        read_lock(f"a.b==1 --hash=sha256:{A}\nA_B==1 --hash=sha256:{B}\n", "lock.txt")


def chosen(name: str, version: str, sha256: str) -> ChosenFile:
    return ChosenFile(name=name, version=version, file=f"{name}.whl", sha256=sha256)


def test_only_the_chosen_build_is_asked_of_pip() -> None:
    packages = read_lock(
        f"torch==2.13.0 --hash=sha256:{A} --hash=sha256:{B}\nnvidia==1 --hash=sha256:{A}\n", "l"
    )
    lines = hashed_requirements((chosen("torch", "2.13.0+cpu", B),), packages, "here")
    assert lines == f"torch==2.13.0+cpu --hash=sha256:{B}\n"


def test_a_file_that_is_not_locked_is_named_with_its_hash() -> None:
    packages = read_lock(f"torch==2.13.0 --hash=sha256:{A}\n", "lock.txt")
    with pytest.raises(MissingDependencyError, match=f"here: pip takes torch.whl .sha256 {B}"):
        hashed_requirements((chosen("torch", "2.13.0", B),), packages, "here")
    with pytest.raises(MissingDependencyError, match="for extra, and the lock holds no file of it"):
        hashed_requirements((chosen("extra", "1", A),), packages, "here")


def test_downloaded_wheels_are_known_by_name_and_content(tmp_path: Path) -> None:
    (tmp_path / "Some_Lib-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").write_bytes(b"content")
    (found,) = files_in(tmp_path)
    assert (found.name, found.version) == ("some-lib", "2.13.0+cpu")
    assert found.sha256 == hashlib.sha256(b"content").hexdigest()
    (tmp_path / "Some_Lib-2.13.0.tar.gz").write_bytes(b"content")
    with pytest.raises(MissingDependencyError, match=r"pip takes Some_Lib-2\.13\.0\.tar\.gz"):
        files_in(tmp_path)
