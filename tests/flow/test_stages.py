"""Stage keys follow everything that decides a result; the runner reuses what has the same key."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.core.errors import CompileError, Interrupted, MissingDependencyError
from edgekit.core.progress import Event, ignore
from edgekit.core.stage import StageRequest
from edgekit.flow import stages
from edgekit.flow.stages import Place, Runner, code_digest, stage_key
from edgekit.flow.toolchain import UsableToolchain
from edgekit.flow.worker import StageDefectError
from edgekit.store import Store

PLACES: tuple[Place, ...] = ("here", "process")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "cache") as opened:
        yield opened


@pytest.fixture
def heard() -> list[Event]:
    return []


@pytest.fixture
def request_(plugin: str, tmp_path: Path) -> StageRequest:
    settings = {"log": str(tmp_path / "log"), "bits": 8}
    return StageRequest(name="quantize", handler=f"{plugin}:append", settings=settings)


def runs(tmp_path: Path) -> int:
    log = tmp_path / "log"
    return len(log.read_text().split()) if log.exists() else 0


def test_a_key_is_the_same_for_the_same_and_blind_to_names_and_places(
    request_: StageRequest,
) -> None:
    there = replace(request_, inputs={"model": "/a"}, digests={"model": "1"})
    moved = replace(there, inputs={"model": "/b"}, name="other")
    assert stage_key(there) == stage_key(moved)
    assert len(stage_key(there)) == 64


def test_a_key_follows_all_that_decides_a_result(
    request_: StageRequest, plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = replace(request_, inputs={"model": "/a"}, digests={"model": "1"})
    keys = [
        stage_key(base),
        stage_key(replace(base, digests={"model": "2"})),
        stage_key(replace(base, inputs={"other": "/a"}, digests={"other": "1"})),
        stage_key(replace(base, settings={**base.settings, "bits": 4})),
        stage_key(replace(base, seed=1)),
        stage_key(replace(base, handler=f"{plugin}:talk")),
        stage_key(base, "toolchain"),
    ]
    monkeypatch.setattr("edgekit.__version__", "9.9")
    keys.append(stage_key(base))
    monkeypatch.undo()
    assert len(set(keys)) == len(keys)


def test_an_input_without_a_digest_is_refused(request_: StageRequest) -> None:
    with pytest.raises(ValueError, match="the same roles"):
        stage_key(replace(request_, inputs={"model": "/a"}))


def test_a_key_follows_the_code_of_the_handlers_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "fresh_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\n")
    (package / "deep.py").write_text("y = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    job = StageRequest(name="s", handler="fresh_plugin.deep:run")
    before = stage_key(job)
    (package / "deep.py").write_text("y = 2\n")
    code_digest.cache_clear()
    assert stage_key(job) != before
    with pytest.raises(MissingDependencyError, match="absent_plugin"):
        stage_key(replace(job, handler="absent_plugin.x:y"))


def test_the_code_digest_ignores_only_the_rooms_that_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["cli/b.py", "clique/d.py", "core/a.py", "report/c.py"]

    def sources(name: str) -> tuple[tuple[str, Path], ...]:
        return tuple((path, tmp_path / path) for path in files)

    def digest_with(changed: str) -> str:
        for path in files:
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text("2" if path == changed else "1")
        code_digest.cache_clear()
        return code_digest("edgekit")

    monkeypatch.setattr(stages, "package_sources", sources)
    before = digest_with("none")
    assert {path for path in files if digest_with(path) != before} == {"core/a.py", "clique/d.py"}
    code_digest.cache_clear()


@pytest.mark.parametrize("place", PLACES)
def test_a_second_run_is_reused_and_says_so_and_repeats_what_was_said(
    store: Store, heard: list[Event], request_: StageRequest, tmp_path: Path, place: Place
) -> None:
    runner = Runner(store, heard.append, seed=5)
    first = runner.run(request_, place=place)
    assert not first.is_reused
    assert first.values == {"n": 1, "tuple": [1, 2]}
    assert (first.folder / "out.bin").read_bytes() == bytes([5]) * 1000
    assert [event.kind for event in heard] == ["warning", "progress"]
    heard.clear()
    second = runner.run(replace(request_, name="renamed"), place=place)
    assert second.is_reused
    assert (second.values, second.digest, second.key) == (first.values, first.digest, first.key)
    assert [(event.stage, event.kind, event.message) for event in heard] == [
        ("renamed", "note", "reused from the cache: nothing that it depends on has changed"),
        ("renamed", "warning", "layer x stayed float"),
    ]
    assert runs(tmp_path) == 1
    assert second.seconds >= 0


def test_here_and_in_a_process_give_the_same(tmp_path: Path, request_: StageRequest) -> None:
    outcomes = []
    for place in PLACES:
        with Store(tmp_path / place) as store:
            outcomes.append(Runner(store, ignore, seed=2).run(request_, place=place))
    assert outcomes[0].digest == outcomes[1].digest
    assert outcomes[0].key == outcomes[1].key


def test_a_handler_sees_plain_settings_in_every_place(store: Store, plugin: str) -> None:
    settings = {"pair": (1, 2), "nothing": None}
    model = store.root / "model"
    model.mkdir()
    (model / "model.txt").write_bytes(b"x")
    job = StageRequest(
        name="s",
        handler=f"{plugin}:compile_",
        settings=settings,
        inputs={"model": str(model)},
        digests={"model": "1"},
    )
    values = Runner(store, ignore).run(job).values
    assert values["seen"] == "{'nothing': None, 'pair': [1, 2]}"


def test_the_runners_seed_is_the_stages_seed(store: Store, request_: StageRequest) -> None:
    one = Runner(store, ignore, seed=1).run(request_)
    two = Runner(store, ignore, seed=2).run(request_)
    assert (one.folder / "out.bin").read_bytes() != (two.folder / "out.bin").read_bytes()
    assert one.key != two.key


def test_a_stage_that_is_not_cached_runs_each_time_without_a_complaint(
    store: Store, heard: list[Event], plugin: str
) -> None:
    job = StageRequest(name="latency", handler=f"{plugin}:pseudo_random")
    runner = Runner(store, heard.append)
    digests = {runner.run(job, is_cached=False).digest for _ in range(3)}
    assert len(digests) == 3
    assert heard == []


def test_a_refresh_names_the_stage_that_is_not_deterministic(
    store: Store, heard: list[Event], plugin: str, request_: StageRequest
) -> None:
    job = StageRequest(name="draw", handler=f"{plugin}:pseudo_random")
    assert Runner(store, heard.append).run(job).differences == ()
    assert heard == []
    again = Runner(store, heard.append, refresh=True).run(job)
    assert again.differences == ("drawn", "values.clock")
    assert [(event.stage, event.kind) for event in heard] == [("draw", "warning")]
    assert "StageNotDeterministic" in heard[0].message
    heard.clear()
    for refresh in (False, True):
        assert Runner(store, ignore, refresh=refresh).run(request_).differences == ()


@pytest.mark.parametrize("place", PLACES)
def test_a_stage_that_fails_leaves_nothing_and_runs_again(
    store: Store, plugin: str, place: Place
) -> None:
    job = StageRequest(name="s", handler=f"{plugin}:refuse")
    for _ in range(2):
        with pytest.raises(CompileError, match=r"aten\.sort"):
            Runner(store, ignore).run(job, place=place)
    assert not list((store.root / "temp").iterdir())
    assert store.entries() == ()


def test_a_defect_is_a_defect_in_every_place(store: Store, plugin: str) -> None:
    job = StageRequest(name="s", handler=f"{plugin}:give_set")
    with pytest.raises(TypeError, match="set has no plain form"):
        Runner(store, ignore).run(job)
    with pytest.raises(StageDefectError, match="set has no plain form"):
        Runner(store, ignore).run(job, place="process")


def test_a_toolchain_with_its_own_python_is_always_a_process(store: Store, plugin: str) -> None:
    chain = UsableToolchain(name="x", python=Path(sys.executable), versions={}, digest="d" * 64)
    job = StageRequest(name="s", handler=f"{plugin}:surroundings")
    away = Runner(store, ignore).run(job, toolchain=chain)
    assert away.values["pid"] != os.getpid()
    here = Runner(store, ignore).run(job, toolchain=replace(chain, python=None, digest="e" * 64))
    assert here.values["pid"] == os.getpid()


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_is_an_interruption_and_leaves_nothing(
    store: Store, plugin: str, place: Place
) -> None:
    function = "sleep" if place == "process" else "interrupt"
    job = StageRequest(name="s", handler=f"{plugin}:{function}")

    def press(event: Event) -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(Interrupted, match="'s' was stopped"):
        Runner(store, press).run(job, place=place)
    assert not list((store.root / "temp").iterdir())


BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from edgekit.core.progress import ignore
from edgekit.core.stage import StageRequest
from edgekit.flow.stages import Runner
from edgekit.store import Store

log = sys.argv[3]
with Store(Path(sys.argv[2])) as store:
    print("ready", flush=True)
    for n in range(int(sys.argv[4])):
        job = StageRequest(name="s", handler="edgekit_clash.stages:append",
                           settings={"log": log, "n": n % 4})
        refresh = int(sys.argv[4]) > 4
        outcome = Runner(store, ignore, seed=7, refresh=refresh).run(job, place=sys.argv[5])
        assert (outcome.folder / "out.bin").read_bytes() == bytes([7]) * 1000
"""


