"""Settings of training are checked when they are written."""

import math

import pytest

from edgekit.core.errors import StepError
from edgekit.core.steps import Train


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("batch_size", 0),
        ("patience", -2),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("weight_decay", -1e-4),
        ("clip_norm", -1.0),
        ("momentum", 1.0),
        ("ema_decay", 1.0),
        ("label_smoothing", -0.1),
        ("warmup_ratio", 1.5),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(name, value):
    with pytest.raises(StepError, match=f"{name} is .*; it must be"):
        Train(**{name: value})


def test_an_unknown_schedule_gets_the_nearest_name():
    with pytest.raises(StepError, match="schedule is 'cosin'; did you mean 'cosine'"):
        Train(schedule="cosin")


def test_an_unknown_optimizer_gets_the_allowed_names():
    with pytest.raises(StepError, match=r"optimizer is 'lion'.*adamw, sgd"):
        Train(optimizer="lion")


def test_ends_of_ranges_are_allowed():
    Train(epochs=0, warmup_ratio=1.0, clip_norm=0.0, ema_decay=0.0, label_smoothing=0.0)
