"""What each step of a strategy bought and what it cost, one line a step."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from edgekit.bundle.manifest import StepFigures
from edgekit.core.figure import Figure
from edgekit.core.units import format_bytes, format_quantity
from edgekit.report.parts import table

COLUMNS = {
    "metric": ("metric_compressed", "metric_float"),
    "drop": ("metric_drop",),
    "parameters": ("parameters",),
    "MACs": ("macs",),
    "bytes": ("weight_bytes", "artifact_bytes", "artifact_float_bytes"),
    "seconds": ("seconds",),
}


def step_table(steps: Iterable[StepFigures]) -> RenderableType:
    """Metric, parameters, multiply-accumulates, bytes and time after every step, in order.

    Bytes are those of the float weights after a step on the module, and of the file after one on
    the exported graph. A step that set weights to zero has a line below the table.
    """
    steps = tuple(steps)
    rows = [
        (step.name, *(_cell(step.figures, names) for names in COLUMNS.values())) for step in steps
    ]
    shown = table(("after", *COLUMNS), rows, title="What each step bought")
    lines = [Text(line) for step in steps if (line := _zeros_line(step))]
    return Group(Text(), shown, *lines)


def _zeros_line(step: StepFigures) -> str:
    """What zeros buy, which is no fewer parameters and no smaller file of its own."""
    found = {item.name: item.value for item in step.figures if item.value is not None}
    if "zeros_ratio" not in found:
        return ""
    return (
        f"{step.name}: {found['zeros_ratio']:.1%} of the weights are zero; compressed with zlib "
        f"they take {format_bytes(found['zlib_bytes'])} as float and "
        f"{format_bytes(found['zlib_int8_bytes'])} rounded to INT8 (measured); no speed is claimed"
    )


def _cell(figures: tuple[Figure, ...], names: tuple[str, ...]) -> str:
    found = next((item for item in figures if item.name in names), None)
    if found is None or found.value is None:
        return "-"
    if not found.unit and found.name != "metric_compressed" and found.value == int(found.value):
        return f"{int(found.value):,}"
    return format_quantity(found.value, found.unit)
