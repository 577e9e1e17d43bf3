"""The machine that builds: doctor, toolchains, the cache."""

import re
from typing import Any

import click

from edgekit.cli.options import Parameter, TargetName, json_option
from edgekit.cli.output import guarded_stdout, say, say_json
from edgekit.cli.progress import listening
from edgekit.cli.verb import CONTEXT, Verb
from edgekit.core.errors import InputError
from edgekit.core.units import format_bytes, parse_bytes


@click.command(
    "doctor",
    cls=Verb,
    example="edgekit doctor\nedgekit doctor --require litert",
)
@click.option(
    "--require",
    "required",
    type=TargetName(),
    help="Exit with code 5 unless this target can be built for here.",
)
@json_option
def doctor_command(required: str | None, *, is_json: bool) -> None:
    """Say what is installed and what is missing.

    Libraries with their versions beside those that edgekit was tested with, a C compiler, the
    toolchains of targets, the cache; and for everything that is missing, the command that brings
    it. Changes nothing. Exit code 0, unless --require asks for more.
    """
    from edgekit.catalog import load_target
    from edgekit.cli.views import diagnosis_view
    from edgekit.flow.doctor import examine
    from edgekit.flow.toolchain import resolve

    if required is not None:
        # Before the tables: in JSON there is one document, and then it is the error.
        resolve(load_target(required))
    diagnosis = examine()
    say_json(diagnosis) if is_json else say(*diagnosis_view(diagnosis))


class ByteCount(Parameter):
    """Bytes with a unit: ``2 GB``."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Whole bytes."""
        try:
            return int(value) if re.fullmatch(r"\d+", str(value)) else parse_bytes(str(value))
        except InputError as error:
            self.fail(str(error), param, ctx)


@click.group("toolchain", context_settings=CONTEXT)
def toolchain_command() -> None:
    """Manage environments of single targets.

    Compilers clash with each other, so a target may
    have one of its own; where the current environment has what a target pins, it is used in place
    and nothing needs installing. The folder is EDGEKIT_TOOLCHAINS.
    """


@toolchain_command.command("list", cls=Verb, example="edgekit toolchain list")
@json_option
def toolchain_list(*, is_json: bool) -> None:
    """List the toolchains of all targets.

    Says of each whether it is installed, and why the current environment does not do where it
    does not.
    """
    from edgekit.catalog import find_targets, load_target
    from edgekit.flow.toolchain import list_toolchains

    found = list_toolchains(load_target(entry.name) for entry in find_targets())
    if is_json:
        say_json({"toolchains": found})
        return
    from edgekit.cli.views import toolchains_view

    say(*toolchains_view(found))


@toolchain_command.command("install", cls=Verb, example="edgekit toolchain install litert")
@click.argument("name", type=TargetName())
@json_option
def toolchain_install(name: str, *, is_json: bool) -> None:
    """Make the environment of one target.

    From the target's lock, with hashes. It appears whole or not at all; one that is whole already
    is kept.
    """
    from edgekit.catalog import load_target
    from edgekit.flow.toolchain import install

    target = load_target(name)
    with guarded_stdout(), listening() as listener:
        made = install(target, listener=listener)
    if is_json:
        say_json(made)
    else:
        click.echo(f"{made.name}: {made.python}")


@toolchain_command.command("remove", cls=Verb, example="edgekit toolchain remove litert")
@click.argument("name", type=TargetName())
@json_option
def toolchain_remove(name: str, *, is_json: bool) -> None:
    """Remove every environment of target NAME, those of older pins too."""
    from edgekit.catalog import load_target
    from edgekit.flow.toolchain import remove

    target = load_target(name)
    with guarded_stdout(), listening() as listener:
        freed = remove(target, listener=listener)
    say_json({"freed_bytes": freed}) if is_json else click.echo(f"freed {format_bytes(freed)}")


@click.group("cache", context_settings=CONTEXT)
def cache_command() -> None:
    """Look after results of finished stages and checkpoints of unfinished ones.

    A later build reuses them where nothing that goes into them has changed. The folder is
    EDGEKIT_CACHE, or edgekit in your cache folder.
    """


@cache_command.command("list", cls=Verb, example="edgekit cache list")
@json_option
def cache_list(*, is_json: bool) -> None:
    """List the results in the cache, and checkpoints.

    The longest unused come first, and the line at the end says what all of them take. What is
    unfinished has only checkpoints: its build is running, or was stopped and can go on there.
    """
    from edgekit.report.environment import cache_view
    from edgekit.store import Store

    with Store() as store:
        entries, size = store.entries(), store.size_bytes()
    if is_json:
        say_json({"root": store.root, "bytes": size, "entries": entries})
    else:
        say(*cache_view(store.root, size, entries))


@cache_command.command("bound", cls=Verb, example="edgekit cache bound '2 GB'")
@click.argument("size", type=ByteCount())
@json_option
def cache_bound(size: int, *, is_json: bool) -> None:
    """Make the cache at most SIZE.

    The longest unused results and checkpoints go first; what a running build uses stays.
    """
    from edgekit.store import Store

    with Store() as store:
        _say_freed(store.bound(size), store.size_bytes(), is_json=is_json)


@cache_command.command("clear", cls=Verb, example="edgekit cache clear")
@json_option
def cache_clear(*, is_json: bool) -> None:
    """Remove every result and every checkpoint that no running build uses."""
    from edgekit.store import Store

    with Store() as store:
        _say_freed(store.clear(), store.size_bytes(), is_json=is_json)


def _say_freed(freed: int, left: int, *, is_json: bool) -> None:
    if is_json:
        say_json({"freed_bytes": freed, "bytes": left})
    else:
        click.echo(f"freed {format_bytes(freed)}; the cache takes {format_bytes(left)}")
