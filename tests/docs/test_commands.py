"""Commands, options, exit codes, extras and counts in the documents are those of the code."""

import importlib.util
import re
import shlex
import tomllib

import click
import pytest

from edgekit.catalog import find_profiles
from edgekit.cli.main import COMMANDS, cli
from edgekit.core import errors
from tests.docs.pages import PAGES, ROOT, blocks_of, name_of, spans_of, text_of

ALWAYS = {"-h", "--help"}
EXIT_ROW = re.compile(r"^\| (\d+) \|", re.MULTILINE)


def command_lines(page):
    """Every command line of edgekit that a page shows, without the prompt."""
    lines = [line for block in blocks_of(page) for line in block.text.splitlines()]
    words = [line.removeprefix("$ ") for line in lines] + spans_of(page)
    # Behind two spaces, or a #, stands what a command means.
    found = (re.split(r"\s{2,}|\s#", line)[0] for line in words if line.startswith("edgekit "))
    return [line for line in found if "edgekit 0" not in line and line.strip() != "edgekit"]


def resolve(words):
    """The click command that words name, and the words behind its name."""
    assert words[0] in COMMANDS, f"there is no command '{words[0]}'"
    command, rest = cli.get_command(click.Context(cli), words[0]), words[1:]
    while isinstance(command, click.Group) and rest and rest[0] != "COMMAND":
        assert rest[0] in command.commands, f"there is no '{rest[0]}' in {words[0]}"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_names_a_command_and_options_that_exist(page):
    for line in command_lines(page):
        words = shlex.split(line.split(" | ")[0])[1:]
        if words[0] in ("COMMAND", "--help", "--version"):
            continue
        command, rest = resolve(words)
        known = ALWAYS.union(*(item.opts for item in command.params))
        for word in rest:
            if word.startswith("-") and word != "-":
                assert word.partition("=")[0] in known, f"{name_of(page)}: {line}"


def test_a_wrong_command_and_a_wrong_option_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("`edgekit bild x`\n\n```\n$ edgekit build x --fast\n```\n")
    assert command_lines(page) == ["edgekit build x --fast", "edgekit bild x"]
    with pytest.raises(AssertionError, match="bild"):
        resolve(["bild", "x"])
    assert "--fast" not in {name for item in resolve(["build"])[0].params for name in item.opts}


def test_the_readme_names_every_command():
    for name in COMMANDS:
        assert f"`edgekit {name}`" in text_of("README.md")


def test_the_page_of_the_command_line_is_what_the_commands_say():
    spec = importlib.util.spec_from_file_location("cli_doc", ROOT / "scripts/make_cli_doc.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert text_of("docs/cli.md") == module.render(), "run scripts/make_cli_doc.py"


def test_the_page_of_the_command_line_has_every_command_and_option():
    text = text_of("docs/cli.md")
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        below = command.commands if isinstance(command, click.Group) else {}
        for words, part in {
            name: command,
            **{f"{name} {key}": below[key] for key in below},
        }.items():
            section = text.split(f"\n### edgekit {words}\n")[1].split("\n### ")[0]
            for option in (item for item in part.params if isinstance(item, click.Option)):
                assert all(f"`{spelling}`" in section for spelling in option.opts)


def exit_codes():
    """Every code that the command line ends with on purpose."""
    classes = [item for item in vars(errors).values() if isinstance(item, type)]
    return {0} | {item.exit_code for item in classes if issubclass(item, errors.EdgekitError)}


@pytest.mark.parametrize("name", ["README.md", "docs/cli.md"])
def test_the_table_of_exit_codes_is_that_of_the_errors(name):
    # 141 is the shell's number for a reader that went away, no error of ours.
    assert {int(code) for code in EXIT_ROW.findall(text_of(name))} - {141} == exit_codes()


def test_the_page_of_the_command_line_puts_every_error_class_at_its_code():
    rows = dict(re.findall(r"^\| (\d+) \| .* \| (.*) \|$", text_of("docs/cli.md"), re.MULTILINE))
    for item in (part for part in vars(errors).values() if isinstance(part, type)):
        if errors.EdgekitError not in item.__bases__:
            continue
        assert f"`{item.__name__}`" in rows[str(item.exit_code)]


def test_the_readme_names_every_extra():
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    install = text_of("README.md").split("## Install")[1].split("\n## ")[0]
    for extra in project["optional-dependencies"]:
        assert f"`{extra}`" in install


def test_the_readme_counts_the_profiles_right():
    built_in = [path.stem for path in (ROOT / "device_profiles").glob("*.toml")]
    assert {entry.name for entry in find_profiles()} >= set(built_in)
    assert f"{len(built_in)} profiles" in text_of("README.md")


def test_the_changelog_has_the_version_of_the_package():
    import edgekit

    text = text_of("CHANGELOG.md")
    assert text.index("## [Unreleased]") < text.index(f"## [{edgekit.__version__}]")
