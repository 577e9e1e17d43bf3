"""The table of what each step bought."""

from edgekit.bundle.manifest import StepFigures
from edgekit.core.figure import exact
from edgekit.report.steps import step_table
from tests.report.test_tables import shown

STEPS = (
    StepFigures(
        name="float model",
        figures=(
            exact("metric_float", 93.1, "%", ""),
            exact("parameters", 272_186, "", ""),
            exact("artifact_float_bytes", 1_100_000, "bytes", ""),
        ),
    ),
    StepFigures(
        name="prune",
        figures=(
            exact("metric_compressed", 92.5, "%", ""),
            exact("metric_drop", 0.6, "points", ""),
            exact("macs", 5_000_000, "", ""),
            exact("seconds", 61.5, "s", ""),
        ),
    ),
)


def test_each_step_has_a_line_in_the_order_of_work():
    text = shown(step_table(STEPS), 120)
    assert "float model 93.1 % - 272,186 - 1.1 MB -" in text
    assert "prune 92.5 % 0.6 points - 5,000,000 - 61.5 s" in text
    assert text.index("float model") < text.index("prune")
