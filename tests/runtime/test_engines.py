"""Finding engines among plug-ins."""

import importlib
import sys

import pytest

from edgekit.core.errors import MissingDependencyError, SessionError
from edgekit.runtime.engines import GROUP, load_engine, open_engine


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """A function that installs a package with an entry point, as pip lays it out."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(package, name, value):
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value}\n")
        importlib.invalidate_caches()

    return install


def test_the_two_own_engines_are_found(models):
    from edgekit.runtime.litert import LiteRtEngine
    from edgekit.runtime.onnx import OnnxEngine

    assert load_engine("litert") is LiteRtEngine
    assert load_engine("onnx") is OnnxEngine
    engine = open_engine("litert", models.float_litert.content, threads=1)
    assert isinstance(engine, LiteRtEngine)
    engine.close()


def test_an_unknown_engine_is_answered_with_the_list():
    with pytest.raises(SessionError, match="no runtime is called 'litter'; did you mean 'litert'"):
        load_engine("litter")
    with pytest.raises(SessionError, match="allowed: litert, onnx"):
        load_engine("zzzzzz")


def test_a_plug_in_of_another_package_is_found(plug_in, tmp_path):
    (tmp_path / "their_engine.py").write_text("class Engine: pass\n")
    plug_in("theirs", "their", "their_engine:Engine")
    assert load_engine("their").__module__ == "their_engine"


def test_a_name_taken_twice_is_an_error_that_names_both(plug_in):
    plug_in("theirs", "fast", "their_engine:Engine")
    plug_in("others", "fast", "other_engine:Engine")
    with pytest.raises(SessionError, match=r"other_engine:Engine \(package others\).*theirs"):
        load_engine("fast")


def test_no_plug_in_takes_the_place_of_an_own_engine(plug_in, tmp_path):
    from edgekit.runtime.litert import LiteRtEngine

    (tmp_path / "their_engine.py").write_text("class Engine: pass\n")
    plug_in("theirs", "litert", "their_engine:Engine")
    assert load_engine("litert") is LiteRtEngine


def test_a_plug_in_that_cannot_be_imported_is_named(plug_in):
    plug_in("theirs", "broken", "no_such_module:Engine")
    with pytest.raises(MissingDependencyError, match="no_such_module"):
        load_engine("broken")
    plug_in("others", "hollow", "json:Engine")
    with pytest.raises(SessionError, match="does not exist"):
        load_engine("hollow")


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("litert", "ai_edge_litert", "litert-runtime"), ("onnx", "onnxruntime", "onnx-runtime")],
)
def test_a_missing_engine_names_its_extra(monkeypatch, name, package, extra):
    for module in [item for item in sys.modules if item.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"edgekit.runtime.{name}", raising=False)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'edgekit\[{extra}\]'"):
        load_engine(name)
