"""Toolchains: made whole or not at all, used in place where they can be, and stages run in them.

Most tests install a wheel that they make themselves, with pip kept from any index; one installs a
published package that clashes with edgekit's own environment.
"""

import base64
import hashlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.core.codec import from_plain
from edgekit.core.errors import (
    CompileError,
    Interrupted,
    MissingDependencyError,
    OutputError,
    ProfileError,
)
from edgekit.core.progress import Event, ignore
from edgekit.core.stage import StageRequest
from edgekit.core.target import Target, Toolchain
from edgekit.flow import toolchain as tc
from edgekit.flow.pins import LOCK_HEADER, lock_platform
from edgekit.flow.stages import Runner
from edgekit.flow.worker import StageDefectError, run_in_worker
from edgekit.store import Store

FOLDER = Path(__file__).parent / "toolchain_target"
LOCK_SCRIPT = Path(__file__).parents[2] / "scripts" / "lock_toolchain.py"


def wheel(folder: Path, name: str, version: str, code: str, requires: str = "") -> Path:
    """A wheel of one module, as PEP 427 says, by hand."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        raw = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
        record += f"{path},sha256={raw.rstrip(b'=').decode()},{len(text)}\n"
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in files.items():
            archive.writestr(inner, text)
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for toolchains, and pip with no index but a folder of wheels."""
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path / "chains"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return tmp_path / "chains"


def make_target(tmp_path: Path, **toolchain: object) -> Target:
    settings = {"requirements": ("clashlib==1.0",), "modules": ("clashlib",)} | toolchain
    return Target(
        name="clash",
        title="Clash",
        format="clash",
        suffix=".clash",
        compiler="clash",
        runtime="clash",
        runtime_package="clashlib",
        minimum_runtime_version="1",
        toolchain=Toolchain(**settings),  # type: ignore[arg-type]
        origin=str(tmp_path / "target.toml"),
    )


@pytest.fixture
def target(tmp_path: Path, root: Path) -> Target:
    wheel(tmp_path / "wheels", "clashlib", "1.0", "value = 1\n")
    return make_target(tmp_path)


def folders(root: Path) -> list[str]:
    return sorted(item.name for item in root.glob("[!.]*"))


def test_the_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", "/x/chains")
    assert tc.toolchains_root() == Path("/x/chains")
    monkeypatch.delenv("EDGEKIT_TOOLCHAINS")
    monkeypatch.setenv("XDG_DATA_HOME", "/y")
    assert tc.toolchains_root() == Path("/y/edgekit/toolchains")
    monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")
    assert tc.toolchains_root() == Path.home() / ".local/share/edgekit/toolchains"


def test_an_environment_that_satisfies_the_pins_is_used_in_place(
    tmp_path: Path, root: Path
) -> None:
    version = importlib.metadata.version("numpy")
    here = make_target(tmp_path, requirements=(f"numpy=={version}",), modules=("numpy",))
    usable = tc.resolve(here)
    assert tc.satisfied_here(here) == ()
    assert usable.python is None
    assert tc.toolchain_python(here) is None
    assert usable.versions["numpy"] == version
    status = tc.status(here)
    assert (status.state, status.digest, status.bytes) == ("used in place", usable.digest, 0)
    assert not root.exists()


def test_a_toolchain_that_is_not_installed_names_the_commands(
    tmp_path: Path, target: Target
) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        tc.resolve(target)
    assert str(caught.value) == (
        "target 'clash' cannot be compiled here: clashlib is not installed (needs clashlib==1.0); "
        "module clashlib is not found; and its toolchain is not installed. Run "
        "`edgekit toolchain install clash`"
    )
    assert caught.value.exit_code == 5
    with pytest.raises(MissingDependencyError, match=r"or `pip install 'edgekit\[clash\]'`"):
        tc.resolve(make_target(tmp_path, extra="clash"))
    assert tc.status(target).state == "missing"


