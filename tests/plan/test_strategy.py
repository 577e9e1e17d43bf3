"""Steps run or are skipped by name and reason; what cannot be is an error."""

import sys
from dataclasses import dataclass, field, replace

import pytest

import edgekit.compress
from edgekit.compress import DISTIL
from edgekit.core.errors import MissingDependencyError, StepError
from edgekit.core.strategy import Override, Step
from edgekit.plan.strategy import Wishes, make_strategy
from tests.plan.builders import INSTALLED, facts, profile, target

QUANTIZE = Step(name="quantize", is_required=True, settings={"precision": "int8"})
PRUNE = Step(name="prune", when="training data", reason="fewer channels")


def plan(*steps, installed=None, **wishes):
    chosen = INSTALLED if installed is None else installed
    return make_strategy(facts(), profile(steps=steps), target(), chosen, Wishes(**wishes))


def test_a_skipped_step_is_named_with_its_reason():
    strategy = make_strategy(facts(), profile(), target(), INSTALLED, Wishes())
    assert [(step.name, step.is_run) for step in strategy.steps] == [
        ("distil", False),
        ("quantize", True),
    ]
    assert "no step 'distil' is installed" in strategy.skipped[0].reason


@pytest.mark.parametrize(
    ("wishes", "reason"),
    [
        ({}, "no training data"),
        ({"conditions": frozenset({"training data"})}, "effort quick trains nothing"),
    ],
)
def test_a_training_step_needs_data_and_effort(wishes, reason):
    assert reason in plan(PRUNE, QUANTIZE, **wishes).skipped[0].reason


def test_a_training_step_runs_with_data_at_standard_effort():
    strategy = plan(PRUNE, QUANTIZE, conditions=frozenset({"training data"}), effort="standard")
    assert strategy.skipped == ()
    assert strategy.steps[0].settings == {"ratio": 0.5}


def test_a_model_with_adapters_to_choose_from_is_quantized_and_not_taken_apart():
    wishes = {"conditions": frozenset({"training data"}), "effort": "standard"}
    strategy = plan(PRUNE, QUANTIZE, has_adapters=True, **wishes)
    assert [step.name for step in strategy.steps if step.is_run] == ["quantize"]
    assert "adapters were trained on the model as it is" in strategy.skipped[0].reason
    needed = replace(PRUNE, is_required=True)
    with pytest.raises(StepError, match="'prune' is required, but the workload's adapters"):
        plan(needed, QUANTIZE, has_adapters=True, **wishes)


def test_settings_of_any_step_are_checked_against_its_own_dataclass():
    step = Step(name="prune", settings={"ratoi": 0.3})
    with pytest.raises(StepError, match="step 'prune': unknown key 'ratoi'; did you mean 'ratio'"):
        plan(step, QUANTIZE, effort="standard")


def test_what_a_step_itself_needs_is_a_condition_too():
    needy = replace(INSTALLED["prune"], needs=("student",))
    strategy = plan(
        Step(name="prune"), QUANTIZE, effort="standard", installed={**INSTALLED, "prune": needy}
    )
    assert strategy.skipped[0].reason.startswith("the workload has no student")


def test_a_skipped_step_says_what_it_would_have_bought():
    step = Step(name="prune", settings={"ratio": 0.6}, reason="fewer channels")
    reason = plan(step, QUANTIZE).skipped[0].reason
    # To multiples of 8: 16 and 64 channels become 8 and 24; (216 + 1728 + 240) / 10298 weights.
    assert "(fewer channels; would leave about 21% of the weights, an artifact of about" in reason
    assert reason.endswith("instead of 13.1 kB (estimated))")


@pytest.mark.parametrize(
    ("conditions", "stated", "weights"),
    [
        (("training data",), {}, (0.7, 0.3)),
        (("training data", "unlabelled data"), {}, (0.3, 0.7)),
        (("training data", "unlabelled data"), {"hard_weight": 0.5}, (0.5, 0.3)),
    ],
)
def test_the_teacher_weighs_more_where_only_it_labels_the_data(conditions, stated, weights):
    wishes = Wishes(
        effort="standard", conditions=frozenset(conditions), settings={"distil": stated}
    )
    specs = {**INSTALLED, "distil": DISTIL}
    steps = (Step(name="distil", reason="smaller"), QUANTIZE)
    step = make_strategy(facts(), profile(steps=steps), target(), specs, wishes).steps[0]
    assert (step.settings["hard_weight"], step.settings["soft_weight"]) == weights
    assert ("the teacher weighs more" in step.reason) == (weights == (0.3, 0.7))


