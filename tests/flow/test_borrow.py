"""What a worker in another environment is lent."""

import importlib.metadata
from pathlib import Path

import pytest

import edgekit
from edgekit.core.errors import MissingDependencyError
from edgekit.flow.borrow import borrowed_for, package_sources


def test_edgekit_and_the_handlers_package_are_lent_with_their_entry_points(plugin: str) -> None:
    lent = borrowed_for(f"{plugin}:compile_")
    home = Path(edgekit.__file__).parent
    assert lent.packages["edgekit"]["origin"] == edgekit.__file__
    assert str(home) in lent.packages["edgekit"]["locations"]
    assert Path(lent.packages["edgekit_clash"]["origin"]).name == "__init__.py"
    mine = importlib.metadata.distribution("edgekit")
    assert {"METADATA": mine.read_text("METADATA")}.items() <= lent.distributions[0].items()


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(MissingDependencyError, match="'absent_plugin' holds a stage"):
        borrowed_for("absent_plugin.x:y")


def test_sources_of_a_module_are_its_file_and_of_a_package_all_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lone_module.py").write_text("")
    (tmp_path / "name_space" / "part").mkdir(parents=True)
    (tmp_path / "name_space" / "part" / "b.py").write_text("")
    (tmp_path / "name_space" / "a.py").write_text("")
    (tmp_path / "name_space" / "data.txt").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_sources("lone_module") == (("lone_module.py", tmp_path / "lone_module.py"),)
    names = [name for name, _ in package_sources("name_space")]
    assert names == ["a.py", "part/b.py"]
