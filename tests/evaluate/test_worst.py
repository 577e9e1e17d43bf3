"""The figures of the variant that did worst."""

import numpy as np
import pytest

from edgekit.evaluate.metrics import resolve_metric
from edgekit.evaluate.paired import PairedBatch, paired_drop
from edgekit.evaluate.worst import worst_figures


def judged(metric, right_before, right_after):
    """Top-1 of 100 samples of which the first so many are right, before and after."""
    target = np.zeros(100, np.int64)
    scores = [
        np.eye(2)[(np.arange(100) >= right).astype(int)] for right in (right_before, right_after)
    ]
    batch = PairedBatch(reference={"y": scores[0]}, candidate={"y": scores[1]}, target=target)
    return paired_drop(metric, lambda: [batch])


def test_a_limit_that_the_figures_keep_is_kept_by_every_variant():
    metric = resolve_metric("top-1")
    found = {
        "none": judged(metric, 95, 95),
        "poor": judged(metric, 60, 58),  # loses 2 points, and is the poorest of all
        "lost": judged(metric, 95, 75),  # loses 20 points
    }
    figures = {item.name: item for item in worst_figures(metric, found)}
    assert figures["metric_drop"].value == pytest.approx(20)
    assert figures["metric_compressed"].value == pytest.approx(58)
    assert figures["metric_float"].value == pytest.approx(60)
    assert "'lost', the worst of none, poor, lost" in figures["metric_drop"].how
    each = [figures[f"metric_drop:{name}"].value for name in found]
    assert each == pytest.approx([0, 2, 20])
    assert all(figures["metric_drop"].high >= item.drop.high for item in found.values())


def test_of_errors_the_largest_is_the_worst():
    metric = resolve_metric("mae")

    def off_by(error):
        batch = PairedBatch(
            reference={"y": np.full((50, 1), 1.0)},
            candidate={"y": np.full((50, 1), error)},
            target=np.zeros((50, 1)),
        )
        return paired_drop(metric, lambda: [batch])

    figures = worst_figures(metric, {"none": off_by(1.0), "off": off_by(3.0)})
    values = {item.name: item.value for item in figures}
    assert values["metric_compressed"] == pytest.approx(3.0)
    assert values["metric_drop"] == pytest.approx(200.0)  # percent of float's 1
