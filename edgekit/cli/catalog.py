"""What there is to build for: device profiles and targets."""

import click

from edgekit.cli.options import DeviceName, TargetName, json_option
from edgekit.cli.output import say, say_json
from edgekit.cli.verb import Verb


@click.command(
    "devices",
    cls=Verb,
    example="edgekit devices\nedgekit devices phone\nedgekit devices ./my_board.toml",
)
@click.argument("name", required=False, type=DeviceName())
@json_option
def devices_command(name: str | None, *, is_json: bool) -> None:
    """List the device profiles, or show one in full.

    They come with edgekit, or lie in ./device_profiles or in the folders of EDGEKIT_PATH. With
    NAME (or the path of a TOML file) one is shown:
    every hardware fact with its source, the limits with the evidence they accept, the strategy
    with its conditions, what is set aside for the rest of the app, and the file it came from.
    """
    from edgekit.catalog import find_profiles, load_profile
    from edgekit.report.catalog import device_detail, devices_table

    if name is not None:
        profile = load_profile(name)
        say_json(profile) if is_json else say(device_detail(profile))
        return
    profiles = [load_profile(entry.name) for entry in find_profiles()]
    say_json({"devices": profiles}) if is_json else say(devices_table(profiles))


@click.command(
    "targets",
    cls=Verb,
    example="edgekit targets\nedgekit targets litert",
)
@click.argument("name", required=False, type=TargetName())
@json_option
def targets_command(name: str | None, *, is_json: bool) -> None:
    """List the artifact formats, or show one in full.

    A target is a format with what compiles and runs it, and whether that is installed. With NAME
    one is shown: compiler, runtime, pinned toolchain, precisions,
    the bytes that its runtime adds to an app on each ABI with their source, and the operators
    that it takes.
    """
    from edgekit.catalog import find_targets, load_target
    from edgekit.cli.views import state_text
    from edgekit.flow.toolchain import status
    from edgekit.report.catalog import target_detail, targets_table

    if name is not None:
        target = load_target(name)
        here = status(target)
        if is_json:
            say_json({"target": target, "toolchain": here})
        else:
            say(target_detail(target, state_text(here)))
        return
    rows = [
        (target, status(target))
        for target in map(load_target, (entry.name for entry in find_targets()))
    ]
    if is_json:
        say_json({"targets": [{"target": target, "toolchain": here} for target, here in rows]})
    else:
        say(targets_table((target, here.state) for target, here in rows))
