"""One model in several variants, judged apart: the figures of the variant that did worst."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from edgekit.core.figure import Figure
from edgekit.evaluate.metrics import Metric
from edgekit.evaluate.paired import PairedResult


def worst_figures(metric: Metric, found: Mapping[str, PairedResult]) -> tuple[Figure, ...]:
    """The metric's three figures, each so that a limit which it keeps is kept by every variant.

    ``metric_drop`` is that of the variant whose interval reaches highest, ``metric_compressed``
    that of the one whose interval reaches furthest to the worse side, with its ``metric_float``.
    All figures of each variant follow, as ``metric_drop:NAME``.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    lost = max(found, key=lambda name: _end(found[name].drop, max))
    poor = min(found, key=lambda name: _worse_end(found[name].candidate, sign))
    worst = (
        _of(found[lost].drop, lost, found),
        _of(found[poor].reference, poor, found),
        _of(found[poor].candidate, poor, found),
    )
    each = (
        replace(figure, name=f"{figure.name}:{name}")
        for name, result in found.items()
        for figure in result.figures
    )
    return (*worst, *each)


def _of(figure: Figure, name: str, found: Mapping[str, PairedResult]) -> Figure:
    note = f"of '{name}', the worst of {', '.join(found)}, each judged on all samples"
    return replace(figure, how=f"{figure.how}; {note}")


def _worse_end(figure: Figure, sign: float) -> float:
    return sign * _end(figure, min if sign > 0 else max)


def _end(figure: Figure, pick: Callable[..., float]) -> float:
    """The value or the end of the interval that lies furthest to one side."""
    known = [item for item in (figure.value, figure.low, figure.high) if item is not None]
    return pick(known, default=float("nan"))
