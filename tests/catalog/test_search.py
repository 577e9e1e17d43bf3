"""Which file answers to a name."""

import os
import sys

import pytest

from edgekit.catalog import find_profiles, find_targets, load_profile, load_target
from edgekit.catalog.search import built_in_root
from edgekit.core.errors import ProfileError
from tests.catalog.conftest import PROFILE


def test_built_in_profiles_and_targets_are_found_from_anywhere(home):
    assert {"phone", "embedded", "edge-server", "laptop"} <= {x.name for x in find_profiles()}
    assert {x.name for x in find_targets()} == {"litert", "onnx"}
    assert all(entry.level == "built in" for entry in find_profiles())


def test_what_a_wheel_carries_goes_before_the_checkout(monkeypatch, tmp_path):
    package = tmp_path / "edgekit"
    package.mkdir()
    monkeypatch.setattr("edgekit.__file__", str(package / "__init__.py"))
    assert built_in_root() == tmp_path
    (package / "_data").mkdir()
    assert built_in_root() == package / "_data"


def test_the_working_directory_goes_before_the_built_in(home):
    path = home.profile("phone")
    assert load_profile("phone").title == "A test board"
    assert load_profile("phone").origin == str(path)
    entry = next(item for item in find_profiles() if item.name == "phone")
    assert (entry.path, entry.level) == (path, "working directory")


def test_edgekit_path_goes_before_the_working_directory(home, monkeypatch):
    home.profile("phone")
    first = home.profile("phone", root="elsewhere")
    monkeypatch.setenv("EDGEKIT_PATH", str(home.folder / "elsewhere"))
    assert load_profile("phone").origin == str(first)


def test_an_explicit_path_goes_before_everything(home):
    path = home.profile("phone", PROFILE.replace("A test board", "mine"), root="x")
    assert load_profile(str(path)).title == "mine"
    assert load_profile(os.path.relpath(path)).title == "mine"


def test_one_name_twice_on_a_level_names_both_files(home, monkeypatch):
    one, two = home.profile("board", root="one"), home.profile("board", root="two")
    roots = os.pathsep.join(str(home.folder / name) for name in ("one", "two"))
    monkeypatch.setenv("EDGEKIT_PATH", roots)
    with pytest.raises(ProfileError) as caught:
        load_profile("board")
    assert str(one) in str(caught.value)
    assert str(two) in str(caught.value)
    with pytest.raises(ProfileError, match="stands twice"):
        find_profiles()
    assert load_profile("phone").name == "phone"


def test_a_folder_named_twice_is_one_folder(home, monkeypatch):
    home.profile("board", root="one")
    monkeypatch.setenv("EDGEKIT_PATH", os.pathsep.join(["", "one", "one"]))
    assert load_profile("board").name == "board"


def test_a_wrong_edgekit_path_is_named(home, monkeypatch):
    monkeypatch.setenv("EDGEKIT_PATH", "nowhere")
    with pytest.raises(ProfileError, match="EDGEKIT_PATH names 'nowhere'"):
        find_profiles()


def test_an_unknown_name_suggests_a_near_one(home):
    with pytest.raises(ProfileError, match="no device profile is called 'phoen'; did you mean"):
        load_profile("phoen")
    with pytest.raises(ProfileError, match="no target is called 'onx'; did you mean 'onnx'"):
        load_target("onx")


def test_a_folder_with_the_name_of_a_profile_is_not_taken_for_it(home):
    (home.folder / "phone").mkdir()
    assert load_profile("phone").is_generic


def test_a_target_is_found_by_name_folder_and_file(home):
    path = home.target("mine")
    for given in ("mine", "targets/mine", "./targets/mine/target.toml"):
        assert load_target(given).name == "mine"
    assert load_target("mine").origin == str(path)


def install_plug_in(folder, monkeypatch, package):
    site = folder / "site"
    info = site / "board_pack-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: board-pack\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[edgekit.catalogs]\nboards = {package}\n")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    return site


def test_an_installed_plug_in_brings_profiles(home, monkeypatch):
    site = install_plug_in(home.folder, monkeypatch, "board_pack")
    home.profile("packed", root="site/board_pack")
    (site / "board_pack" / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    assert load_profile("packed").name == "packed"
    entry = next(item for item in find_profiles() if item.name == "packed")
    assert entry.level == "plug-ins"


def test_a_plug_in_without_its_package_is_named(home, monkeypatch):
    install_plug_in(home.folder, monkeypatch, "gone_pack.data")
    with pytest.raises(ProfileError, match=r"plug-in 'boards' .*'gone_pack.data'"):
        find_profiles()
