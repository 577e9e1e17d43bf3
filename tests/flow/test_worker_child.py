"""The worker's side, called in this process with a pipe to read from."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.core.codec import to_plain
from edgekit.core.errors import BundleError, CompileError, EdgekitError
from edgekit.core.stage import StageRequest
from edgekit.flow.worker_child import answer, known_class


@pytest.fixture
def ask(
    plugin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], list[dict[str, Any]]]:
    """The messages that a stage of the plug-in sends, an uncaught exception included."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)

    def run(function: str) -> list[dict[str, Any]]:
        settings = {"log": str(tmp_path / "log")}
        request = StageRequest(name="s", handler=f"{plugin}:{function}", settings=settings)
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb") as stream:
            try:
                answer({"request": to_plain(request), "out": str(tmp_path)}, writing)
            except (EdgekitError, ArithmeticError, TypeError) as error:
                sys.excepthook(type(error), error, error.__traceback__)
            finally:
                os.close(writing)
            return [json.loads(line) for line in stream.read().splitlines()]

    return run


def test_events_come_before_the_values(ask: Callable[[str], list[dict[str, Any]]]) -> None:
    assert ask("append") == [
        {"event": {"stage": "s", "kind": "warning", "message": "layer x stayed float"}},
        {"event": {"stage": "s", "kind": "progress", "message": "done", "fraction": 1.0}},
        {"values": {"n": 1, "tuple": [1, 2]}},
    ]


def test_an_error_names_its_class_and_a_defect_its_type(
    ask: Callable[[str], list[dict[str, Any]]],
) -> None:
    (error,) = ask("refuse")
    assert error["error"]["type"] == "CompileError"
    assert error["error"]["message"].startswith("layer 'a.b'")
    (error,) = ask("refuse_by_subclass")
    assert error["error"]["type"] == "CompileError"
    for function, kind in (("fail", "ZeroDivisionError"), ("give_set", "TypeError")):
        (defect,) = ask(function)
        assert defect["defect"]["type"] == kind
        assert "Traceback" in defect["defect"]["traceback"]


def test_the_nearest_class_of_the_tree_is_named() -> None:
    class Odd(CompileError):
        pass

    class Odder(Odd, BundleError):
        pass

    assert known_class(Odder) == "CompileError"
    assert known_class(EdgekitError) == "EdgekitError"
