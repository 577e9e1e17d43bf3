"""The two streams, and what long work says on the second one."""

import io
import json
import os
import subprocess
import sys

import pytest
from rich.text import Text

from edgekit.cli import output, progress
from edgekit.core.progress import Event, Reporter
from edgekit.report.parts import bullets, pairs, table


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def make_terminal(monkeypatch):
    """A function that makes stdout and stderr one terminal; pytest sets them anew after setup."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def make() -> Terminal:
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return make


def test_a_terminal_gets_colour(make_terminal):
    terminal = make_terminal()
    output.say(Text("PROVEN", style="green"))
    assert "\x1b[32mPROVEN" in terminal.getvalue()


def test_no_color_leaves_the_words_and_takes_the_colour(make_terminal, monkeypatch):
    terminal = make_terminal()
    monkeypatch.setenv("NO_COLOR", "1")
    output.say(Text("PROVEN", style="green"))
    assert "PROVEN" in terminal.getvalue()
    assert "\x1b[3" not in terminal.getvalue()


def test_a_pipe_gets_plain_lines_without_padding(capsys):
    output.say(table(("a", "b"), [("x", "1"), ("longer", "2")]), Text("end", style="red"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "end"
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in "".join(lines)


def test_text_of_the_users_is_no_markup(capsys):
    output.say(table(("a",), [("[red]x[/red] :smile:",)]))
    assert "[red]x[/red] :smile:" in capsys.readouterr().out


def test_a_plain_string_is_never_wrapped(capsys):
    output.say("word " * 60)
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("width", ["40", "60", "80", "132"])
def test_tables_never_cut_a_value(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)
    cells = [f"column{index}" + "abcdefghij" * 3 for index in range(5)]
    output.say(
        table([f"h{index}" for index in range(5)], [cells]),
        pairs([("name", "value" * 40), ("left out", "")]),
        bullets("Title", ["line " * 40]),
    )
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= int(width)
    squeezed = "".join(text.split())
    assert squeezed.count("value") == 40
    assert squeezed.count("line") == 40
    assert "leftout" not in squeezed
    # Columns stand side by side, so letters are counted, not sought as one word.
    in_table = "".join(text.split("name")[0].split())
    assert in_table.count("j") == 5 * 3


def test_names_up_to_32_characters_are_not_broken(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    name = "a" * 32
    output.say(table(("figure", "value"), [(name, "many words " * 10)]))
    assert name in capsys.readouterr().out


def test_names_beyond_that_are_wrapped_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    output.say(table(("figure", "value"), [("b" * 60, "x" * 10)]))
    assert capsys.readouterr().out.count("b") == 60


def test_a_lost_reader_reaches_the_caller(monkeypatch):
    console = output.console_for(Terminal())
    with pytest.raises(BrokenPipeError):
        console.on_broken_pipe()


def test_python_prints_of_libraries_go_to_stderr(capsys):
    with output.guarded_stdout():
        print("noise")
    print("result")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("result\n", "noise\n")


def test_native_prints_of_libraries_go_to_stderr_even_after_an_error():
    code = (
        "import os, sys\n"
        "from edgekit.cli.output import guarded_stdout, say_json\n"
        "try:\n"
        "    with guarded_stdout():\n"
        "        os.write(1, b'native noise\\n')\n"
        "        os.system('echo child noise')\n"
        "        raise KeyError\n"
        "except KeyError:\n"
        "    pass\n"
        "say_json({'a': 1})\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert json.loads(found.stdout) == {"a": 1}
    assert found.stderr.split("\n")[:2] == ["native noise", "child noise"]


def test_plain_progress_says_each_new_thing_once(capsys, monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", lambda: 100.0)
    with progress.listening() as listener:
        reporter = Reporter(stage="export", listener=listener)
        reporter.progress("tracing")
        for step in range(10):
            reporter.progress("writing", step / 10)
        reporter.note("a note")
        reporter.warn("a warning")
    assert capsys.readouterr().err.splitlines() == [
        "export: tracing",
        "export: writing (0%)",
        "note: export: a note",
        "warning: export: a warning",
    ]


def test_plain_progress_speaks_again_after_a_while(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.listening() as listener:
        for step in range(1, 21):
            now[0] = float(step)
            listener(Event(stage="s", kind="progress", message="working", fraction=step / 20))
    said = capsys.readouterr().err.splitlines()
    assert said == [f"s: working ({step * 5}%)" for step in (1, 6, 11, 16)]


def test_live_progress_shows_bars_and_keeps_notes(make_terminal):
    terminal = make_terminal()
    with progress.listening() as listener:
        reporter = Reporter(stage="quantize", listener=listener)
        reporter.progress("starting")
        reporter.progress("calibrating", 0.5)
        reporter.warn("a layer stays float")
    shown = terminal.getvalue()
    assert "warning: quantize: a layer stays float" in shown
    assert "quantize" in shown
    assert "calibrating" in shown