def test_install_use_list_and_remove(tmp_path: Path, root: Path, target: Target) -> None:
    heard: list[Event] = []
    usable = tc.install(target, listener=heard.append)
    assert usable.python is not None
    said = subprocess.run(
        [str(usable.python), "-c", "import clashlib; print(clashlib.value)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "1\n"
    assert {event.stage for event in heard} == {"toolchain clash"}
    assert heard[-1].fraction == 1.0
    assert any("clashlib" in event.message for event in heard)
    assert tc.resolve(target) == usable
    assert usable.versions == {"clashlib": "1.0"}

    other = replace(make_target(tmp_path), name="another")
    another, clash = tc.list_toolchains([target, other])
    assert (another.name, another.state, another.bytes) == ("another", "missing", 0)
    assert (clash.state, clash.digest) == ("installed", usable.digest)
    assert clash.bytes > 1000
    assert clash.problems

    started = time.monotonic()
    assert tc.install(target) == usable
    assert time.monotonic() - started < 1  # what is whole is kept

    (root / "clash-gpu-0123456789ab").mkdir()
    (root / "clash-0123456789ab").mkdir()  # of older pins
    removed: list[Event] = []
    assert tc.remove(target, listener=removed.append) > 1000
    assert len(removed) == 2
    assert folders(root) == ["clash-gpu-0123456789ab"]
    assert tc.status(target).state == "missing"


def test_removing_what_was_never_made_frees_nothing(root: Path, target: Target) -> None:
    assert tc.remove(target) == 0


def test_pips_failure_is_said_with_its_last_words_and_leaves_nothing(
    tmp_path: Path, root: Path, target: Target
) -> None:
    wanting = make_target(tmp_path, requirements=("clashlib==2.0",))
    with pytest.raises(MissingDependencyError, match="No matching distribution") as caught:
        tc.install(wanting)
    assert "check the network" in str(caught.value)
    assert folders(root) == []


def test_a_module_that_does_not_import_fails_the_install(
    tmp_path: Path, root: Path, target: Target
) -> None:
    wheel(tmp_path / "wheels", "clashlib", "1.0", "raise RuntimeError('broken wheel')\n")
    with pytest.raises(MissingDependencyError, match="broken wheel"):
        tc.install(target)
    assert folders(root) == []


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_lock_is_checked_by_hash(tmp_path: Path, root: Path, target: Target) -> None:
    path = wheel(tmp_path / "wheels", "clashlib", "1.0", "value = 1\n")
    locked = make_target(tmp_path, lock="lock.txt")
    (tmp_path / "lock.txt").write_text(f"clashlib==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(MissingDependencyError) as caught:
        tc.install(locked)
    assert str(caught.value).startswith(
        "toolchain clash: pip takes clashlib-1.0-py3-none-any.whl (sha256 "
        f"{sha256_of(path)}) for clashlib, and the lock holds sha256 {'0' * 64}. Nothing is "
        "installed that is not in the lock: "
    )
    assert folders(root) == []
    (tmp_path / "lock.txt").write_text(
        f"{LOCK_HEADER}{lock_platform()}\nclashlib==1.0 --hash=sha256:{sha256_of(path)}\n"
    )
    usable = tc.install(locked)
    assert usable.versions == {"clashlib": "1.0"}
    assert not list(root.glob("clash-*/downloads"))
    # Other pins are another environment: the first is not taken for the second.
    assert tc.status(target).state == "missing"


def test_pip_checks_the_hashes_itself_too(
    tmp_path: Path, root: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a file were swapped between edgekit's look at it and the install."""
    path = tmp_path / "wheels" / "clashlib-1.0-py3-none-any.whl"
    (tmp_path / "lock.txt").write_text(f"clashlib==1.0 --hash=sha256:{sha256_of(path)}\n")
    other = f"clashlib==1.0 --hash=sha256:{'0' * 64}\n"
    monkeypatch.setattr("edgekit.flow.pip.hashed_requirements", lambda *_, **__: other)
    with pytest.raises(MissingDependencyError, match="DO NOT MATCH THE HASHES"):
        tc.install(make_target(tmp_path, lock="lock.txt"))
    assert folders(root) == []


def test_what_the_lock_does_not_hold_is_refused_whoever_needs_it(
    tmp_path: Path, root: Path
) -> None:
    path = wheel(tmp_path / "wheels", "clashlib", "1.0", "value = 1\n", requires="extralib")
    wheel(tmp_path / "wheels", "extralib", "2.0", "")
    (tmp_path / "lock.txt").write_text(f"clashlib==1.0 --hash=sha256:{sha256_of(path)}\n")
    with pytest.raises(MissingDependencyError, match="for extralib, and the lock holds no file"):
        tc.install(make_target(tmp_path, lock="lock.txt"))
    assert folders(root) == []


def test_a_source_package_is_never_built_for_a_lock(tmp_path: Path, root: Path) -> None:
    (tmp_path / "wheels").mkdir()
    source = tmp_path / "wheels" / "clashlib-1.0.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("clashlib-1.0/setup.py"))
    (tmp_path / "lock.txt").write_text(f"clashlib==1.0 --hash=sha256:{sha256_of(source)}\n")
    with pytest.raises(MissingDependencyError, match="pip must find wheels of the locked"):
        tc.install(make_target(tmp_path, lock="lock.txt"))
    assert folders(root) == []


@pytest.fixture
def two_builds(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A find-links folder with a small build of clashlib, an index with one that needs heavylib.

    So it is with torch. Gives the path of the lock that the script makes of both.
    """
    wheel(tmp_path / "wheels", "clashlib", "1.0+cpu", "value = 1\n")
    for path in (
        wheel(tmp_path / "files", "clashlib", "1.0", "value = 2\n", requires="heavylib"),
        wheel(tmp_path / "files", "heavylib", "7.0", ""),
    ):
        page = tmp_path / "simple" / path.name.partition("-")[0] / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text(f'<a href="{path.as_uri()}#sha256={sha256_of(path)}">{path.name}</a>')
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    (tmp_path / "target.toml").write_text(
        '[toolchain]\nrequirements = ["clashlib==1.0"]\nlock = "lock.txt"\n'
    )
    arguments = [str(LOCK_SCRIPT), "--also-plain-index", str(tmp_path / "target.toml")]
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return tmp_path / "lock.txt"


def test_a_lock_of_two_builds_serves_whoever_finds_either(
    tmp_path: Path, two_builds: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    small = sha256_of(tmp_path / "wheels" / "clashlib-1.0+cpu-py3-none-any.whl")
    large = sha256_of(files / "clashlib-1.0-py3-none-any.whl")
    heavy = sha256_of(files / "heavylib-7.0-py3-none-any.whl")
    assert two_builds.read_text().splitlines() == [
        f"{LOCK_HEADER}{lock_platform()}",
        "# from clashlib==1.0, by scripts/lock_toolchain.py --also-plain-index",
        "# clashlib, as pip finds it: clashlib-1.0+cpu-py3-none-any.whl or "
        "clashlib-1.0-py3-none-any.whl",
        f"clashlib==1.0 --hash=sha256:{small} --hash=sha256:{large}",
        f"heavylib==7.0 --hash=sha256:{heavy}",
    ]
    target = make_target(tmp_path, lock="lock.txt")
    monkeypatch.setenv("PIP_REQUIRE_HASHES", "1")  # a policy that a lock meets
    heard: list[Event] = []
    here = tc.install(target, listener=heard.append)
    assert here.versions == {"clashlib": "1.0+cpu"}
    notes = [event.message for event in heard if event.kind == "note"]
    assert notes == ["clashlib is locked in several builds; pip took 1.0+cpu"]
    tc.remove(target)
    monkeypatch.delenv("PIP_FIND_LINKS")
    elsewhere = tc.install(target)
    assert elsewhere.versions == {"clashlib": "1.0", "heavylib": "7.0"}
    # The manifest tells them apart.
    assert elsewhere.digest != here.digest


def test_a_third_build_is_refused(tmp_path: Path, two_builds: Path, root: Path) -> None:
    wheel(tmp_path / "wheels", "clashlib", "1.0+cu9", "value = 3\n")
    with pytest.raises(MissingDependencyError, match=r"pip takes clashlib-1\.0\+cu9-py3"):
        tc.install(make_target(tmp_path, lock="lock.txt"))
    assert folders(root) == []


def test_a_lock_for_another_platform_is_set_aside_aloud(
    tmp_path: Path, root: Path, target: Target
) -> None:
    (tmp_path / "lock.txt").write_text(f"{LOCK_HEADER}Python 2.7 on beos ppc\nclashlib==1.0\n")
    heard: list[Event] = []
    tc.install(make_target(tmp_path, lock="lock.txt"), listener=heard.append)
    warnings = [event.message for event in heard if event.kind == "warning"]
    assert len(warnings) == 1
    assert "pins only" in warnings[0]


def test_the_lock_script_writes_the_hashes_that_an_install_checks(
    tmp_path: Path, root: Path, target: Target
) -> None:
    (tmp_path / "target.toml").write_text(
        '[toolchain]\nrequirements = ["clashlib==1.0"]\nlock = "lock.txt"\n'
    )
    subprocess.run(
        [sys.executable, str(LOCK_SCRIPT), target.origin], check=True, capture_output=True
    )
    sha256 = hashlib.sha256(
        (tmp_path / "wheels" / "clashlib-1.0-py3-none-any.whl").read_bytes()
    ).hexdigest()
    assert (tmp_path / "lock.txt").read_text().splitlines() == [
        f"{LOCK_HEADER}{lock_platform()}",
        "# from clashlib==1.0, by scripts/lock_toolchain.py",
        f"clashlib==1.0 --hash=sha256:{sha256}",
    ]
    (tmp_path / "target.toml").write_text("[toolchain]\nrequirements = []\n")
    refused = subprocess.run(
        [sys.executable, str(LOCK_SCRIPT), target.origin],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "has no 'lock'" in refused.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Target, Path]:
    """One installed toolchain, for tests that damage a copy of it or only run in it."""
    folder = tmp_path_factory.mktemp("installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_TOOLCHAINS", str(folder / "chains"))
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(folder / "wheels"))
        wheel(folder / "wheels", "clashlib", "1.0", "value = 1\n")
        target = make_target(folder)
        tc.install(target)
    return target, folder / "chains"


@pytest.fixture
def copied(
    installed: tuple[Target, Path], root: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Target, Path]:
    """The installed toolchain where this test may damage it."""
    target, chains = installed
    shutil.copytree(chains, root, symlinks=True)
    return target, next(root.glob("clash-*"))


@pytest.mark.parametrize("damage", ["no marker", "no json", "other pins", "no python", "changed"])
def test_a_damaged_toolchain_is_never_used_and_made_again(
    copied: tuple[Target, Path], tmp_path: Path, damage: str
) -> None:
    target, folder = copied
    wheel(tmp_path / "wheels", "clashlib", "1.0", "value = 1\n")
    assert tc.status(target).state == "installed"
    marker = folder / "complete.json"
    if damage == "no marker":
        marker.unlink()
    elif damage == "no json":
        marker.write_bytes(marker.read_bytes()[:10])
    elif damage == "other pins":
        marker.write_text('{"identity":"0","installed":{}}')
    elif damage == "no python":
        for link in (folder / "bin").glob("python*"):
            link.unlink()
    else:
        (info,) = folder.glob("lib/*/site-packages/clashlib-1.0.dist-info")
        text = (info / "METADATA").read_text()
        (info / "METADATA").write_text(text.replace("Version: 1.0", "Version: 1.1"))
    assert tc.status(target).state == "incomplete"
    assert tc.status(target).digest == ""
    with pytest.raises(MissingDependencyError, match=r"its toolchain is (half-made|damaged)"):
        tc.resolve(target)
    if damage == "changed":  # every install takes seconds: once for all of them
        tc.install(target)
        assert tc.status(target).state == "installed"


def test_a_place_that_cannot_be_written_names_the_variable(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", "/proc/edgekit")
    with pytest.raises(OutputError, match="EDGEKIT_TOOLCHAINS"):
        tc.install(target)


def test_a_target_that_pins_nothing_has_nothing_to_install(tmp_path: Path, root: Path) -> None:
    with pytest.raises(ProfileError, match="pins nothing"):
        tc.install(make_target(tmp_path, requirements=()))


SLOW = "import time; time.sleep(600)\n"


def test_ctrl_c_in_an_install_leaves_nothing(tmp_path: Path, root: Path, target: Target) -> None:
    wheel(tmp_path / "wheels", "clashlib", "1.0", SLOW)

    def press(event: Event) -> None:
        if event.message == "importing clashlib":
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(Interrupted, match="toolchain clash: the install was stopped"):
        tc.install(target, listener=press)
    assert folders(root) == []


def test_a_listener_that_raises_stops_an_install(root: Path, target: Target) -> None:
    def cancel(event: Event) -> None:
        raise Interrupted("cancelled by the user")

    with pytest.raises(Interrupted, match="cancelled"):
        tc.install(target, listener=cancel)
    assert folders(root) == []


INSTALL = """
import sys
from pathlib import Path
from edgekit.core.target import Target, Toolchain
from edgekit.flow.toolchain import install
target = Target(name="clash", title="", format="", suffix="", compiler="", runtime="",
    runtime_package="", minimum_runtime_version="", origin=sys.argv[1],
    toolchain=Toolchain(requirements=("clashlib==1.0",), modules=("clashlib",)))
install(target, listener=lambda event: print(event.message, flush=True))
"""


def test_an_install_that_was_killed_is_never_used_and_the_next_one_starts_clean(
    tmp_path: Path, root: Path, target: Target
) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", INSTALL, target.origin], stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    for line in killed.stdout:
        if "Installing" in line:
            killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert tc.status(target).state == "incomplete"
    assert tc.install(target).python is not None
    assert tc.status(target).state == "installed"


def test_two_installs_at_once_make_one_environment(root: Path, target: Target) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", INSTALL, target.origin], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted("making a virtual environment" in text for text in printed) == [False, True]
    assert len(folders(root)) == 1


# Stages in an environment of their own.


def job(plugin: str, function: str, **settings: object) -> StageRequest:
    return StageRequest(name="compile", handler=f"{plugin}:{function}", settings=dict(settings))


def python_of(installed: tuple[Target, Path]) -> Path:
    (folder,) = installed[1].glob("clash-*")
    return folder / "bin" / "python"


def test_a_stage_there_sees_edgekit_its_plugin_and_nothing_else_of_this_environment(
    installed: tuple[Target, Path], plugin: str, tmp_path: Path
) -> None:
    python = python_of(installed)
    wanted = [
        "clashlib",
        "edgekit.core.codec",
        "numpy",
        "torch",
        "click",
        "pytest",
        "tests",
        "worker",
    ]
    seen = run_in_worker(
        job(plugin, "surroundings", modules=wanted), tmp_path, ignore, python=python
    )
    assert seen["prefix"] == str(python.parent.parent)
    assert seen["edgekit"] == sys.modules["edgekit"].__file__
    missing = {name for name, what in seen["modules"].items() if what == "missing"}
    assert missing == {"numpy", "torch", "click", "pytest", "tests", "worker"}
    # The entry points by which edgekit finds its plug-ins are there, as here.
    points = importlib.metadata.entry_points(group="edgekit.compilers")
    assert seen["compilers"] == sorted(point.name for point in points)
    assert "litert" in seen["compilers"]


def test_a_lent_edgekit_opens_the_engines_that_an_environment_has(
    plugin: str, tmp_path: Path
) -> None:
    pytest.importorskip("ai_edge_litert")
    # This Python stands for a toolchain's: nothing but the lent packages is handed over.
    seen = run_in_worker(
        job(plugin, "engine", runtime="litert"), tmp_path, ignore, python=Path(sys.executable)
    )
    assert seen == {"module": "edgekit.runtime.litert", "numpy": np.__version__}


def test_errors_and_defects_come_back_from_there(
    installed: tuple[Target, Path], plugin: str, tmp_path: Path
) -> None:
    python = python_of(installed)
    with pytest.raises(CompileError, match=r"aten\.sort is not supported; é, 🙂"):
        run_in_worker(job(plugin, "refuse"), tmp_path, ignore, python=python)
    with pytest.raises(StageDefectError, match="in fail"):
        run_in_worker(job(plugin, "fail"), tmp_path, ignore, python=python)


def test_cancellation_and_ctrl_c_reach_there(
    installed: tuple[Target, Path], plugin: str, tmp_path: Path
) -> None:
    def press(event: Event) -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    def cancel(event: Event) -> None:
        raise Interrupted("cancelled")

    for listener, text in ((press, "was stopped"), (cancel, "cancelled")):
        started = time.monotonic()
        with pytest.raises(Interrupted, match=text):
            run_in_worker(job(plugin, "sleep"), tmp_path, listener, python=python_of(installed))
        assert time.monotonic() - started < 20


@pytest.mark.slow
def test_a_published_package_that_clashes_with_this_environment_is_used_there(
    plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole door: a target's TOML, its hashed lock, an install, and its stage in a build."""
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path / "chains"))
    plain = tomllib.loads((FOLDER / "target.toml").read_text())
    clash = from_plain(Target, plain | {"origin": str(FOLDER / "target.toml")}, where="target.toml")
    here = importlib.metadata.version("packaging")
    assert tc.satisfied_here(clash) == (f"packaging {here} is installed (needs packaging==23.1)",)
    usable = tc.install(clash)
    assert usable == tc.resolve(clash)
    assert usable.versions == {"packaging": "23.1"}

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.txt").write_bytes(b"weights")
    request = replace(
        job(plugin, "compile_", bits=[4, 8]),
        inputs={"model": str(tmp_path / "model")},
        digests={"model": "1" * 64},
    )
    heard: list[Event] = []
    said: list[Event] = []
    with Store(tmp_path / "cache") as store:
        away = Runner(store, heard.append, seed=9).run(request, toolchain=usable)
        local = Runner(store, said.append, seed=9).run(request)
        assert not away.is_reused
        assert not local.is_reused
        again = Runner(store, ignore, seed=9).run(request, toolchain=usable)
        assert again.is_reused
        assert (away.folder / "model.clash").read_bytes() == b"sthgiew"
    assert heard == said
    assert away.key != local.key
    assert away.values == local.values | {"packaging": "23.1"}
    assert local.values["packaging"] == here
