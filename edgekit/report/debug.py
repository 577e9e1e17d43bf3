"""A float model and an artifact side by side: each layer, what goes wrong, what would mend it."""

import re
from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from edgekit.core.debugging import (
    HIGHEST_DB,
    LOWEST_DB,
    DebugResult,
    LayerError,
)
from edgekit.report.parts import bullets, pairs, table

TEXTS = ("layer", "operator")
# in, added: of what came in, and of what this layer adds. scale: what the output's scale alone
# costs. stored: of the weights as they are stored. sat.: saturated integers.
NUMBERS = ("SNR", "cosine", "in", "added", "scale", "stored", "sat.")


def debug_view(result: DebugResult, *, only: str = "") -> Iterator[RenderableType]:
    """The whole comparison. only: a regular expression; other layers are left out of the table."""
    yield _about(result)
    shown = [item for item in result.layers if re.search(only, item.layer)]
    yield Text()
    yield _layer_table([_row(item, result) for item in shown])
    yield Text()
    outputs = [
        (item.name, decibel_text(item.snr_db), f"{item.cosine:.4f}") for item in result.outputs
    ]
    yield table(("output", "SNR", "cosine"), outputs)
    yield bullets("Not compared", result.unmatched)
    yield bullets("Notes", _notes(result))
    yield from _finding(result)


def _about(result: DebugResult) -> RenderableType:
    compared = f"{result.compared_layers} of {result.all_layers} layers with weights"
    return pairs(
        [
            ("bundle_id", result.bundle_id),
            ("float model", f"from {result.float_source}"),
            ("compared", f"{compared}, matched by {result.matched_by}"),
            ("samples", str(result.samples)),
        ]
    )


def _layer_table(rows: list[list[Text]]) -> RenderableType:
    """Names are folded where there is no room; numbers never are."""
    found = table((*TEXTS, *NUMBERS, ""), rows, title="Layers (signal to noise in dB)")
    for place, column in enumerate(found.columns):
        column.no_wrap = place >= len(TEXTS)
        column.justify = "right" if column.header in NUMBERS else "left"
    return found


def _row(item: LayerError, result: DebugResult) -> list[Text]:
    is_first = item is result.wrong
    mark = "first" if is_first else "wrong" if item.goes_wrong else ""
    cells = (
        *(item.layer, f"{item.operator} {item.weights}".strip()),
        *(decibel_text(item.snr_db), f"{item.cosine:.4f}"),
        *(decibel_text(item.input_snr_db), decibel_text(item.added_snr_db, exact="none")),
        *(decibel_text(item.grid_snr_db), decibel_text(item.weight_snr_db)),
        *(_share(item.saturated_share), mark),
    )
    style = "bold red" if is_first else "red" if mark else ""
    return [Text(cell, style=style) for cell in cells]


def decibel_text(value: float | None, *, exact: str = "exact") -> str:
    """One place after the point; the two ends of the scale in words."""
    if value is None:
        return "-"
    if value >= HIGHEST_DB:
        return exact
    return "lost" if value <= LOWEST_DB else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _notes(result: DebugResult) -> Iterator[str]:
    yield from result.notes
    difference = result.engine_difference
    if difference is not None and difference > 1:
        yield (
            f"the outputs here are {difference:.1f} times the tolerance from the bundle's golden "
            "ones: to show what is inside, other kernels ran than on a device"
        )


def _finding(result: DebugResult) -> Iterator[RenderableType]:
    yield Text()
    wrong = result.wrong
    if wrong is not None:
        yield Text(
            f"First goes wrong: {wrong.operator} '{wrong.layer}': {decibel_text(wrong.snr_db)} dB "
            f"come out, {decibel_text(wrong.input_snr_db)} came in",
            style="bold red",
        )
    elif result.is_good:
        yield Text("No layer goes wrong, and the outputs are near the float ones", style="green")
    else:
        worst = min(item.snr_db for item in result.outputs)
        yield Text(
            "No single layer goes wrong: the error grows from layer to layer, to "
            f"{decibel_text(worst)} dB at the output",
            style="yellow",
        )
        layers = ", ".join(f"'{result.layers[place].layer}'" for place in result.largest)
        yield Text(f"Most of it is added by {layers}")
    lines = [f"{item.evidence}: {item.remedy}" for item in result.mends]
    yield bullets("What would mend it", lines)
