"""Orders of steps that cannot be are refused with the reason; the others stand."""

import pytest

from edgekit.compress import (
    AWQ,
    DISTIL,
    EQUALIZE,
    FACTORIZE,
    LORA,
    PRUNE,
    ROTATE,
    ROUND,
    SMOOTH,
    SPARSIFY,
    SPREAD,
    TRAIN,
)
from edgekit.core.errors import StepError
from edgekit.core.strategy import Step
from edgekit.plan.strategy import Wishes, make_strategy
from tests.plan.builders import INSTALLED, facts, profile, target

STEPS = (
    AWQ,
    DISTIL,
    EQUALIZE,
    FACTORIZE,
    LORA,
    PRUNE,
    ROTATE,
    ROUND,
    SMOOTH,
    SPARSIFY,
    SPREAD,
    TRAIN,
)
SPECS = {spec.name: spec for spec in STEPS}
UNTRAINED = {"recover": {"epochs": 0}}


def step(name, **settings):
    return Step(name=name, settings=settings)


QUANTIZE = step("quantize", precision="int8")


def plan(*steps, effort="standard", conditions=("training data",)):
    wishes = Wishes(conditions=frozenset(conditions), effort=effort)
    installed = {"quantize": INSTALLED["quantize"], **SPECS}
    return make_strategy(facts(), profile(steps=steps), target(), installed, wishes)


@pytest.mark.parametrize("effort", ["quick", "standard"])
def test_a_step_on_the_model_after_quantization_is_refused_whether_or_not_it_would_run(effort):
    with pytest.raises(StepError, match=r"dev: step 'prune' .* must come before 'quantize'"):
        plan(QUANTIZE, step("prune"), effort=effort)


def test_quantization_twice_is_refused():
    with pytest.raises(StepError, match="'quantize' stands twice, and the second would round"):
        plan(QUANTIZE, step("quantize", precision="int4"))


@pytest.mark.parametrize("name", ["prune", "factorize", "distil", "rotate"])
def test_an_adapter_of_the_users_own_layers_is_refused_after_they_were_replaced(name):
    with pytest.raises(StepError, match=f"'{name}' has replaced them by then; move 'lora' before"):
        plan(step(name), step("lora", adapter="folder"), QUANTIZE)


def test_an_adapter_before_pruning_and_a_new_one_after_it_are_both_legal():
    first = plan(step("lora", adapter="folder"), step("prune"), QUANTIZE)
    second = plan(step("prune"), step("lora", rank=2), QUANTIZE)
    assert [len(first.skipped), len(second.skipped)] == [0, 0]


def test_layers_full_of_zeros_cannot_be_factorized_and_those_left_dense_can():
    zeros, factors = step("sparsify"), step("factorize", **UNTRAINED)
    with pytest.raises(StepError, match="'factorize' comes after 'sparsify', whose zeros are in"):
        plan(zeros, factors, QUANTIZE)
    assert plan(factors, zeros, QUANTIZE).skipped == ()
    assert plan(step("sparsify", ignore=("head",)), factors, QUANTIZE).skipped == ()


@pytest.mark.parametrize("name", ["prune", "sparsify", "distil", "factorize", "lora", "train"])
def test_nothing_moves_weights_off_the_grid_that_they_were_put_on(name):
    with pytest.raises(StepError, match=f"'{name}' comes after 'round' and would move weights off"):
        plan(step("round"), step(name), QUANTIZE)


def test_training_with_rounded_weights_may_go_on_from_rounded_ones():
    rounding = {"train": {"rounding": {"precision": "auto"}}}
    assert plan(step("round"), step("distil", **rounding), QUANTIZE).skipped == ()
    assert plan(step("train"), step("round"), QUANTIZE).skipped == ()


def test_rounding_twice_is_refused():
    with pytest.raises(StepError, match="'round' stands twice"):
        plan(step("round"), step("round"), QUANTIZE)


@pytest.mark.parametrize("name", ["equalize", "rotate", "smooth"])
@pytest.mark.parametrize("earlier", ["awq", "round", "train"])
def test_channels_are_scaled_before_weights_are_rounded(earlier, name):
    settings = {"rounding": {"precision": "auto"}} if earlier == "train" else {}
    with pytest.raises(StepError, match=f"step '{name}' comes after '{earlier}'"):
        plan(step(earlier, **settings), step(name), QUANTIZE)
    assert plan(step(name), step(earlier, **settings), QUANTIZE).skipped == ()


@pytest.mark.parametrize("earlier", ["smooth", "awq"])
def test_channels_are_rotated_before_they_are_scaled(earlier):
    settings = {"is_rounded": False} if earlier == "awq" else {}
    with pytest.raises(StepError, match=f"'rotate' comes after '{earlier}' and would take back"):
        plan(step(earlier, **settings), step("rotate"), QUANTIZE)
    assert plan(step("rotate"), step(earlier, **settings), QUANTIZE).skipped == ()


