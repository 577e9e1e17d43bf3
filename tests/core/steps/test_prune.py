"""Settings of pruning are checked when they are written."""

import math

import pytest

from edgekit.core.errors import StepError
from edgekit.core.steps import Prune, Train


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ratio", 0.0),
        ("ratio", 1.0),
        ("ratio", -0.5),
        ("ratio", math.nan),
        ("keep", -1.0),
        ("head_ratio", 1.0),
        ("ffn_ratio", -0.1),
        ("layer_ratios", {"conv": 1.5}),
        ("drop_layers", -1),
        ("depth_ratio", 1.5),
        ("round_to", -8),
        ("iterations", 0),
        ("teacher_weight", 1.5),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(name, value):
    with pytest.raises(StepError, match=f"{name}.* is .*; it must be"):
        Prune(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("goal", "mac", "did you mean 'macs'"),
        ("importance", "l3", "did you mean 'l"),
        ("schedule", "cubik", "did you mean 'cubic'"),
        ("units", ("head",), "did you mean 'heads'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, value, hint):
    with pytest.raises(StepError, match=hint):
        Prune(**{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": ()}, "units is empty"),
        ({"units": ("layers",)}, "drop_layers is 0"),
        ({"drop_layers": 1, "depth_ratio": 0.5}, "leave one of them at 0"),
        ({"ignore": ("(",)}, "is no regular expression"),
        ({"layer_ratios": {"[": 0.5}}, "is no regular expression"),
        ({"schedule": "per-epoch", "recover": Train(epochs=0)}, "recover.epochs is 0"),
        ({"schedule": "one-shot", "iterations": 3}, "iterations is 3 and schedule 'one-shot'"),
        ({"iterations": 3, "recover": Train(epochs=2)}, "recover.epochs is 2 for 3 rounds"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(StepError, match=message):
        Prune(**settings)


def test_a_ratio_is_not_asked_for_where_an_amount_or_layers_are():
    assert Prune(ratio=0.0, keep=1000.0).keep == 1000.0
    assert Prune(ratio=0.0, units=("layers",), drop_layers=2).drop_layers == 2
