"""The bootstrap of a worker process: what it finds, and when it dies."""

import importlib.metadata
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from edgekit.flow import worker_main
from edgekit.flow.worker_main import BorrowedPackages


def _finder(tmp_path: Path) -> BorrowedPackages:
    (tmp_path / "space").mkdir()
    (tmp_path / "lone.py").write_text("")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__init__.py").write_text("")
    return BorrowedPackages(
        {
            "lone": {"origin": str(tmp_path / "lone.py"), "locations": None},
            "whole": {
                "origin": str(tmp_path / "whole" / "__init__.py"),
                "locations": [str(tmp_path / "whole")],
            },
            "space": {"origin": None, "locations": [str(tmp_path / "space")]},
        },
        [
            {
                "METADATA": "Metadata-Version: 2.1\nName: My_Plug.in\nVersion: 1.5\n",
                "entry_points.txt": "[edgekit.runtimes]\nmine = whole:Engine\n",
            }
        ],
    )


def test_the_finder_gives_modules_packages_and_namespaces_and_nothing_else(tmp_path: Path) -> None:
    finder = _finder(tmp_path)
    specs = {name: finder.find_spec(name) for name in ("lone", "whole", "space", "numpy")}
    assert specs["numpy"] is None
    found = {
        name: (spec.origin, spec.submodule_search_locations)
        for name, spec in specs.items()
        if isinstance(spec, ModuleSpec)
    }
    assert found == {
        "lone": (str(tmp_path / "lone.py"), None),
        "whole": (str(tmp_path / "whole" / "__init__.py"), [str(tmp_path / "whole")]),
        "space": (None, [str(tmp_path / "space")]),
    }


def test_the_finder_serves_importlib_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "meta_path", [_finder(tmp_path), *sys.meta_path])
    assert importlib.metadata.version("my-plug-in") == "1.5"
    points = importlib.metadata.entry_points(group="edgekit.runtimes", name="mine")
    assert [point.value for point in points] == ["whole:Engine"]
    distribution = importlib.metadata.distribution("My.Plug.In")
    assert not Path(str(distribution.locate_file("x"))).exists()
    assert importlib.metadata.version("numpy")


def test_a_job_sets_the_path_and_the_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["before"])
    monkeypatch.setattr(sys, "meta_path", [])
    worker_main.prepare({"path": None, "packages": {}, "distributions": []})
    assert sys.path == ["before"]
    worker_main.prepare({"path": ["after"], "packages": {}, "distributions": []})
    assert sys.path == ["after"]
    assert len(sys.meta_path) == 2
