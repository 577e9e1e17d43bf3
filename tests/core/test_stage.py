"""Handlers are found by name, and errors carry the exit codes of the tree."""

import pytest

from edgekit.core import errors
from edgekit.core.errors import MissingDependencyError
from edgekit.core.progress import Event, Reporter
from edgekit.core.stage import StageRequest, resolve_handler


def test_a_handler_is_imported_by_its_name():
    assert resolve_handler("edgekit.core.stage:resolve_handler") is resolve_handler


def test_a_missing_library_is_named():
    with pytest.raises(MissingDependencyError, match="no_such_library_here"):
        resolve_handler("no_such_library_here.module:function")


def test_folders_are_found_by_role():
    request = StageRequest(name="s", handler="a:b", inputs={"float": "/tmp/x"})
    assert str(request.folder("float")) == "/tmp/x"


def test_a_reporter_names_its_stage():
    heard: list[Event] = []
    reporter = Reporter(stage="export", listener=heard.append)
    reporter.progress("half", 0.5)
    reporter.note("n")
    reporter.warn("w")
    assert [(item.stage, item.kind, item.fraction) for item in heard] == [
        ("export", "progress", 0.5),
        ("export", "note", None),
        ("export", "warning", None),
    ]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("InputError", 2),
        ("ProfileError", 2),
        ("WorkloadError", 2),
        ("OutputError", 2),
        ("StepError", 2),
        ("SessionError", 2),
        ("BudgetError", 3),
        ("CompileError", 4),
        ("MissingDependencyError", 5),
        ("BundleError", 6),
        ("Interrupted", 130),
        ("EdgekitError", 1),
    ],
)
def test_each_error_has_its_exit_code(name, code):
    assert getattr(errors, name).exit_code == code
    assert f"{name} " in (errors.__doc__ or "")
