"""What a build says of calibrated ranges: how settled they are, how well they fit other data."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.core.codec import to_plain
from edgekit.core.figure import Figure, Place, Provenance, not_evaluated
from edgekit.flow.calls import StageCaller
from edgekit.flow.making import Products

CALIBRATION = "calibration"
NAMED_TENSORS = 3


def range_figures(
    caller: StageCaller, products: Products, evaluation: tuple[Path, str]
) -> Iterator[Figure]:
    """The figures of a calibration; none where nothing was calibrated.

    evaluation: the folder of the evaluation set, and its digest.
    """
    made = [item for item in products.steps if CALIBRATION in item.outcome.values]
    if not made:
        return
    yield from convergence_figures(made[-1].outcome.values[CALIBRATION])
    handler, start = caller.plan.compiler.compare_ranges, products.exported
    if handler:
        outcome = caller.call(
            "compare ranges",
            handler,
            {"artifact": to_plain(start.artifact)},
            {
                "float": (start.outcome.folder, start.outcome.digest),
                "quantized": (made[-1].outcome.folder, made[-1].outcome.digest),
                "data": evaluation,
            },
        )
        yield drift_figure(outcome.values)


def convergence_figures(calibration: Mapping[str, Any]) -> Iterator[Figure]:
    """How far the ranges still moved in the last half of the samples."""
    if calibration["samples"] == 1:
        yield not_evaluated(
            "calibration_convergence",
            "",
            "one calibration sample has no half to compare with; give 100 or more",
        )
    for last in calibration["convergence"][-1:]:
        looks = ", ".join(
            f"{item['samples']}: {item['median']:.1%}" for item in calibration["convergence"]
        )
        yield Figure(
            name="calibration_convergence",
            value=round(last["median"], 5),
            unit="",
            provenance=Provenance.MEASURED,
            place=Place.HOST,
            how=f"median over tensors of how far a range after the first {last['samples']} of "
            f"{calibration['samples']} calibration samples is from that after all, as a share of "
            f"it; worst {last['worst']:.1%} ('{last['tensor']}'); median by samples: {looks}",
            samples=calibration["samples"],
        )


def drift_figure(compared: Mapping[str, Any]) -> Figure:
    """How much more of the evaluation data lies outside the ranges than of the calibration data."""
    worst = compared["worst"]
    named = ", ".join(
        f"'{item['tensor']}' {item['share']:.2%} ({item['before']:.2%} in calibration)"
        for item in worst[:NAMED_TENSORS]
    )
    rise = max(worst[0]["share"] - worst[0]["before"], 0.0) if worst else 0.0
    return Figure(
        name="activation_drift",
        value=round(rise, 6),
        unit="",
        provenance=Provenance.MEASURED,
        place=Place.HOST,
        how="largest rise, over tensors of the float model, of the share of values past the "
        f"calibrated range by more than half a step; all tensors together {compared['share']:.3%}; "
        f"worst: {named}",
        samples=compared["samples"],
    )
