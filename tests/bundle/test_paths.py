"""Which paths a bundle may hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundle.paths import collision, file_name_for, path_fault


@pytest.mark.parametrize(
    "path", ["a", "model/model.tflite", "golden/inputs/x_0.npy", "MODEL_CARD.md", "a+b/c-d.e"]
)
def test_plain_relative_paths_are_allowed(path):
    assert path_fault(path) == ""


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../up",
        "a/../b",
        "a/./b",
        "./a",
        "a//b",
        "a/",
        "a\\b",
        "C:/x",
        "C:x",
        ".hidden",
        "a/.git",
        "a\x00b",
        "a\nb",
        "a b",
        "é",
        "con",
        "a/NUL.txt",
        "a/Com1",
        "a.",
        "-rf",
        "x" * 201,
    ],
)
def test_every_other_path_is_refused(path):
    assert path_fault(path)


@given(st.text(max_size=40))
def test_an_allowed_path_stays_inside_on_every_system(path):
    import ntpath
    import posixpath

    if path_fault(path) == "":
        for system in (ntpath, posixpath):
            assert not system.isabs(path)
            assert not system.splitdrive(path)[0]
            assert system.normpath(path).replace("\\", "/") == path


@pytest.mark.parametrize(
    ("paths", "is_clash"),
    [
        (["a", "b/a"], False),
        (["a/x", "a/y"], False),
        (["a", "A"], True),
        (["a", "a"], True),
        (["a/b", "a"], True),
        (["A/b", "a"], True),
        (["a/x", "A/y"], True),
    ],
)
def test_paths_that_cannot_lie_side_by_side_are_named(paths, is_clash):
    assert bool(collision(paths)) == is_clash


@given(st.text(max_size=80))
def test_a_file_name_for_any_name_is_safe(name):
    made = file_name_for(name)
    assert path_fault(made) == ""
    assert "/" not in made


@given(st.text(max_size=20), st.text(max_size=20))
def test_two_names_never_share_a_file(one, other):
    if one != other:
        assert file_name_for(one).lower() != file_name_for(other).lower()


def test_a_plain_name_keeps_its_name():
    assert file_name_for("input_ids") == "input_ids"
