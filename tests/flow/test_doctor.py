"""What is installed, what is missing, and what brings it."""

import importlib.metadata
import shutil
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edgekit.flow import doctor
from edgekit.flow.doctor import EXTRAS, examine, extra_checks, packages_of

LINES = [
    "numpy>=2.0",
    "edgekit[litert-runtime]; extra == 'litert'",
    "torch==2.13.0; extra == 'litert'",
    "ai-edge-litert==2.3.0; extra == 'litert-runtime'",
    "torch==2.13.0; extra == 'onnx'",
    "pytest>=999; extra == 'image'",
    "no-such-package-of-edgekit==1.0; extra == 'tensorflow'",
    "click; extra == 'audio'",
]


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path / "toolchains"))


def _checks() -> dict[str, doctor.Check]:
    return {item.name: item for item in extra_checks(LINES)}


def test_an_extra_made_of_others_is_opened():
    listed = [Requirement(line) for line in LINES]
    assert [item.name for item in packages_of("litert", listed)] == ["ai-edge-litert", "torch"]


def test_a_package_in_two_extras_is_checked_once():
    names = [item.name for item in extra_checks(LINES)]
    assert names.count("torch") == 1
    assert "numpy" not in names


def test_a_local_label_does_not_make_another_version():
    installed = importlib.metadata.version("torch")
    assert (_checks()["torch"].state, _checks()["torch"].found) == ("ok", installed)


def test_a_missing_package_names_the_command_that_brings_it():
    found = _checks()["no-such-package-of-edgekit"]
    assert (found.state, found.found) == ("missing", "")
    assert found.fix == "pip install 'edgekit[tensorflow]'"


def test_another_version_is_told_apart_from_a_missing_one():
    found = _checks()["pytest"]
    assert (found.state, found.wanted) == ("other version", ">=999")
    assert found.found == importlib.metadata.version("pytest")


def test_a_package_without_a_pin_is_fine_in_any_version():
    assert (_checks()["click"].state, _checks()["click"].wanted) == ("ok", "any")


def test_every_extra_that_is_looked_for_exists_in_the_project():
    own = importlib.metadata.metadata("edgekit").get_all("Provides-Extra")
    assert EXTRAS.keys() <= set(own)


def test_the_pins_are_the_projects_own():
    pinned = {item.name: item.wanted for item in extra_checks()}
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'"litert-torch{pinned["litert-torch"]}"' in text
    assert pinned.keys() >= {"onnxruntime", "pillow", "soundfile", "tokenizers", "safetensors"}


def test_an_edgekit_that_was_never_installed_has_nothing_to_hold_versions_against(monkeypatch):
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", requires)
    assert list(extra_checks()) == []


def test_no_compiler_names_the_command_of_the_system(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    [found] = [item for item in examine().checks if item.group == "C compiler"]
    assert found.state == "missing"
    assert found.fix in ("apt-get install gcc", "xcode-select --install")
    assert found in examine().missing


def test_facts_name_the_cache_and_what_it_takes(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "file").write_bytes(b"12345")
    facts = examine().facts
    assert facts["cache"] == str(tmp_path / "cache")
    assert facts["cache_bytes"] == 5
    assert facts["cache_free_bytes"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.01)


def test_looking_makes_no_folder(tmp_path):
    examine()
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_read_is_named_not_fatal(tmp_path, monkeypatch):
    folder = tmp_path / "root" / "targets" / "odd"
    folder.mkdir(parents=True)
    (folder / "target.toml").write_text("nonsense = [")
    monkeypatch.setenv("EDGEKIT_PATH", str(tmp_path / "root"))
    broken = {item.name: item for item in examine().checks if item.group == "targets"}
    assert broken["odd"].state == "broken"
    assert "target.toml" in broken["odd"].found


def test_a_broken_search_path_is_named_not_fatal(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_PATH", str(tmp_path / "nowhere"))
    broken = [item for item in examine().checks if item.group == "targets"]
    assert [item.name for item in broken] == ["all"]
    assert "EDGEKIT_PATH" in broken[0].found


def test_a_plug_in_that_an_own_engine_hides_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "theirs-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = "[edgekit.runtimes]\nlitert = their_engine:Engine\nfast = their_engine:Engine\n"
    (folder / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    [found] = [item for item in examine().checks if item.group == "engines"]
    assert (found.name, found.state) == ("litert", "broken")
    assert "their_engine:Engine is never loaded" in found.found
