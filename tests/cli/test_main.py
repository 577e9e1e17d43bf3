"""The table of commands, the way out, and what --help costs."""

import errno
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pytest

from edgekit.cli import ending
from edgekit.cli.main import COMMANDS, EXAMPLE, cli, main
from edgekit.cli.verb import Verb
from edgekit.core import errors


def _all_commands() -> dict[str, click.Command]:
    context = click.Context(cli)
    found = {}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": item for inner, item in command.commands.items()}
    return found


def _python(code: str, *arguments: str, **settings: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **settings,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_summary_in_the_table_is_the_commands_own(name):
    command = _all_commands()[name]
    assert command.help.splitlines()[0] == COMMANDS[name].summary
    assert command.name == name


@pytest.mark.parametrize("name", [n for n, c in _all_commands().items() if isinstance(c, Verb)])
def test_every_command_shows_an_example_of_itself(name, command):
    shown = command(*name.split(), "--help").out
    assert "Example:" in shown
    assert f"edgekit {name}" in shown.split("Example:")[1]


def test_every_command_is_a_verb_or_a_group_of_verbs():
    assert all(isinstance(item, Verb | click.Group) for item in _all_commands().values())


def _examples() -> list[list[str]]:
    texts = [EXAMPLE, *(getattr(item, "example", "") for item in _all_commands().values())]
    lines = [line for text in texts for line in text.splitlines()]
    typed = [line.partition("edgekit ")[2] for line in lines if line.startswith("edgekit ")]
    return [shlex.split(line.partition(" | ")[0], comments=True) for line in typed]


@pytest.mark.parametrize("words", _examples(), ids=" ".join)
def test_every_example_parses(words):
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group):
        name, *words = words
        command = command.get_command(context, name)
    assert command.make_context(name, list(words)).params


def test_everything_that_reports_speaks_json():
    silent = {"completion"}
    for name, command in _all_commands().items():
        if isinstance(command, Verb) and name not in silent:
            assert "--json" in [text for item in command.params for text in item.opts], name


def test_help_imports_nothing_beside_click_and_rich():
    code = (
        "import sys; from edgekit.cli.main import main; main(['--help']); "
        "own = {n.split('.')[0] for n in sys.modules}; "
        "print(sorted(own & {'numpy', 'torch', 'onnxruntime', 'ai_edge_litert'})); "
        "print(sorted(n for n in sys.modules if n.startswith('edgekit')))"
    )
    lines = _python(code).stdout.splitlines()
    assert lines[-2] == "[]"
    assert set(lines[-1].strip("[]").replace("'", "").split(", ")) <= {
        "edgekit",
        "edgekit.cli",
        "edgekit.cli.ending",
        "edgekit.cli.main",
        "edgekit.cli.verb",
        "edgekit.core",
        "edgekit.core.errors",
    }


def test_a_wrong_command_is_told_the_right_one(command):
    found = command("bild")
    assert found.code == 2
    assert "did you mean 'build'" in found.err


def test_no_command_shows_help_and_is_a_usage_error(command):
    found = command()
    assert found.code == 2
    assert "Usage: edgekit" in found.err
    assert found.out == ""


def test_version_is_the_packages_own(command):
    import edgekit

    assert command("--version").out == f"edgekit {edgekit.__version__}\n"


def test_wrong_usage_goes_to_stderr_with_the_way_to_help(command):
    found = command("build")
    assert (found.code, found.out) == (2, "")
    assert "edgekit build --help" in found.err


DOCUMENTED = {
    errors.InputError: 2,
    errors.ProfileError: 2,
    errors.WorkloadError: 2,
    errors.OutputError: 2,
    errors.StepError: 2,
    errors.NothingGainedError: 2,
    errors.BudgetError: 3,
    errors.CompileError: 4,
    errors.MissingDependencyError: 5,
    errors.BundleError: 6,
    errors.SessionError: 2,
    errors.Interrupted: 130,
}


def _raise_in_devices(monkeypatch, error: BaseException) -> None:
    import edgekit.catalog

    def find() -> None:
        raise error

    monkeypatch.setattr(edgekit.catalog, "find_profiles", find)


@pytest.mark.parametrize(("kind", "code"), DOCUMENTED.items())
def test_each_error_ends_with_its_documented_code(kind, code, command, monkeypatch):
    _raise_in_devices(monkeypatch, kind("what went wrong"))
    found = command("devices")
    assert found.code == code
    assert "what went wrong" in found.err
    assert found.out == ""


def test_the_table_of_codes_covers_every_error():
    named = {item for item in vars(errors).values() if isinstance(item, type)}
    raised = {item for item in named if issubclass(item, errors.EdgekitError)}
    assert raised - {errors.EdgekitError} == DOCUMENTED.keys()


