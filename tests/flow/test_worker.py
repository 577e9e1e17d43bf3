"""Stages in processes of their own: events, errors and ends come through as if they ran here."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edgekit
from edgekit.core import errors
from edgekit.core.codec import to_plain
from edgekit.core.errors import (
    CompileError,
    Interrupted,
    MissingDependencyError,
    OutputError,
    StepError,
)
from edgekit.core.progress import Event, Reporter, ignore
from edgekit.core.stage import StageRequest, resolve_handler
from edgekit.flow import worker
from edgekit.flow.stages import Place, Runner
from edgekit.flow.worker import StageDefectError, WorkerTraceback, run_in_worker
from edgekit.flow.worker_child import known_class
from edgekit.store import Store
from tests.measure import artifacts


def request(plugin: str, function: str, **settings: Any) -> StageRequest:
    return StageRequest(name="stage", handler=f"{plugin}:{function}", settings=settings, seed=3)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.txt").write_bytes(b"weights")
    return folder


def with_model(plugin: str, model: Path) -> StageRequest:
    return StageRequest(
        name="stage",
        handler=f"{plugin}:compile_",
        settings={"a": [1, {"b": None}], "text": "é\n"},
        inputs={"model": str(model)},
        digests={"model": "0"},
        seed=3,
    )


def test_a_worker_gives_the_values_files_and_events_of_a_call(
    plugin: str, model: Path, tmp_path: Path
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    heard: list[Event] = []
    said: list[Event] = []
    job = with_model(plugin, model)
    values = run_in_worker(job, there, heard.append)
    called = resolve_handler(job.handler)(job, here, Reporter(stage="stage", listener=said.append))
    assert values == called
    assert heard == said
    assert [event.kind for event in heard] == ["progress", "note", "warning"]
    assert (there / "model.clash").read_bytes() == b"sthgiew"


def test_a_worker_runs_with_fixed_hashing_and_without_pythons_variables(
    plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    job = request(plugin, "surroundings", modules=["edgekit_clash", "stages", "worker"], threads=3)
    seen = run_in_worker(job, tmp_path, ignore)
    assert seen["pid"] != os.getpid()
    code = "print(hash('edgekit'))"
    fixed = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "0"}, capture_output=True, check=True
    )
    assert seen["hash"] == int(fixed.stdout)
    assert seen["threads"] == "3"
    assert seen["user_site"]
    assert seen["pythonpath"] is None
    assert seen["edgekit"] == edgekit.__file__
    assert seen["path"] == [str(Path(entry).absolute()) for entry in sys.path]
    # The folder of the worker's own script is not on the path.
    assert seen["modules"] == {
        "edgekit_clash": "edgekit_clash",
        "stages": "missing",
        "worker": "missing",
    }
    plain = run_in_worker(request(plugin, "surroundings"), tmp_path, ignore)
    assert plain["threads"] == "7"


def test_an_error_of_edgekits_comes_back_as_itself(plugin: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        run_in_worker(request(plugin, "refuse"), tmp_path, ignore)
    assert type(caught.value) is CompileError
    assert str(caught.value) == "layer 'a.b': aten.sort is not supported; é, 🙂"
    assert isinstance(caught.value.__cause__, WorkerTraceback)
    assert "in refuse" in str(caught.value.__cause__)


def test_every_class_of_the_tree_survives_the_way() -> None:
    from edgekit.flow.worker import _error_classes

    named = {
        name: cls
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, errors.EdgekitError)
    }
    assert _error_classes() == named
    assert all(known_class(cls) == name for name, cls in named.items())


def test_a_plugins_own_error_comes_back_as_the_class_that_edgekit_knows(
    plugin: str, tmp_path: Path
) -> None:
    with pytest.raises(CompileError, match="own kind") as caught:
        run_in_worker(request(plugin, "refuse_by_subclass"), tmp_path, ignore)
    assert type(caught.value) is CompileError


@pytest.mark.parametrize(
    ("function", "text"), [("fail", "never foreseen"), ("give_set", "set has no plain form")]
)
def test_anything_else_is_a_defect_with_its_traceback(
    plugin: str, tmp_path: Path, function: str, text: str
) -> None:
    with pytest.raises(StageDefectError, match=text) as caught:
        run_in_worker(request(plugin, function), tmp_path, ignore)
    assert not isinstance(caught.value, errors.EdgekitError)
    assert "Traceback (most recent call last)" in str(caught.value)


def test_a_handler_that_is_not_there_is_a_missing_dependency(tmp_path: Path) -> None:
    job = StageRequest(name="stage", handler="no_such_package.x:y")
    with pytest.raises(MissingDependencyError, match="no_such_package"):
        run_in_worker(job, tmp_path, ignore)


def test_no_memory_is_said_so(plugin: str, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"got no memory: .*calibration"):
        run_in_worker(request(plugin, "take_all_memory"), tmp_path, ignore)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
@pytest.mark.parametrize("place", ["here", "process"])
def test_a_full_disk_in_a_stage_names_the_cache_wherever_it_runs(
    plugin: str, tmp_path: Path, place: Place
) -> None:
    with Store(tmp_path / "cache") as store:
        runner = Runner(store, ignore)
        with pytest.raises(OutputError, match=r"cache: no room .* set EDGEKIT_CACHE") as caught:
            runner.run(request(plugin, "fill_disk"), place=place)
        assert caught.value.exit_code == 2
        assert not list((store.root / "temp").iterdir())
        assert not store.entries()


def test_a_tool_that_fails_on_a_full_disk_is_not_blamed(
    plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(free=4096)
    monkeypatch.setattr(worker.shutil, "disk_usage", lambda _: full)
    for function in ("refuse", "fail"):
        with pytest.raises(OSError, match="No space left") as caught:
            run_in_worker(request(plugin, function), tmp_path, ignore)
        assert caught.value.errno == errno.ENOSPC
        assert isinstance(caught.value.__cause__, (CompileError, StageDefectError))


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_kill_from_outside_names_the_signal_and_what_to_try(
    plugin: str, tmp_path: Path, name: str
) -> None:
    with pytest.raises(StepError, match=rf"{name}.*out of memory"):
        run_in_worker(request(plugin, "kill", signal=name), tmp_path, ignore)


def test_a_crash_shows_the_signal_and_the_last_words(plugin: str, tmp_path: Path) -> None:
    with pytest.raises(StageDefectError, match="SIGSEGV") as caught:
        run_in_worker(request(plugin, "kill", signal="SIGSEGV"), tmp_path, ignore)
    assert "last words" in str(caught.value)
    assert "in kill" in str(caught.value)  # where in Python, by faulthandler


def test_an_exit_without_a_result_is_a_defect_with_the_end_of_the_output(
    plugin: str, tmp_path: Path
) -> None:
    with pytest.raises(StageDefectError, match="status 7") as caught:
        run_in_worker(request(plugin, "leave"), tmp_path, ignore)
    assert str(caught.value).endswith("going")
    assert len(str(caught.value)) < 70_000


def test_a_worker_that_was_interrupted_is_an_interruption(plugin: str, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_in_worker(request(plugin, "interrupt"), tmp_path, ignore)


def test_a_python_that_is_not_there_says_what_to_look_at(plugin: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match="edgekit toolchain list"):
        run_in_worker(request(plugin, "fail"), tmp_path, ignore, python=tmp_path / "bin" / "python")


def test_events_of_several_threads_and_a_big_result_arrive_whole(
    plugin: str, tmp_path: Path
) -> None:
    heard: list[Event] = []
    values = run_in_worker(request(plugin, "talk"), tmp_path, heard.append)
    assert values == {"big": "z" * 300_000}
    assert len(heard) == 200
    for number in range(4):
        mine = [event.message for event in heard if event.message.startswith(f"{number}/")]
        assert mine == [f"{number}/{index}/" + "y" * (number * 30_000) for index in range(50)]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pids: list[int], seconds: float = 5) -> list[int]:
    deadline = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [pid for pid in pids if is_running(pid)]


def test_what_a_finished_stage_left_running_is_killed(
    plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.flow.worker.EXIT_SECONDS", 0.3)
    started = time.monotonic()
    values = run_in_worker(request(plugin, "linger"), tmp_path, ignore)
    assert time.monotonic() - started < 10
    assert len(values["pids"]) == 2
    assert wait_until_gone(values["pids"]) == []


def test_a_child_that_holds_the_pipes_open_cannot_hang_the_build(
    plugin: str, tmp_path: Path
) -> None:
    started = time.monotonic()
    with pytest.raises(StageDefectError, match="status 3"):
        run_in_worker(request(plugin, "orphan"), tmp_path, ignore)
    assert time.monotonic() - started < 20


def test_a_listener_that_raises_stops_the_worker(plugin: str, tmp_path: Path) -> None:
    pids: list[int] = []

    def cancel(event: Event) -> None:
        pids.extend(int(text) for text in event.message.split())
        raise Interrupted("cancelled by the user")

    with pytest.raises(Interrupted, match="cancelled"):
        run_in_worker(request(plugin, "sleep"), tmp_path, cancel)
    assert len(pids) == 2
    assert wait_until_gone(pids) == []


def test_ctrl_c_stops_the_worker_and_what_it_started_at_once(plugin: str, tmp_path: Path) -> None:
    pids: list[int] = []

    def press(event: Event) -> None:
        pids.extend(int(text) for text in event.message.split())
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(Interrupted, match="stage 'stage' was stopped"):
        run_in_worker(request(plugin, "sleep"), tmp_path, press)
    assert len(pids) == 2
    assert wait_until_gone(pids) == []


PARENT = """
import json, sys
from pathlib import Path
from edgekit.core.stage import StageRequest
from edgekit.flow.worker import run_in_worker
sys.path.insert(0, sys.argv[1])
request = StageRequest(name="stage", handler="edgekit_clash.stages:sleep")
run_in_worker(request, Path(sys.argv[2]), lambda event: print(event.message, flush=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_a_worker_dies_with_a_parent_that_was_killed(plugin: str, tmp_path: Path) -> None:
    folder = Path(__file__).parent / "toolchain_target"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    worker, grandchild = map(int, parent.stdout.readline().split())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    try:
        assert wait_until_gone([worker]) == []
    finally:
        os.kill(grandchild, signal.SIGKILL)


MEASURING_PARENT = """
import json, sys
from pathlib import Path
from edgekit.core.codec import from_plain
from edgekit.core.stage import StageRequest
from edgekit.flow.worker import run_in_worker
request = from_plain(StageRequest, json.loads(sys.argv[1]), where="request")
run_in_worker(request, Path(sys.argv[2]), lambda event: None)
"""


def waiting_reader(pipe: Path) -> int:
    """The end of a named pipe that writes, once somebody waits to read from it."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as nobody:
            if nobody.errno != errno.ENXIO or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [item for child in map(int, children) for item in (child, *descendants(child))]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_the_process_that_measures_memory_dies_with_a_killed_parent_of_its_worker(
    tmp_path: Path,
) -> None:
    item = artifacts.write_onnx(tmp_path / "model")
    # The measuring process reads its data first: from a pipe it waits for ever.
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "data" / "meta.json")
    stage = StageRequest(
        name="memory",
        handler="edgekit.measure.memory:measure",
        settings={
            "artifact": artifacts.plain(item),
            "contract": artifacts.plain(artifacts.contract()),
        },
        inputs={"artifact": str(tmp_path / "model"), "data": str(tmp_path / "data")},
    )
    job = json.dumps(to_plain(stage))
    parent = subprocess.Popen([sys.executable, "-c", MEASURING_PARENT, job, str(tmp_path)])
    try:
        writing = waiting_reader(tmp_path / "data" / "meta.json")
        worker, measuring = descendants(parent.pid)
    finally:
        parent.kill()
        parent.wait()
    try:
        assert wait_until_gone([worker, measuring]) == []
    finally:
        os.close(writing)


def test_the_request_that_is_sent_is_plain_json(plugin: str, model: Path) -> None:
    from edgekit.flow.worker import _job

    job = _job(with_model(plugin, model), Path("out"), Path("/x/bin/python"))
    assert set(job["packages"]) >= {"edgekit", "edgekit_clash"}
    assert json.loads(json.dumps(job["packages"])) == job["packages"]
    assert job["path"] is None
