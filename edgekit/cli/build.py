"""From a workload to a bundle: fit, plan, build."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.build_options import asked_options, build_options, source_options, wish_options
from edgekit.cli.ending import error_plain
from edgekit.cli.options import force_option, json_option
from edgekit.cli.output import guarded_stdout, remark, say, say_json
from edgekit.cli.progress import listening
from edgekit.cli.verb import Verb
from edgekit.core.errors import BudgetError
from edgekit.flow.results import BuildResult

if TYPE_CHECKING:
    from edgekit.flow.sources import SourceOptions

workload_argument = click.argument("workload", metavar="WORKLOAD")


@click.command(
    "fit",
    cls=Verb,
    example="edgekit fit my_app/workload.py",
)
@workload_argument
@source_options
@json_option
def fit_command(workload: str, *, is_json: bool, **source: Any) -> None:
    """Hold a model against every device, from estimates.

    Says for every device profile at once whether the model would fit, and why not. WORKLOAD is a
    Python file (file.py or file.py:function) that returns an edgekit.Workload, or a model file
    with --data. Nothing is built or measured.
    """
    from edgekit.cli.views import fit_view
    from edgekit.flow.planning import fit

    given = _source(**source)
    with guarded_stdout(), listening() as listener:
        lines = fit(workload, listener=listener, source_options=given)
    say_json({"fit": lines}) if is_json else say(*fit_view(lines))


@click.command(
    "plan",
    cls=Verb,
    example="edgekit plan my_app/workload.py --device phone\n"
    "edgekit plan model.onnx --device laptop --data pictures/ --json",
)
@workload_argument
@wish_options
@source_options
@json_option
def plan_command(
    workload: str,
    data: Path | None,
    labels: Path | None,
    arguments: tuple[tuple[str, str], ...],
    *,
    is_json: bool,
    **wishes: Any,
) -> None:
    """Say what a build would do, without doing it.

    The compression steps with a reason for each, skipped ones among them; how the target takes
    every operator of the model (native, fallback, unsupported); estimated bytes and time. Takes
    seconds and writes nothing.
    """
    from edgekit.cli.views import plan_view
    from edgekit.flow.planning import plan_build

    asked, given = asked_options(**wishes), _source(data, labels, arguments)
    with guarded_stdout(), listening() as listener:
        result = plan_build(workload, asked, listener=listener, source_options=given)
    say_json(result) if is_json else say(*plan_view(result))


@click.command(
    "build",
    cls=Verb,
    example="edgekit build my_app/workload.py --device phone\n"
    "edgekit build my_app/workload.py -d phone --limit metric_drop='0.5 point' --require proven\n"
    "edgekit build my_app/workload.py -d embedded --layer '^features.0$=int8' --allow ram_bytes\n"
    "edgekit build model.onnx -d edge-server --data pictures/ --labels names.txt",
)
@workload_argument
@wish_options
@build_options
@force_option
@source_options
@json_option
def build_command(
    workload: str,
    data: Path | None,
    labels: Path | None,
    arguments: tuple[tuple[str, str], ...],
    *,
    is_json: bool,
    **wishes: Any,
) -> None:
    """Make a bundle whose every limit was measured.

    Compresses the model for one device, measures what came out beside the float model, and holds
    every limit of the profile against the figures. If all hold, the bundle is PROVEN; if some can
    only be settled on the device, it is a CANDIDATE; else there is no bundle, exit code 3, and a
    table of what missed by how much. WORKLOAD is a Python file (file.py or file.py:function) that
    returns an edgekit.Workload, or a model file (.pt2, .onnx, .tflite, Keras) with --data.
    """
    from edgekit.flow.build import build

    asked, given = asked_options(**wishes), _source(data, labels, arguments)
    try:
        with guarded_stdout(), listening() as listener:
            result = build(workload, asked, listener=listener, source_options=given)
    except BudgetError as error:
        if not isinstance(error.result, BuildResult):
            raise
        show_refusal(error.result, error, is_json=is_json)
        raise click.exceptions.Exit(error.exit_code) from error
    show_build(result, is_json=is_json)


def _source(
    data: Path | None, labels: Path | None, arguments: Iterable[tuple[str, str]]
) -> "SourceOptions":
    from edgekit.flow.sources import SourceOptions

    return SourceOptions(data=data, labels=labels, arguments=dict(arguments))


def show_refusal(result: BuildResult, error: BudgetError, *, is_json: bool) -> None:
    """A build that the verdict refused, in full, and the error that it ended with."""
    if is_json:
        say_json({"error": error_plain(error), "result": result})
        return
    show_build(result, is_json=False)
    remark("error", str(error))


def show_build(result: BuildResult, *, is_json: bool) -> None:
    """A finished build."""
    from edgekit.cli.views import build_view

    say_json(result) if is_json else say(*build_view(result))
