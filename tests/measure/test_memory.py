import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.core.codec import from_plain
from edgekit.core.errors import SessionError
from edgekit.core.figure import Figure
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.measure import memory, memory_child
from edgekit.measure.memory import measure, memory_figures, run_child

from . import artifacts


def job_for(folder, item, data, contract, **changes):
    return {
        "artifact": artifacts.plain(item),
        "contract": artifacts.plain(contract),
        "threads": 1,
        "folder": str(folder),
        "data": str(data),
        "is_baseline": False,
        **memory.engine_place("onnx"),
        **changes,
    }


@pytest.fixture
def small(tmp_path):
    item = artifacts.write_onnx(tmp_path / "m")
    data = artifacts.write_data(tmp_path / "d", np.ones((2, 3), np.float32))
    return job_for(tmp_path / "m", item, data, artifacts.contract())


def test_the_weights_of_a_model_are_seen(tmp_path):
    size = 2048
    weight = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    item = artifacts.write_onnx(tmp_path / "m", weight=weight, bias=weight[0])
    data = artifacts.write_data(tmp_path / "d", np.ones((1, size), np.float32))
    request = StageRequest(
        name="memory",
        handler="edgekit.measure.memory:measure",
        settings={
            "artifact": artifacts.plain(item),
            "contract": artifacts.plain(artifacts.contract(size, size)),
            "threads": 1,
        },
        inputs={"artifact": str(tmp_path / "m"), "data": str(data)},
    )
    events = []
    values = measure(request, tmp_path, Reporter(stage="memory", listener=events.append))
    peak, load = (from_plain(Figure, item, where="figure") for item in values["figures"])
    weights = size * size * 4
    # The file is read, parsed and laid out again: one to six copies of the weights, no more.
    assert weights <= peak.value <= 6 * weights
    assert peak.low <= peak.value == peak.high
    assert (peak.name, peak.unit, peak.samples) == ("peak_memory_bytes", "bytes", 3)
    assert (load.name, load.unit) == ("load_ms", "ms")
    assert load.low <= load.value <= load.high
    assert len(events) == 3


def test_the_measuring_process_imports_no_training_framework(small):
    code = (
        "import sys, json, io\n"
        "from edgekit.measure import memory_child\n"
        "memory_child.measure_self(json.loads(sys.stdin.read()))\n"
        "bad = {'torch', 'tensorflow', 'litert_torch', 'onnx', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        input=json.dumps(small),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_parents_own_peak_does_not_leak_into_the_child(small):
    ballast = np.ones(200_000_000 // 8)
    found = run_child({**small, "is_baseline": True})
    assert ballast[0] == 1
    assert found["peak_bytes"] < 150e6


def test_an_artifact_that_the_engine_refuses_says_why(small, tmp_path):
    (tmp_path / "m" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(SessionError, match=r"model.onnx: the process .* ended badly: .*ONNX"):
        run_child(small)


def test_a_process_that_dies_says_by_what(small, monkeypatch):
    monkeypatch.setattr(memory, "START", "import no_such_module")
    with pytest.raises(SessionError, match="No module named"):
        run_child(small)
    monkeypatch.setattr(memory, "START", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(SessionError, match="ended badly: signal 9"):
        run_child(small)


def test_the_process_finds_edgekit_where_its_parent_did(small, monkeypatch):
    # An environment with numpy and the engine but without edgekit, as a toolchain's is.
    home = str(Path(edgekit.__file__).parents[1])
    hide = f"import sys\nsys.path[:] = [item for item in sys.path if item != {home!r}]\n"
    monkeypatch.setattr(memory, "START", hide + "import edgekit.core")
    with pytest.raises(SessionError, match="No module named 'edgekit"):
        run_child(small)
    monkeypatch.undo()
    monkeypatch.setattr(memory, "START", hide + memory.START)
    assert run_child(small)["peak_bytes"] > 0


def test_a_process_that_hangs_is_ended(small, monkeypatch):
    monkeypatch.setattr(memory, "TIMEOUT_S", 0.01)
    with pytest.raises(SessionError, match=r"took over 0.01 s"):
        run_child(small)


def test_less_than_the_model_itself_is_not_believed():
    peak, _ = memory_figures([-4096.0, 100.0, 5000.0], [1.0, 3.0, 2.0], model_bytes=1000, threads=1)
    assert (peak.low, peak.value, peak.high) == (1000.0, 5000.0, 5000.0)


def test_figures_are_the_highest_peak_and_the_median_load():
    peak, load = memory_figures([30.0, 10.0, 20.0], [1.0, 9.0, 2.0], model_bytes=1, threads=2)
    assert (peak.low, peak.value, peak.high) == (10.0, 30.0, 30.0)
    assert (load.low, load.value, load.high) == (1.0, 2.0, 9.0)
    assert "2 thread(s)" in peak.how


def test_the_child_reports_by_json_and_fails_with_a_line(small, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(memory_child, "_forget_peak", lambda: None)
    assert memory_child.main(small) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["peak_bytes"] > 1e6
    assert report["load_ms"] > 0
    assert memory_child.main({**small, "data": str(tmp_path)}) == 1
    assert "no finished dataset" in capsys.readouterr().err


def test_peak_is_what_the_kernel_says():
    import resource

    assert memory_child.peak_bytes() <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