def _start_build(root: Path, log: Path, rounds: int, place: Place) -> "subprocess.Popen[str]":
    folder = str(Path(__file__).parent / "toolchain_target")
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, folder, str(root), str(log), str(rounds), place],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_builds_at_once_share_the_work(tmp_path: Path) -> None:
    log = tmp_path / "log"
    builds = [_start_build(tmp_path / "cache", log, 4, "process") for _ in range(2)]
    for build in builds:
        _, stderr = build.communicate(timeout=60)
        assert build.returncode == 0, stderr
    assert len(log.read_text().split()) == 4


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_builds_killed_at_random_moments_leave_a_store_that_works(
    tmp_path: Path, place: Place
) -> None:
    root, log = tmp_path / "cache", tmp_path / "log"
    for number in range(12):
        build = _start_build(root, log, 1000, place)
        time.sleep(0.01 + 0.037 * number % 0.3)
        build.send_signal(signal.SIGKILL)
        build.communicate()
    final = _start_build(root, log, 4, place)
    _, stderr = final.communicate(timeout=60)
    assert final.returncode == 0, stderr
    with Store(root) as store:
        assert not list((root / "temp").iterdir())
        for entry in store.entries():
            found: Any = store.get(entry.key)
            assert (found.folder / "out.bin").read_bytes() == bytes([7]) * 1000
