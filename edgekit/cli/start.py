"""Where a user starts: a first workload, and completion in the shell."""

from pathlib import Path

import click

from edgekit.cli.main import COMPLETION_VARIABLE, cli
from edgekit.cli.options import json_option
from edgekit.cli.output import remark, say_json
from edgekit.cli.verb import Verb

SHELLS = {
    "bash": 'eval "$(edgekit completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(edgekit completion zsh)"    # in ~/.zshrc',
    "fish": "edgekit completion fish | source    # in config.fish",
}


@click.command(
    "init",
    cls=Verb,
    example="edgekit init my_app\nedgekit build my_app/workload.py --device phone",
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@json_option
def init_command(folder: Path, *, is_json: bool) -> None:
    """Write a workload that builds as it stands.

    A commented workload.py in DIR, with a small model that reads handwritten digits, trained in
    seconds on scikit-learn's data. Put your own model and data in their place. Nothing is ever
    overwritten.
    """
    from edgekit.flow.init import write_workload

    written = write_workload(folder)
    if is_json:
        say_json({"written": written})
        return
    for path in written:
        click.echo(path)
    remark("next", f"edgekit build {written[0]} --device phone")


@click.command(
    "completion",
    cls=Verb,
    example="\n".join(SHELLS.values()),
)
@click.argument("shell", type=click.Choice(tuple(SHELLS)))
def completion_command(shell: str) -> None:
    """Print the completion script of a shell.

    With it your shell completes commands, options, and the names of devices and targets. Load it
    in the shell's start file, as the example shows.
    """
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(f"this version of click has no completion for {shell}")
    click.echo(completion(cli, {}, "edgekit", COMPLETION_VARIABLE).source())
