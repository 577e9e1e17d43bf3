"""The group of commands, each imported only when it is called, and the way out of all of them."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

import click

from edgekit import __version__
from edgekit.cli.verb import CONTEXT, write_example

COMPLETION_VARIABLE = "_EDGEKIT_COMPLETE"


EXAMPLE = """
edgekit init my_app
edgekit build my_app/workload.py --device phone
edgekit run digits-phone.edgekit picture.png
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One command: its heading in the help, where it lives, and its summary.

    The summary stands here too so that ``edgekit --help`` imports no command; a test holds the
    two equal.
    """

    heading: str
    module: str
    summary: str


COMMANDS = {
    "init": Entry("Start", "start", "Write a workload that builds as it stands."),
    "devices": Entry("Start", "catalog", "List the device profiles, or show one in full."),
    "targets": Entry("Start", "catalog", "List the artifact formats, or show one in full."),
    "fit": Entry("Build", "build", "Hold a model against every device, from estimates."),
    "plan": Entry("Build", "build", "Say what a build would do, without doing it."),
    "sensitivity": Entry("Build", "sensitivity", "Measure what each layer costs at fewer bits."),
    "build": Entry("Build", "build", "Make a bundle whose every limit was measured."),
    "inspect": Entry("Bundles", "bundle", "Show what a bundle is and how it did."),
    "verify": Entry("Bundles", "bundle", "Check that a bundle is what its manifest says."),
    "run": Entry("Bundles", "use", "Run a bundle on your own inputs."),
    "bench": Entry("Bundles", "use", "Time a bundle on this machine."),
    "debug": Entry("Bundles", "debug", "Name the layer of an artifact that goes wrong."),
    "compare": Entry("Bundles", "bundle", "Compare two bundles figure by figure."),
    "pack": Entry("Bundles", "bundle", "Pack a bundle's folder into one zip."),
    "unpack": Entry("Bundles", "bundle", "Unpack a bundle's zip into a folder."),
    "doctor": Entry("Environment", "environment", "Say what is installed and what is missing."),
    "toolchain": Entry("Environment", "environment", "Manage environments of single targets."),
    "cache": Entry(
        "Environment",
        "environment",
        "Look after results of finished stages and checkpoints of unfinished ones.",
    ),
    "completion": Entry("Environment", "start", "Print the completion script of a shell."),
}


class CommandTable(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now, or None."""
        del ctx
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = import_module(f"edgekit.cli.{entry.module}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that ``args`` opens with; a wrong name is told the nearest right one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from edgekit.core.codec import nearest

            raise click.UsageError(
                f"no command is called '{args[0]}'{nearest(args[0], list(COMMANDS))}", ctx
            )
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, then the epilog."""
        write_example(formatter, EXAMPLE)
        super().format_epilog(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands under their headings, from the table alone."""
        del ctx
        for heading in dict.fromkeys(entry.heading for entry in COMMANDS.values()):
            rows = [
                (name, entry.summary)
                for name, entry in COMMANDS.items()
                if entry.heading == heading
            ]
            with formatter.section(heading):
                formatter.write_dl(rows)


@click.group(
    cls=CommandTable,
    invoke_without_command=True,
    context_settings=CONTEXT,
    epilog="Exit codes: 0 good, 2 usage or input, 3 verdict, 4 model not supported, 5 component "
    "missing, 6 bundle refused, 130 interrupted, 1 a defect of edgekit. `edgekit completion bash` "
    "(or zsh, fish) prints a script that completes commands, devices and targets.",
)
@click.version_option(__version__, prog_name="edgekit", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Turn a trained model into a device bundle that is proven to fit."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(click.UsageError.exit_code)


def main(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code; defects pass through as they are."""
    from edgekit.cli import ending

    try:
        code = _invoke(list(arguments))
        sys.stdout.flush()
    except click.exceptions.Exit as leaving:
        code = leaving.exit_code
    except BrokenPipeError:
        code = ending.lose_reader()
    except ending.EXPECTED as error:
        code = ending.report_failure(error, arguments)
    return code


def _invoke(arguments: list[str]) -> int:
    """What ``click.Command.main`` does, less its own reading of errors."""
    instruction = os.environ.get(COMPLETION_VARIABLE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "edgekit", COMPLETION_VARIABLE, instruction)
    with cli.make_context("edgekit", arguments) as context:
        code = cli.invoke(context)
    return code if isinstance(code, int) else 0


def run() -> NoReturn:
    """The program ``edgekit``: the command line of this process, and its exit code."""
    from edgekit.cli import ending

    arguments = sys.argv[1:]
    ending.prepare_streams()
    sys.excepthook = ending.defect_hook(arguments)
    sys.exit(main(arguments))
