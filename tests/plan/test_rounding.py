"""Rounding in training is what the quantize step of the strategy will do."""

import pytest

from edgekit.compress import DISTIL, PRUNE, ROUND, TRAIN
from edgekit.core.codec import from_plain
from edgekit.core.errors import StepError
from edgekit.core.steps import Distil, Round, Rounding
from edgekit.core.strategy import Override, Step
from edgekit.plan.rounding import is_pending
from edgekit.plan.strategy import Wishes, make_strategy
from tests.plan.builders import INSTALLED, facts, profile, target

SPECS = {spec.name: spec for spec in (DISTIL, ROUND, TRAIN)}


def plan(distil, quantize=None, *, overrides=(), effort="standard", to=None, **changes):
    steps = [Step(name="distil", reason="quality", settings=distil)]
    if quantize is not None:
        steps.append(Step(name="quantize", settings=quantize))
    wishes = Wishes(
        conditions=frozenset(["training data"]), effort=effort, overrides=tuple(overrides)
    )
    installed = {"quantize": INSTALLED["quantize"], **SPECS}
    device = profile(steps=tuple(steps), **changes)
    return make_strategy(facts(), device, to or target(), installed, wishes).steps[0]


def rounding(precision="auto", **more):
    return {"train": {"rounding": {"precision": precision, **more}}}


def test_auto_becomes_what_the_quantize_step_stores():
    wish = Override(pattern="body", precision="int8")
    step = plan(rounding(), {"precision": "int4"}, overrides=[wish], family="embedded")
    found = from_plain(Distil, step.settings, where="distil").train.rounding
    assert (found.precision, found.block_size, found.keep_first_last_int8) == ("int4", 0, True)
    assert found.overrides == (wish,)
    assert found.activations == "static"
    assert step.reason == "quality; weights and activations are seen as int4 will hold them"


def test_blocks_are_shared_too():
    step = plan(rounding(), {"precision": "int4", "activations": "none"})
    quantize_blocks = step.settings["train"]["rounding"]["block_size"]
    assert quantize_blocks == 0
    quantize = {"precision": "int4", "activations": "dynamic", "block_size": 64}
    step = plan(rounding(), quantize)
    assert step.settings["train"]["rounding"]["block_size"] == 64


@pytest.mark.parametrize(
    ("form", "block_size", "found"), [("onnx", 64, True), ("tflite", 64, False), ("onnx", 0, False)]
)
def test_a_row_ends_in_a_short_block_where_the_target_stores_one(form, block_size, found):
    quantize = {"precision": "int4", "activations": "dynamic", "block_size": block_size}
    step = plan(rounding(), quantize, to=target(form=form))
    assert step.settings["train"]["rounding"]["has_short_blocks"] is found


def test_half_precision_needs_no_rounding_and_the_reason_says_so():
    step = plan(rounding(), {"precision": "fp16"})
    assert "rounding" not in step.settings["train"]
    assert step.reason.endswith("weights are trained as they are: fp16 needs no rounding")


def test_none_rounds_nothing():
    step = plan(rounding("none"), {"precision": "int4"})
    assert step.reason == "quality"


def test_auto_without_a_quantize_step_is_refused():
    with pytest.raises(StepError, match="step 'distil': rounding: precision is \"auto\", and"):
        plan(rounding())


def test_a_stated_precision_stands_alone_without_a_quantize_step():
    step = plan(rounding("int4"))
    assert step.settings["train"]["rounding"]["precision"] == "int4"


def test_another_precision_than_the_quantize_step_stores_is_refused():
    with pytest.raises(
        StepError, match=r"is 'int8' and the quantize step .* 'int4'.*rounded twice"
    ):
        plan(rounding("int8"), {"precision": "int4"})


def test_a_skipped_step_asks_nothing():
    assert not plan(rounding(), effort="quick").is_run


def test_an_unknown_precision_names_what_is_allowed():
    with pytest.raises(StepError, match="int3"):
        plan(rounding("int3"), {"precision": "int4"})


# Activations.


def activations_of(step):
    return step.settings["train"]["rounding"]["activations"]


@pytest.mark.parametrize(
    ("quantize", "found"),
    [
        ({"precision": "int8", "activations": "static"}, "static"),
        ({"precision": "int8", "activations": "dynamic"}, "none"),
        ({"precision": "int4", "activations": "none"}, "none"),
        ({"precision": "int8", "activations": "static", "activation_bits": 16}, "none"),
    ],
)
def test_activations_are_seen_as_the_quantize_step_has_them(quantize, found):
    step = plan(rounding(), quantize)
    assert activations_of(step) == found
    assert ("weights and activations are seen" in step.reason) == (found == "static")


