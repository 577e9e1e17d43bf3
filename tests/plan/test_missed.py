"""What a skipped step would have bought is said as an estimate, or as what was asked for."""

import pytest

from edgekit.core.strategy import Step
from tests.plan.test_order import QUANTIZE, plan, step


def reason_of(name, **settings):
    return plan(step(name, **settings), QUANTIZE, effort="quick").skipped[0].reason


def test_a_smaller_model_is_told_in_weights_and_bytes_of_the_artifact():
    # Of 16 and 64 channels 8 and 32 stay: (216 + 2304 + 320) / 10298 weights.
    reason = reason_of("prune", ratio=0.5)
    assert "would leave about 28% of the weights, an artifact of about " in reason
    assert reason.endswith("kB instead of 13.1 kB (estimated))")


@pytest.mark.parametrize(
    ("name", "settings"),
    [("train", {}), ("lora", {}), ("distil", {"student": "current"})],
)
def test_a_step_that_only_trains_would_have_bought_no_bytes(name, settings):
    assert "would change 0 bytes (estimated)" in reason_of(name, **settings)


def test_zeros_are_told_by_what_was_asked_for_and_as_no_bytes():
    reason = reason_of("sparsify", pattern="1:4", recover={"epochs": 1})
    assert "would make 75% of the weights zero (asked for), the file no smaller" in reason


def test_steps_that_run_are_taken_into_account():
    pruned = step("prune", ratio=0.5, recover={"epochs": 0})
    alone = plan(pruned, step("prune", ratio=0.5), QUANTIZE, effort="quick").skipped[0].reason
    # A half of 8 channels is 4, of 32 it is 16: (108 + 576 + 160) / 2840 weights.
    assert "would leave about 30% of the weights" in alone


def test_a_step_that_is_not_installed_claims_nothing():
    strategy = plan(Step(name="cluster", when="training data", reason="less"), QUANTIZE)
    assert strategy.skipped[0].reason.startswith("no step 'cluster' is installed")
    assert strategy.skipped[0].reason.endswith("(less)")


def test_a_distillation_follows_what_would_have_been_pruned_and_takes_nothing_more():
    steps = step("prune", ratio=0.5), step("distil"), QUANTIZE
    skipped = plan(*steps, effort="quick").skipped
    assert "of the weights, an artifact of about" in skipped[0].reason
    assert "would change 0 bytes" in skipped[1].reason
