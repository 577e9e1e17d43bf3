"""Steps that hang on what is built: run where they pay, else told why not, and never missed."""

import pytest

from edgekit.compress import DISTIL, ROUND, SMOOTH, SPREAD
from edgekit.core.errors import StepError
from edgekit.core.strategy import Step
from edgekit.plan.strategy import Wishes, make_strategy
from tests.plan.builders import INSTALLED, facts, profile, target

SPECS = {spec.name: spec for spec in (DISTIL, ROUND, SMOOTH, SPREAD)}
MULTIPLIERS = {"has_multipliers": True, "may_change_nothing": True}
SMOOTHED = Step(name="smooth", when="one scale for inputs", reason="r", settings=MULTIPLIERS)
SPREADING = Step(name="spread", when="one scale for outputs", reason="r")
STATIC = {"precision": "int8", "activations": "static"}
ONNX, LITERT = target("onnx", "onnx"), target()


def planned(step, to, quantize=None, *, kind="transformer", before=(), family="laptop", **wishes):
    """The step in front of a quantize step, as it is planned."""
    settings = {"precision": "int8", **(quantize or {})}
    steps = (*before, step, Step(name="quantize", is_required=True, settings=settings))
    given = Wishes(effort="standard", conditions=frozenset(["training data"]), **wishes)
    strategy = make_strategy(
        facts(kind), profile(family, steps=steps), to, {**INSTALLED, **SPECS}, given
    )
    return next(item for item in strategy.steps if item.name == step.name)


@pytest.mark.parametrize(
    ("step", "to", "quantize"),
    [(SMOOTHED, ONNX, {}), (SMOOTHED, ONNX, STATIC), (SPREADING, LITERT, STATIC)],
)
def test_a_step_runs_where_one_scale_must_do(step, to, quantize):
    found = planned(step, to, quantize)
    assert (found.is_run, found.is_needed, found.reason) == (True, True, "r")


@pytest.mark.parametrize(
    ("step", "to", "quantize", "changes", "reason"),
    [
        (SMOOTHED, ONNX, {}, {"kind": "convnet"}, "the model is of another kind (convnet)"),
        (SMOOTHED, ONNX, {"precision": "fp16"}, {}, "the weights are stored as fp16"),
        (SMOOTHED, ONNX, {"precision": "int4"}, {}, "the weights are stored as int4"),
        (SMOOTHED, ONNX, {"activations": "none"}, {}, "and these are float"),
        (SMOOTHED, ONNX, {"activation_bits": 16}, {}, "and these have 16 bits"),
        (SMOOTHED, ONNX, {"is_per_tensor": True}, {}, "a layer has only one"),
        (SMOOTHED, LITERT, {}, {}, "all inputs of a layer have one scale; in litert each row"),
        (SMOOTHED, LITERT, STATIC, {}, "in litert what they give loses more"),
        (SPREADING, LITERT, {}, {}, "and here they give floats"),
        (SPREADING, ONNX, STATIC, {}, "and here they give floats"),
        (SPREADING, LITERT, STATIC, {"family": "embedded"}, "all is integers here"),
    ],
)
def test_elsewhere_it_says_what_it_is_for_and_is_no_lack(step, to, quantize, changes, reason):
    # With --strict a step that lacks something would be an error.
    found = planned(step, to, quantize, is_strict=True, **changes)
    assert (found.is_run, found.is_needed, found.settings) == (False, False, {})
    assert found.reason.startswith("pays ")
    assert reason in found.reason


def test_precisions_by_layer_are_left_alone():
    mixed = {"precision": "mixed", "mixed": {"max_bytes": 10_000}}
    assert "chosen layer by layer" in planned(SMOOTHED, ONNX, mixed).reason


@pytest.mark.parametrize(
    ("step", "to", "quantize", "reason"),
    [
        (SMOOTHED, ONNX, {}, "would move the weights of 'distil' off the grid"),
        (SPREADING, LITERT, STATIC, "would change the ranges of activations that 'distil' trained"),
    ],
)
def test_what_was_trained_rounded_is_left_as_it_is(step, to, quantize, reason):
    rounded = Step(name="distil", settings={"train": {"rounding": {"precision": "auto"}}})
    plain = Step(name="distil")
    assert reason in planned(step, to, quantize, before=[rounded]).reason
    assert planned(step, to, quantize, before=[plain]).is_run
    # Who asks for the step itself is told that the order cannot be.
    asked = Step(name=step.name, is_required=True)
    with pytest.raises(StepError, match=f"step '{step.name}' comes after 'distil'"):
        planned(asked, to, quantize, before=[rounded])


def test_weights_on_the_grid_by_round_are_left_there():
    reason = planned(SMOOTHED, ONNX, before=[Step(name="round")]).reason
    assert "would move the weights of 'round' off the grid" in reason


def test_a_graph_lacks_the_module_that_the_step_needs():
    found = planned(SMOOTHED, ONNX, has_module=False)
    assert (found.is_run, found.is_needed) == (False, True)
    assert "this step needs the torch.nn.Module" in found.reason


def test_the_shipped_order_of_steps_is_a_legal_one():
    both = planned(SPREADING, ONNX, before=[Step(name="distil"), SMOOTHED])
    assert not both.is_needed
