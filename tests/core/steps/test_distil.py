"""Settings of distillation are checked when they are written."""

import math

import pytest

from edgekit.core.errors import StepError
from edgekit.core.steps import Distil, Train


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("student_ratio", 0.0),
        ("student_ratio", 1.0),
        ("student_ratio", math.nan),
        ("student_bytes", -1),
        ("student_macs", -5),
        ("student_bits", 5),
        ("temperature", 0.0),
        ("temperature", math.inf),
        ("confidence", 1.1),
        ("confidence", -0.1),
        ("hard_weight", -0.1),
        ("soft_weight", math.nan),
        ("feature_weight", math.inf),
        ("pseudo_label_weight", -1.0),
        ("synthetic_samples", -1),
        ("synthetic_steps", 0),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(name, value):
    with pytest.raises(StepError, match=f"distil: {name} is .*; it must be"):
        Distil(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("student", "curent", "current"),
        ("task", "clasification", "classification"),
        ("self_from", "exit", "exits"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(name, value, meant):
    with pytest.raises(StepError, match=f"{name} is '{value}'; did you mean '{meant}'"):
        Distil(**{name: value})


def test_a_loss_of_nothing_is_refused():
    with pytest.raises(StepError, match="all weights of the loss are 0"):
        Distil(hard_weight=0.0, soft_weight=0.0)


def test_no_epochs_are_refused_with_what_to_use_instead():
    with pytest.raises(StepError, match=r"train.epochs is 0.*step 'prune'"):
        Distil(train=Train(epochs=0))


def test_two_budgets_at_once_are_refused():
    with pytest.raises(StepError, match="student_bytes is 1000 and student_macs is 2000"):
        Distil(student_bytes=1000, student_macs=2000)


def test_ends_of_ranges_are_allowed():
    Distil(confidence=0.0, hard_weight=0.0)
    Distil(confidence=1.0, soft_weight=0.0, student_bytes=1)
