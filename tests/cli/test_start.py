"""init and the completion of shells."""

import json
import os
import subprocess
import sys

import pytest


def test_init_names_what_it_wrote_and_what_to_type_next(command, tmp_path):
    found = command("init", tmp_path / "app")
    assert found.out.splitlines() == [
        str(tmp_path / "app" / "workload.py"),
        str(tmp_path / "app" / "README.md"),
    ]
    assert "edgekit build" in found.err


def test_init_in_json_is_one_document(command, tmp_path):
    found = command("init", tmp_path, "--json")
    assert json.loads(found.out)["written"] == [
        str(tmp_path / "workload.py"),
        str(tmp_path / "README.md"),
    ]


def test_init_refuses_to_overwrite(command, tmp_path):
    (tmp_path / "workload.py").write_text("mine")
    found = command("init", tmp_path)
    assert found.code == 2
    assert (tmp_path / "workload.py").read_text() == "mine"
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_of_that_shell(shell, command, monkeypatch):
    # click asks the installed bash for its version, and warns where there is none.
    found = command("completion", shell)
    assert found.code == 0
    assert f"_EDGEKIT_COMPLETE={shell}_complete" in found.out


def _complete(*words: str) -> list[str]:
    line = " ".join(("edgekit", *words))
    environment = {
        **os.environ,
        "_EDGEKIT_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words)),
    }
    found = subprocess.run(
        [sys.executable, "-m", "edgekit"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    return [item.split(",", 1)[1] for item in found.stdout.split()]


def test_a_shell_completes_commands():
    assert {"build", "bench"} == set(_complete("b"))


def test_a_shell_completes_device_names_as_arguments_and_options():
    assert "phone" in _complete("devices", "ph")
    assert "phone" in _complete("build", "w.py", "--device", "ph")
    assert "laptop" not in _complete("devices", "ph")


def test_a_shell_completes_target_names():
    assert set(_complete("targets", "")) >= {"litert", "onnx"}
    assert _complete("build", "w.py", "--target", "lit") == ["litert"]


def test_a_broken_catalog_completes_nothing_and_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_PATH", str(tmp_path / "nowhere"))
    assert _complete("devices", "ph") == []
