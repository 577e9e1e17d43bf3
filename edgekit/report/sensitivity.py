"""What layers cost at fewer bits, as a table: those that cost most first."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from edgekit.core.mixed import WIDTHS
from edgekit.core.sensitivity import LayerSensitivity, PrecisionCost, Sensitivity
from edgekit.core.units import format_bytes
from edgekit.report.parts import bullets, table

BAR_CELLS = 10


def sensitivity_view(found: Sensitivity) -> Iterator[RenderableType]:
    """A line a layer: bytes and error at each precision, the metric's drop, a bar."""
    names = form_names(found)
    ordered = found.by_cost()
    most = ordered[0].worst
    drops = any(_drops(layer) != "-" for layer in ordered)
    headings = (
        *("layer", "parameters", *(f"{name}: bytes, error" for name in names)),
        *([f"{found.metric} drop, {found.unit}"] if drops else []),
        "largest error",
    )
    rows = [
        (
            layer.path or "(the model)",
            f"{layer.parameters:,}",
            *(_cell(layer.costs.get(name)) for name in names),
            *([_drops(layer)] if drops else []),
            _bar(layer.worst, most),
        )
        for layer in ordered
    ]
    title = f"Sensitivity (measured on {found.samples} calibration samples, weights alone)"
    yield table(headings, rows, title=title)
    yield Text(
        "error: squared error of the model's outputs over their squares, with this layer alone at "
        "the precision"
    )
    yield bullets("Not on every target", _refusals(found))
    yield bullets(
        "Not measured", (f"{path or '(the model)'}: {why}" for path, why in found.left.items())
    )


def form_names(found: Sensitivity) -> tuple[str, ...]:
    """The precisions that some layer was measured at, from the most bits to the fewest."""
    there = {name for layer in found.layers for name in layer.costs}
    return tuple(sorted(there, key=lambda name: (-WIDTHS[name.partition("/")[0]], name)))


def _cell(cost: PrecisionCost | None) -> str:
    return "-" if cost is None else f"{format_bytes(cost.bytes)} {cost.error:.1e}"


def _drops(layer: LayerSensitivity) -> str:
    found = {
        name: cost.metric_drop for name, cost in layer.costs.items() if cost.metric_drop is not None
    }
    said = (f"{name} {drop:.2g}" for name, drop in found.items() if name != "fp16")
    return ", ".join(said) or "-"


def _bar(value: float, most: float) -> str:
    return "█" * round(BAR_CELLS * value / most) if most else ""


def _refusals(found: Sensitivity) -> Iterator[str]:
    """One line for each reason, with the layers that it holds for."""
    layers: dict[tuple[str, str], list[str]] = {}
    for layer in found.layers:
        for name, why in layer.why_not.items():
            if "blocks are of matrices" not in why:  # nobody expects them of a convolution
                layers.setdefault((name, why), []).append(layer.path)
    for (name, why), paths in layers.items():
        yield f"{name}: {', '.join(paths)} ({why})"
