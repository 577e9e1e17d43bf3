"""What a user may name as WORKLOAD, and what is said where it cannot be used."""

import textwrap

import pytest

from edgekit.core.errors import MissingDependencyError, WorkloadError
from edgekit.core.workload import Workload
from edgekit.flow.sources import SourceOptions, resolve_source

GOOD = """
    import edgekit

    def workload(name="m", width="4"):
        return edgekit.Workload(
            name=name, model=None, inputs={"x": edgekit.Tensor(shape=(int(width),))},
            outputs={"y": edgekit.Output()}, calibration=[], evaluation=[],
        )

    other = lambda: workload("other")
"""


@pytest.fixture
def write(tmp_path):
    def writer(text, name="work.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return writer


def resolve(source, tmp_path, **options):
    return resolve_source(source, tmp_path, SourceOptions(**options))


def test_a_python_file_gives_its_workload(write, tmp_path):
    path = write(GOOD)
    assert resolve(path, tmp_path).workload.name == "m"
    assert resolve(f"{path}:other", tmp_path).workload.name == "other"
    assert len(resolve(path, tmp_path).digest) == 64


def test_arguments_reach_the_function(write, tmp_path):
    source = resolve(write(GOOD), tmp_path, arguments={"name": "given", "width": "7"})
    assert source.workload.name == "given"
    assert source.workload.inputs["x"].shape == (7,)


def test_a_file_may_import_what_lies_beside_it(write, tmp_path):
    write("WIDTH = 3\n", "beside_this_workload.py")
    path = write("import beside_this_workload\n" + textwrap.dedent(GOOD))
    assert resolve(path, tmp_path).workload.name == "m"


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        (GOOD, "work_load", "no function 'work_load'; did you mean 'workload'"),
        ("def workload():\n    return 3\n", None, "returned int, not an edgekit.Workload"),
        ("def workload():\n    return 1 / 0\n", None, "line 2: ZeroDivisionError"),
        ("x = = 1\n", None, "SyntaxError"),
        ("import sys\nsys.exit(0)\n", None, "line 2: SystemExit"),
        ("def workload(path):\n    return None\n", None, "give --arg path=VALUE"),
    ],
)
def test_what_is_wrong_with_a_python_file_is_told(write, tmp_path, text, function, message):
    path = write(text)
    with pytest.raises(WorkloadError, match=message):
        resolve(f"{path}:{function}" if function else path, tmp_path)


def test_a_missing_import_is_a_missing_component(write, tmp_path):
    with pytest.raises(MissingDependencyError, match="no_such_package"):
        resolve(write("import no_such_package\n"), tmp_path)


@pytest.mark.parametrize(
    ("name", "options"),
    [("nothing.py", {}), ("nothing.onnx", {"data": "."}), ("model.bin", {}), ("folder", {})],
)
def test_what_is_not_there_or_not_known_is_refused(tmp_path, name, options):
    (tmp_path / "model.bin").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WorkloadError, match=r"no such file|not a workload"):
        resolve(tmp_path / name, tmp_path, **options)


def test_a_model_file_needs_data(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(WorkloadError, match="needs --data DIR"):
        resolve(tmp_path / "m.onnx", tmp_path)


@pytest.mark.parametrize("options", [{"data": "d"}, {"labels": "l"}])
def test_a_workload_file_takes_no_data_option(write, tmp_path, options):
    with pytest.raises(WorkloadError, match="names its own data"):
        resolve(write(GOOD), tmp_path, **options)


def test_unknown_and_misplaced_arguments_are_refused(write, tmp_path):
    with pytest.raises(WorkloadError, match="no argument 'nam'; did you mean 'name'"):
        resolve(write(GOOD), tmp_path, arguments={"nam": "x"})
    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(WorkloadError, match="--arg goes with a Python file"):
        resolve(tmp_path / "m.onnx", tmp_path, data=tmp_path, arguments={"a": "b"})


def test_a_live_workload_is_taken_as_it_is(write, tmp_path):
    live = Workload(name="live", model=None, inputs={}, outputs={}, calibration=[], evaluation=[])
    assert resolve(live, tmp_path).workload is live
    with pytest.raises(WorkloadError, match="names its own data"):
        resolve(live, tmp_path, data=tmp_path)
