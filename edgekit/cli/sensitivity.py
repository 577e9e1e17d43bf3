"""What each layer costs at fewer bits, as a table, as JSON and as a picture."""

from pathlib import Path
from typing import Any

import click

from edgekit.cli.build_options import asked_options, place_options, source_options
from edgekit.cli.options import json_option
from edgekit.cli.output import guarded_stdout, remark, say, say_json
from edgekit.cli.progress import listening
from edgekit.cli.verb import Verb


@click.command(
    "sensitivity",
    cls=Verb,
    example="edgekit sensitivity my_app/workload.py --device phone\n"
    "edgekit sensitivity my_app/workload.py -d embedded --plot layers.svg --json",
)
@click.argument("workload", metavar="WORKLOAD")
@place_options
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="How many calibration samples errors are measured on, at most.",
)
@click.option(
    "--metric-layers",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="How many of the layers with the largest errors the metric judges too.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also draw it, as .svg, .png or .pdf (needs the extra 'plot').",
)
@source_options
@json_option
def sensitivity_command(
    workload: str,
    *,
    samples: int,
    metric_layers: int,
    plot: Path | None,
    is_json: bool,
    **options: Any,
) -> None:
    """Measure what each layer costs at fewer bits.

    Each weight of the float model, as it is given, is alone put on the grid of INT8, INT4 (a scale
    a channel, and in blocks where the device's recipe has them) and FP16; told is what that does to
    the model's outputs on the calibration data, and for the layers that matter most to the metric
    on the selection data. The strategy's steps are not run. A second call answers from the cache.
    WORKLOAD is a Python file that returns an edgekit.Workload of a torch model.
    """
    from edgekit.flow.sensing import sensitivity
    from edgekit.flow.sources import SourceOptions
    from edgekit.report.sensitivity import sensitivity_view
    from edgekit.report.sensitivity_plot import check_plot, draw

    given = SourceOptions(
        data=options.pop("data"),
        labels=options.pop("labels"),
        arguments=dict(options.pop("arguments")),
    )
    if plot is not None:
        check_plot(plot)
    asked = asked_options(layers=(), **options)
    with guarded_stdout(), listening() as listener:
        result = sensitivity(
            workload,
            asked,
            samples=samples,
            metric_layers=metric_layers,
            listener=listener,
            source_options=given,
        )
        if plot is not None:
            draw(result.sensitivity, plot, title=f"{result.name} on {result.device}")
    say_json(result) if is_json else say(*sensitivity_view(result.sensitivity))
    if plot is not None:
        remark("note", f"drawn: {plot}")