def test_zeros_come_after_a_rotation():
    with pytest.raises(StepError, match="'rotate' comes after 'sparsify', whose zeros"):
        plan(step("sparsify"), step("rotate"), QUANTIZE)
    assert plan(step("rotate"), step("sparsify"), QUANTIZE).skipped == ()


@pytest.mark.parametrize("name", ["sparsify", "round", "spread", "smooth"])
def test_layers_that_multiply_their_inputs_come_last(name):
    last = step("smooth", has_multipliers=True)
    with pytest.raises(StepError, match=f"step '{name}' (comes after 'smooth'|stands twice), whic"):
        plan(last, step(name), QUANTIZE)
    assert plan(step("smooth"), step("round"), QUANTIZE).skipped == ()
    if name == "sparsify":
        assert plan(step(name), last, QUANTIZE).skipped == ()


@pytest.mark.parametrize("name", ["sparsify", "smooth", "round", "train", "spread"])
def test_nothing_on_the_model_comes_after_layers_that_multiply_their_outputs(name):
    with pytest.raises(StepError, match=f"step '{name}' (comes after 'spread'|stands twice), whi"):
        plan(step("spread"), step(name), QUANTIZE)
    if name != "spread":
        assert plan(step(name), step("spread"), QUANTIZE).skipped == ()


def test_trained_ranges_of_activations_are_those_of_the_layers_as_they_were():
    static = step("quantize", precision="int8", activations="static")
    rounding = {"rounding": {"precision": "auto"}}
    with pytest.raises(StepError, match="'spread' comes after 'train', whose trained ranges of"):
        plan(step("train", **rounding), step("spread"), static)
    alone = {"rounding": {"precision": "auto", "activations": "none"}}
    assert plan(step("train", **alone), step("spread"), static).skipped == ()


@pytest.mark.parametrize("is_rounded", [True, False])
def test_weights_on_a_grid_are_not_scaled_for_it_again(is_rounded):
    with pytest.raises(StepError, match=r"step 'awq' comes after 'round'"):
        plan(step("round"), step("awq", is_rounded=is_rounded), QUANTIZE)
    rounding = {"precision": "auto"}
    with pytest.raises(StepError, match=r"step 'awq' comes after 'train', whose weights are on"):
        plan(step("train", rounding=rounding), step("awq", is_rounded=is_rounded), QUANTIZE)


def test_scaled_weights_are_rounded_once():
    with pytest.raises(StepError, match=r"'round' comes after 'awq'.*is_rounded = false"):
        plan(step("awq"), step("round"), QUANTIZE)
    with pytest.raises(StepError, match="'awq' stands twice"):
        plan(step("awq"), step("awq"), QUANTIZE)
    planned = plan(step("smooth"), step("awq", is_rounded=False), step("round"), QUANTIZE)
    assert planned.skipped == ()
    taken = [item.settings["rounding"]["precision"] for item in planned.steps[1:3]]
    assert taken == ["int8", "int8"]


def test_awq_needs_a_grid_of_integers():
    with pytest.raises(StepError, match="'awq': rounding: the quantize step stores 'fp16'"):
        plan(step("awq"), step("quantize", precision="fp16"))


@pytest.mark.parametrize(
    ("settings", "conditions"),
    [
        ({"student": "made"}, ("training data",)),
        ({}, ("training data", "student")),
        ({"student": "factory"}, ("training data", "student")),
    ],
)
def test_a_new_student_that_throws_away_what_was_pruned_is_refused(settings, conditions):
    with pytest.raises(StepError, match=r"what 'prune' made before it would be thrown away"):
        plan(step("prune"), step("distil", **settings), QUANTIZE, conditions=conditions)


def test_the_pruned_model_may_be_the_student_even_where_there_is_a_factory():
    steps = (step("prune"), step("distil", student="current"), QUANTIZE)
    assert plan(*steps, conditions=("training data", "student")).skipped == ()


def test_a_step_that_is_skipped_makes_nothing_that_could_be_thrown_away():
    steps = (step("prune"), step("distil", student="made"), QUANTIZE)
    assert [item.name for item in plan(*steps, effort="quick").skipped] == ["prune", "distil"]


def test_a_factory_that_the_workload_does_not_have_is_missed_before_any_work():
    with pytest.raises(StepError, match="the workload has no student factory; give it 'student'"):
        plan(step("distil", student="factory"), QUANTIZE)


def test_any_order_on_the_model_that_makes_sense_is_legal():
    steps = (
        step("prune", **UNTRAINED),
        step("factorize", **UNTRAINED),
        step("train", epochs=1),
        step("sparsify"),
        step("distil"),
        step("prune", ratio=0.1),
        QUANTIZE,
    )
    assert [item.name for item in plan(*steps).steps] == [item.name for item in steps]
