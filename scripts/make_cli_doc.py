#!/usr/bin/env python3
"""Write docs/cli.md from the commands themselves.

    scripts/make_cli_doc.py

Run it after changing a command, an option or its help; a test compares the file with the code.
"""

from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from edgekit.cli.main import COMMANDS, EXAMPLE, cli

OUT = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
INTRODUCTION = """\
# The command line
Written by `scripts/make_cli_doc.py` from the commands themselves; `edgekit COMMAND --help` says \
the same.

```
{example}
```

Results go to stdout, everything else (progress, notes, warnings, errors) to stderr. With `--json` \
stdout holds one JSON document and nothing else, an error included: \
`{{"error": {{"type", "message", "exit_code"}}}}`. Colour carries no meaning and is left out where \
stdout is no terminal. A long command that is interrupted goes on from its finished stages when it \
is run again.

A BUNDLE is a folder or its zip, everywhere. A WORKLOAD is `file.py`, `file.py:function`, or a \
model file (`.pt2`, `.onnx`, `.tflite`, `.keras`, `.h5`, a SavedModel folder) with `--data`.

## Exit codes
| code | meaning | error class |
|---|---|---|
| 0 | good | |
| 1 | a defect of edgekit; the message names a file to report | any other exception |
| 2 | usage or input: an option, a file, the workload, a profile, a step's settings | \
`InputError` and below it, `StepError` and below it, `SessionError` |
| 3 | the verdict: a limit was missed or not decided, or `compare` found a regression | \
`BudgetError` |
| 4 | the target does not support the model | `CompileError` |
| 5 | a library or toolchain is missing; the message names the command that brings it | \
`MissingDependencyError` |
| 6 | the bundle is not what its manifest says, or not as `--require` wants it | `BundleError` |
| 130 | interrupted | `Interrupted` |
| 141 | whoever read stdout went away (as in `edgekit devices \\| head`) | |

## Environment variables
| name | meaning |
|---|---|
| `EDGEKIT_PATH` | folders with `device_profiles/` and `targets/` of your own |
| `EDGEKIT_CACHE` | where results of stages are kept; `edgekit` in your cache folder if not set |
| `EDGEKIT_TOOLCHAINS` | where environments of single targets are made |
"""


def render() -> str:
    """The whole document."""
    parts = [INTRODUCTION.format(example=EXAMPLE.strip())]
    for heading in dict.fromkeys(entry.heading for entry in COMMANDS.values()):
        parts.append(f"\n## {heading}\n")
        names = [name for name, entry in COMMANDS.items() if entry.heading == heading]
        parts += ["\n".join(section) + "\n" for name in names for section in sections(name)]
    return "".join(parts)


def sections(name: str) -> Iterator[list[str]]:
    """One command, then what is below it."""
    command = cli.get_command(click.Context(cli), name)
    if command is None:
        raise KeyError(name)
    yield list(section(f"edgekit {name}", command))
    if isinstance(command, click.Group):
        for below, part in sorted(command.commands.items()):
            yield list(section(f"edgekit {name} {below}", part))


def section(words: str, command: click.Command) -> Iterator[str]:
    """Usage, help, options and example of one command."""
    options = [item for item in command.params if isinstance(item, click.Option)]
    yield f"\n### {words}"
    yield f"`{' '.join(usage(words, command))}`\n"
    yield "\n\n".join(" ".join(part.split()) for part in cleandoc(command.help or "").split("\n\n"))
    if options:
        yield "\n| option | meaning |\n|---|---|"
        yield from (f"| {spelling(option)} | {meaning(option)} |" for option in options)
    example = getattr(command, "example", "")
    if example:
        yield f"\n```\n{example}\n```"


def usage(words: str, command: click.Command) -> Iterator[str]:
    """The command with its arguments."""
    yield words
    if isinstance(command, click.Group):
        yield "COMMAND"
    for item in command.params:
        if isinstance(item, click.Argument):
            yield argument(item)
    if any(isinstance(item, click.Option) for item in command.params):
        yield "[OPTIONS]"


def argument(item: click.Argument) -> str:
    """An argument as usage lines write it."""
    if isinstance(item.type, click.Choice):
        return "|".join(item.type.choices)
    name = item.metavar or (item.name or "").upper()
    return name if item.required or name.startswith("[") else f"[{name}]"


def spelling(option: click.Option) -> str:
    """How an option is written, short name first."""
    names = ", ".join(f"`{name}`" for name in sorted(option.opts, key=len))
    return names if option.is_flag else f"{names} `{value_name(option)}`"


def value_name(option: click.Option) -> str:
    """What stands for an option's value; a bar would end the cell of a table."""
    if isinstance(option.type, click.Choice):
        return "/".join(str(item) for item in option.type.choices)
    if isinstance(option.type, click.types.IntRange):
        return "N"
    return option.metavar or option.type.name.upper()


def meaning(option: click.Option) -> str:
    """An option's help, its default and whether it is needed."""
    words = [option.help or ""]
    if option.required:
        words.append("Required.")
    if option.show_default:
        words.append(f"Default: {option.default}.")
    return " ".join(word for word in words if word).replace("|", "\\|")


if __name__ == "__main__":
    OUT.write_text(render(), encoding="utf-8")
