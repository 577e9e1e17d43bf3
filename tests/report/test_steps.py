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


def test_zeros_have_a_line_with_their_share_and_the_compressed_bytes_and_claim_no_speed():
    sparse = StepFigures(
        name="sparsify",
        figures=(
            exact("zeros_ratio", 0.5, "", ""),
            exact("zlib_bytes", 171_000, "bytes", ""),
            exact("zlib_int8_bytes", 44_000, "bytes", ""),
        ),
    )
    text = shown(step_table((*STEPS, sparse)), 160)
    assert (
        "sparsify: 50.0% of the weights are zero; compressed with zlib they take 171 kB as float "
        "and 44 kB rounded to INT8 (measured); no speed is claimed"
    ) in text
    assert text.count("are zero") == 1