def test_what_was_stated_of_activations_and_method_stays():
    static = {"precision": "int8", "activations": "static"}
    assert activations_of(plan(rounding(activations="none"), static)) == "none"
    step = plan(rounding(method="lsq"), static)
    assert step.settings["train"]["rounding"]["method"] == "lsq"
    assert activations_of(plan(rounding("int8"), static)) == "static"


def test_symmetric_activations_are_seen_so():
    quantize = {
        "precision": "int8",
        "activations": "static",
        "has_symmetric_activations": True,
    }
    step = plan(rounding(), quantize)
    assert step.settings["train"]["rounding"]["has_symmetric_activations"]


def test_static_activations_before_others_are_refused():
    with pytest.raises(StepError, match=r'activations are "static", .* are dynamic'):
        plan(rounding(activations="static"), {"precision": "int8", "activations": "dynamic"})


WIDE = {"precision": "int8", "activations": "static", "activation_bits": 16}


def test_activations_of_16_bits_are_never_trained_as_8_and_the_reason_says_so():
    step = plan(rounding(), WIDE)
    assert step.reason.endswith(
        "weights are seen as int8 will hold them, activations as floats: training rounds to 8 "
        "bits, not to 16"
    )
    with pytest.raises(StepError, match=r'are "static", 8 bits of one range, .* are of 16 bits;'):
        plan(rounding(activations="static"), WIDE)


def plan_prune(**more):
    recover = {"epochs": 2, "rounding": {"precision": "auto", **more}}
    quantize = {"precision": "int8", "activations": "static"}
    steps = (
        Step(name="prune", settings={"ratio": 0.5, "recover": recover}),
        Step(name="quantize", settings=quantize),
    )
    installed = {"quantize": INSTALLED["quantize"], **SPECS, "prune": PRUNE}
    wishes = Wishes(conditions=frozenset(["training data"]), effort="standard")
    return make_strategy(facts(), profile(steps=steps), target(), installed, wishes).steps[0]


def test_steps_that_cannot_hand_ranges_over_see_activations_as_they_are():
    assert plan_prune().settings["recover"]["rounding"]["activations"] == "none"
    with pytest.raises(StepError, match="only train and distil hand their ranges"):
        plan_prune(activations="static")


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [("activations", "dynamic", "static"), ("method", "lsk", "did you mean 'lsq'")],
)
def test_values_that_are_not_allowed_name_those_that_are(setting, value, said):
    with pytest.raises(StepError, match=f"rounding: {setting} is '{value}'.*{said}"):
        Rounding(**{setting: value})


# The step "round".


def plan_round(settings=None, *, quantize):
    steps = (Step(name="round", settings=settings or {}), Step(name="quantize", settings=quantize))
    installed = {"quantize": INSTALLED["quantize"], **SPECS}
    device = profile(steps=steps, family="embedded")
    return make_strategy(facts(), device, target(), installed, Wishes(effort="quick")).steps[0]


def test_the_step_rounds_to_what_the_quantize_step_stores_and_trains_nothing():
    quantize = {"precision": "int4", "activations": "dynamic", "block_size": 64}
    step = plan_round(quantize=quantize)
    found = from_plain(Round, step.settings, where="round").rounding
    assert (step.is_run, found.precision, found.block_size) == (True, "int4", 64)


def test_half_precision_leaves_the_step_nothing_to_do():
    with pytest.raises(StepError, match="stores 'fp16', which is no grid of integers"):
        plan_round(quantize={"precision": "fp16"})


def test_the_step_needs_to_know_how_many_bits():
    steps = (Step(name="round", settings={}),)
    with pytest.raises(StepError, match="no quantize step to take it from"):
        make_strategy(facts(), profile(steps=steps), target(), SPECS, Wishes())


def test_what_only_training_has_a_use_for_is_refused_in_the_plan():
    with pytest.raises(StepError, match=r"step 'round': rounding.method is \"lsq\""):
        plan_round({"rounding": {"method": "lsq"}}, quantize={"precision": "int4"})


MIXED = {"precision": "mixed", "mixed": {"max_bytes": 1000}}


def test_auto_waits_for_a_precision_that_is_still_to_be_solved_for():
    step = plan({"student": "current", **rounding()}, MIXED)
    assert is_pending(step)
    found = from_plain(Distil, step.settings, where="distil").train.rounding
    assert found.precision == "auto"
    assert not is_pending(plan(rounding(), {"precision": "int4"}))
    assert not is_pending(plan({"train": {}}, MIXED))


def test_a_step_that_makes_another_model_trains_before_precisions_are_chosen():
    step = plan(rounding(), MIXED)
    assert not is_pending(step)
    assert from_plain(Distil, step.settings, where="distil").train.rounding is None
    assert "chosen for the model that comes out" in step.reason


def test_a_stated_precision_beside_mixed_ones_is_refused():
    with pytest.raises(StepError, match="precision is 'int4', and the quantize step chooses"):
        plan(rounding("int4"), MIXED)