@pytest.mark.parametrize("kind", DOCUMENTED)
def test_json_says_errors_as_one_document(kind, command, monkeypatch):
    _raise_in_devices(monkeypatch, kind("what went wrong"))
    found = command("devices", "--json")
    error = json.loads(found.out)["error"]
    assert error["type"] == kind.__name__
    assert error["exit_code"] == found.code == DOCUMENTED[kind]
    assert error["message"].startswith("what went wrong")
    assert found.err == ""


def test_json_says_usage_errors_too(command):
    found = command("build", "--json")
    error = json.loads(found.out)["error"]
    assert (found.code, error["exit_code"]) == (2, 2)
    assert "WORKLOAD" in error["message"]


def test_json_after_two_dashes_is_an_argument():
    assert not ending.wants_json(["run", "bundle", "--", "--json"])
    assert ending.wants_json(["run", "--json", "--", "x"])


def test_ctrl_c_says_that_stages_stay(command, monkeypatch):
    _raise_in_devices(monkeypatch, KeyboardInterrupt())
    found = command("devices")
    assert found.code == 130
    assert found.err.startswith("interrupted: finished stages stay in the cache")


def test_ctrl_c_in_json_is_an_error_document(command, monkeypatch):
    _raise_in_devices(monkeypatch, KeyboardInterrupt())
    found = command("devices", "--json")
    assert json.loads(found.out)["error"]["exit_code"] == found.code == 130


def test_a_defect_passes_through_main(monkeypatch):
    _raise_in_devices(monkeypatch, ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        main(["devices"])


BROKEN = (
    "import sys, edgekit.catalog\n"
    "def find(): raise ZeroDivisionError('our own')\n"
    "edgekit.catalog.find_profiles = find\n"
    "from edgekit.cli.main import run\n"
    "run()"
)


def test_a_defect_says_what_to_report_and_keeps_the_traceback(tmp_path):
    found = _python(BROKEN, "devices", env={"TMPDIR": str(tmp_path)})
    assert found.returncode == 1
    assert "our own" in found.stderr
    assert "edgekit devices" in found.stderr
    assert "python" in found.stderr
    [saved] = tmp_path.glob("edgekit-defect-*.txt")
    assert str(saved) in found.stderr
    assert "ZeroDivisionError: our own" in saved.read_text()
    assert "def find" not in found.stderr


def test_a_defect_in_json_is_one_document(tmp_path):
    found = _python(BROKEN, "devices", "--json", env={"TMPDIR": str(tmp_path)})
    error = json.loads(found.stdout)["error"]
    assert (found.returncode, error["exit_code"]) == (1, 1)
    assert Path(error["traceback"]).is_file()


def test_a_reader_that_goes_away_is_no_error():
    program = subprocess.Popen(
        [sys.executable, "-m", "edgekit", "devices", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    program.stdout.close()
    assert program.wait(60) == ending.READER_LOST
    assert program.stderr.read() == b""
    program.stderr.close()


def test_losing_a_reader_without_a_file_changes_nothing(monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert ending.lose_reader() == ending.READER_LOST


def test_python_dash_m_is_the_same_program():
    found = subprocess.run(
        [sys.executable, "-m", "edgekit", "--version"], capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith("edgekit ")


def test_text_that_a_stream_cannot_show_is_escaped_not_fatal(monkeypatch):
    import io

    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    ending.prepare_streams()
    sys.stdout.write("nämlich")
    sys.stdout.flush()
    assert buffer.getvalue() == b"n\\xe4mlich"


def test_tables_survive_a_stream_of_ascii():
    found = subprocess.run(
        [sys.executable, "-m", "edgekit", "devices"],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        check=False,
    )
    assert found.returncode == 0
    assert b"phone" in found.stdout


def test_ctrl_c_outside_of_commands_is_no_defect(capsys):
    ending.defect_hook(["devices"])(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err.startswith("interrupted: finished stages")


def test_a_defect_is_told_whole_where_its_traceback_cannot_be_saved(capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    try:
        raise ZeroDivisionError("never foreseen")
    except ZeroDivisionError as error:
        ending.defect_hook(["devices", "--json"])(type(error), error, error.__traceback__)
    found = capsys.readouterr()
    assert json.loads(found.out)["error"]["traceback"] == "above: it could not be saved"
    assert "Traceback (most recent call last)" in found.err
    assert "never foreseen" in found.err


def test_an_interrupted_stage_says_that_finished_ones_stay(command, monkeypatch):
    _raise_in_devices(monkeypatch, errors.Interrupted("stage 'export' was stopped"))
    found = command("devices")
    assert found.err.startswith("interrupted: stage 'export' was stopped; finished stages stay")
