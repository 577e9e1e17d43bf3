"""The options of fit, plan and build, and the values of ``flow`` that they become."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from edgekit.cli.options import (
    PRECISIONS,
    DeviceName,
    LayerPrecision,
    LimitBound,
    NamedText,
    StepSetting,
    TargetName,
)
from edgekit.core.strategy import Override
from edgekit.flow.results import BuildOptions

Command = Callable[..., None]

_SOURCE = (
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="For a model file: an image folder, a CSV or an npz to calibrate and judge it on.",
    ),
    click.option(
        "--labels",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="For a model file: the names of its classes, one a line.",
    ),
    click.option(
        "--arg",
        "arguments",
        multiple=True,
        type=NamedText(),
        help="For a Python file: an argument of the function that returns the workload. May be "
        "repeated.",
    ),
)
_PLACE = (
    click.option(
        "--device",
        "-d",
        required=True,
        type=DeviceName(),
        help="The device profile, by name or by the path of its TOML file (see edgekit devices).",
    ),
    click.option(
        "--target",
        "-t",
        type=TargetName(),
        help="The artifact format; the profile's default if left out (see edgekit targets).",
    ),
)
_SET = click.option(
    "--set",
    "settings",
    multiple=True,
    type=StepSetting(),
    help="Another setting of a step: --set quantize.activations=static, "
    "--set distil.train.epochs=20. May be repeated.",
)
_WISHES = (
    *_PLACE,
    click.option(
        "--effort",
        type=click.Choice(("quick", "standard", "max")),
        default="quick",
        show_default=True,
        help="How long to work for a smaller or faster artifact; quick is minutes.",
    ),
    click.option(
        "--layer",
        "layers",
        multiple=True,
        type=LayerPrecision(),
        help=f"Another precision ({', '.join(PRECISIONS)}) for the layers whose path matches a "
        "regular expression. May be repeated.",
    ),
    _SET,
    click.option(
        "--strict",
        "is_strict",
        is_flag=True,
        help="Fail if a step of the strategy would be skipped.",
    ),
)
_BUILD = (
    click.option(
        "--out",
        "-o",
        type=click.Path(path_type=Path),
        help="Where the bundle goes; NAME-DEVICE.edgekit in this folder if left out.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="What is drawn at random starts here.",
    ),
    click.option(
        "--allow",
        multiple=True,
        metavar="NAME",
        help="Waive one limit by name; the manifest says so for ever. May be repeated.",
    ),
    click.option(
        "--require",
        type=click.Choice(("proven", "candidate")),
        default="candidate",
        show_default=True,
        help="The least standing that is not an error.",
    ),
    click.option(
        "--limit",
        "limits",
        multiple=True,
        type=LimitBound(),
        help="Another bound, with its unit: --limit artifact_bytes='500 kB'. May be repeated.",
    ),
    click.option("--refresh", "is_refreshed", is_flag=True, help="Do not reuse finished stages."),
    click.option(
        "--zip", "is_packed", is_flag=True, help="Also write the bundle as one zip, beside it."
    ),
)


def source_options(command: Command) -> Command:
    """Add the options that go with a WORKLOAD."""
    return _with(_SOURCE, command)


def wish_options(command: Command) -> Command:
    """Add the options that decide a plan."""
    return _with(_WISHES, command)


def place_options(command: Command) -> Command:
    """Add the options that say for which device and format, and with which settings of steps."""
    return _with((*_PLACE, _SET), command)


def build_options(command: Command) -> Command:
    """Add the options that only a build has."""
    return _with(_BUILD, command)


def _with(options: Iterable[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(tuple(options)):
        command = option(command)
    return command


def asked_options(
    *,
    layers: Iterable[Override],
    settings: Iterable[tuple[str, str, object]],
    limits: Iterable[tuple[str, float]] = (),
    allow: Iterable[str] = (),
    **plain: Any,
) -> BuildOptions:
    """The options of a plan or build from what was typed; of two that clash the later counts."""
    by_step: dict[str, dict[str, object]] = {}
    for step, key, value in settings:
        place = by_step.setdefault(step, {})
        *tables, last = key.split(".")
        for table in tables:
            inner = place.get(table)
            if not isinstance(inner, dict):
                inner = place[table] = {}
            place = inner
        place[last] = value
    return BuildOptions(
        allow=tuple(dict.fromkeys(allow)),
        limits=dict(limits),
        overrides=tuple(layers),
        settings=by_step,
        **plain,
    )