def nested(effort, **stated):
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Loop:
        epochs: int = 4
        rate: float = 0.1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Settings:
        ratio: float = 0.5
        recover: Loop = field(default_factory=Loop)

    module = sys.modules[__name__]
    module.Nested = Settings
    # Annotations are looked up where the class is defined.
    module.Loop = Loop
    spec = replace(INSTALLED["prune"], settings=f"{__name__}:Nested", is_training=False)
    wishes = Wishes(
        effort=effort,
        settings={"prune": stated},
        conditions=frozenset({"training data"}),
    )
    steps = (Step(name="prune", settings={"recover": {"rate": 0.2}}), QUANTIZE)
    return make_strategy(
        facts(), profile(steps=steps), target(), {**INSTALLED, "prune": spec}, wishes
    ).steps[0]


def test_settings_within_settings_are_merged():
    step = nested("standard", recover={"epochs": 7})
    assert step.settings == {"ratio": 0.5, "recover": {"epochs": 7, "rate": 0.2}}


def test_effort_max_trains_longer_but_for_epochs_that_were_stated():
    assert nested("max").settings["recover"]["epochs"] == 12
    assert nested("max", recover={"epochs": 7}).settings["recover"]["epochs"] == 7


def test_a_step_that_trains_is_skipped_at_effort_quick_and_runs_when_it_trains_nothing():
    assert "effort quick trains nothing" in nested("quick").reason
    assert nested("quick", recover={"epochs": 0}).is_run


def test_strict_makes_a_skipped_step_an_error():
    with pytest.raises(StepError, match=r"--strict.*prune.*no training data"):
        plan(PRUNE, QUANTIZE, is_strict=True)


def test_a_required_step_that_is_not_installed_is_a_missing_component():
    with pytest.raises(MissingDependencyError, match="'quantize' is required"):
        plan(QUANTIZE, installed={})


def test_a_required_step_without_its_data_says_what_to_give():
    with pytest.raises(StepError, match=r"no training data; give the workload 'training', or make"):
        plan(replace(PRUNE, is_required=True), QUANTIZE)


def test_a_setting_that_the_dataclass_refuses_is_told_with_profile_and_step():
    installed = {**INSTALLED, "prune": edgekit.compress.PRUNE}
    for settings, message in (
        ({"ratio": 1.5}, r"^dev: step 'prune': ratio is 1.5; it must be above 0 and below 1"),
        ({"recover": {"epochs": -1}}, r"^dev: step 'prune': training: epochs is -1"),
    ):
        with pytest.raises(StepError, match=message):
            plan(replace(PRUNE, settings=settings), QUANTIZE, installed=installed)


def test_training_for_no_epoch_is_refused_before_any_work():
    installed = {**INSTALLED, "train": edgekit.compress.TRAIN}
    with pytest.raises(StepError, match="step 'train': epochs is 0, which trains nothing"):
        plan(Step(name="train", settings={"epochs": 0}), QUANTIZE, installed=installed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "'precision' is missing"),
        ({"precision": "int3"}, "'int3' is not allowed"),
        ({"precision": "int8", "bits": 8}, "unknown key 'bits'"),
        ({"precision": "int4", "block_size": 7}, "block_size 7 is not allowed"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(StepError, match=message):
        plan(Step(name="quantize", settings=settings))


def test_a_precision_that_the_target_cannot_store_is_refused_with_what_it_can():
    with pytest.raises(StepError, match="cannot store int4; it can: int8, fp16"):
        make_strategy(
            facts(),
            profile(steps=(Step(name="quantize", settings={"precision": "int4"}),)),
            target(precisions=("int8", "fp16")),
            INSTALLED,
            Wishes(),
        )


def test_settings_by_hand_win_and_are_named():
    strategy = plan(QUANTIZE, settings={"quantize": {"activations": "dynamic"}})
    step = strategy.steps[0]
    assert step.settings["activations"] == "dynamic"
    assert "set by hand: activations" in step.reason


def test_overrides_reach_the_settings():
    strategy = plan(QUANTIZE, overrides=(Override(pattern="head", precision="float"),))
    assert strategy.steps[0].settings["overrides"][0]["pattern"] == "head"


def test_settings_of_a_step_that_is_not_there_are_refused():
    with pytest.raises(StepError, match="no step 'quantise' to set; did you mean 'quantize'"):
        plan(QUANTIZE, settings={"quantise": {}})
    with pytest.raises(StepError, match="need a quantize step"):
        plan(PRUNE, overrides=(Override(pattern="a", precision="float"),))


def test_an_unknown_condition_is_refused():
    with pytest.raises(StepError, match="did you mean 'training data'"):
        plan(Step(name="prune", when="trainin data"), QUANTIZE)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("haed", "matches no layer with weights; did you mean 'head'"), ("(", "not a regular expr")],
)
def test_a_pattern_that_matches_no_layer_is_refused(pattern, message):
    with pytest.raises(StepError, match=message):
        plan(QUANTIZE, overrides=(Override(pattern=pattern, precision="float"),))
