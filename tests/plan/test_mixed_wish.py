"""Mixed precision as a strategy asks for it, refused before anything is measured."""

from dataclasses import replace

import pytest

from edgekit.core.codec import from_plain
from edgekit.core.errors import StepError
from edgekit.core.strategy import Quantize, Step
from edgekit.plan.estimate import estimate_figures
from edgekit.plan.strategy import Wishes, make_strategy
from tests.plan.builders import INSTALLED, facts, profile, target


def plan(settings, *, wishes=None, where=None, device=None, family="convnet"):
    given = device or profile(steps=(Step(name="quantize", settings=settings),))
    installed = {"quantize": INSTALLED["quantize"]}
    model = facts(family=family)
    return make_strategy(model, given, where or target(), installed, wishes or Wishes()).steps[0]


def test_mixed_stands_on_the_widest_integers_and_stays_open():
    found = from_plain(Quantize, plan({"precision": "mixed"}).settings, where="quantize")
    assert (found.precision, found.activations, found.block_size) == ("int8", "static", 0)
    assert found.mixed is not None
    assert found.mixed.candidates == ("int8", "int4")


def test_four_bit_matrices_of_a_transformer_have_their_blocks():
    step = plan({"precision": "mixed", "mixed": {"max_bytes": 5000}}, family="transformer")
    found = from_plain(Quantize, step.settings, where="quantize")
    assert (found.activations, found.block_size) == ("dynamic", 32)
    assert "at most 5,000 bytes of the artifact" in step.reason


def test_settings_of_the_command_line_are_put_over_those_of_the_profile():
    wishes = Wishes(settings={"quantize": {"precision": "mixed", "mixed": {"max_bytes": 7}}})
    found = plan({"precision": "int4", "block_size": 64}, wishes=wishes).settings
    assert found["mixed"]["max_bytes"] == 7
    assert found["block_size"] == 64


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "int8", "mixed": {"max_bytes": 9}}, 'goes with precision = "mixed"'),
        (
            {"precision": "mixed", "mixed": {"candidates": ["int8", "int5"]}},
            "'int5' is not allowed",
        ),
        ({"precision": "mixed", "mixed": {"max_byte": 1}}, "did you mean 'max_bytes'"),
        ({"precision": "mixed", "is_per_tensor": True, "block_size": 32}, "is_per_tensor"),
    ],
)
def test_settings_that_say_two_things_are_refused(settings, said):
    with pytest.raises(StepError, match=said):
        plan(settings)


def test_a_candidate_that_the_target_cannot_store_is_refused():
    with pytest.raises(StepError, match="cannot store the candidate int4; it can: int8, fp16"):
        plan({"precision": "mixed"}, where=target(precisions=("int8", "fp16")))


def test_no_budget_at_all_is_refused():
    steps = (Step(name="quantize", settings={"precision": "mixed"}),)
    without = replace(profile(steps=steps), limits=())
    with pytest.raises(StepError, match="needs a budget"):
        plan({}, device=without)


@pytest.mark.parametrize(
    ("wishes", "said"),
    [(Wishes(has_module=False), "exported graph"), (Wishes(has_adapters=True), "adapters")],
)
def test_a_model_whose_layers_cannot_be_measured_is_refused(wishes, said):
    with pytest.raises(StepError, match=said):
        plan({"precision": "mixed"}, wishes=wishes)


def bytes_of(settings):
    device = profile(steps=(Step(name="quantize", settings=settings),))
    installed = {"quantize": INSTALLED["quantize"]}
    strategy = make_strategy(facts(), device, target(), installed, Wishes())
    chosen = from_plain(Quantize, strategy.steps[0].settings, where="quantize")
    figures = estimate_figures(facts(), device, target(), chosen, strategy.steps)
    return next(item for item in figures if item.name == "artifact_bytes")


def test_the_estimate_spans_what_a_plan_may_choose():
    narrow = bytes_of({"precision": "int4", "keep_first_last_int8": False})
    wide, mixed = bytes_of({"precision": "int8"}), bytes_of({"precision": "mixed"})
    assert (mixed.low, mixed.high) == (narrow.low, wide.high)


def test_a_budget_is_the_estimate_where_it_lies_between():
    wide = bytes_of({"precision": "int8"}).value
    budget = int(wide) - 500
    found = bytes_of({"precision": "mixed", "mixed": {"max_bytes": budget}})
    assert found.value == budget
