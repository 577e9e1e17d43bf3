"""Settings of unstructured pruning: what a dry run refuses."""

import pytest

from edgekit.core.codec import from_plain, to_plain
from edgekit.core.errors import StepError
from edgekit.core.steps import Sparsify, Train
from edgekit.core.steps.sparsify import Pattern, parse_pattern


@pytest.mark.parametrize(("text", "kept", "group"), [("2:4", 2, 4), ("1:4", 1, 4), ("7:16", 7, 16)])
def test_a_pattern_is_so_many_kept_of_so_many(text, kept, group):
    assert parse_pattern(text) == Pattern(kept=kept, group=group)


@pytest.mark.parametrize("text", ["4:2", "4:4", "0:4", "2/4", "2:4:8", "-1:4", "two:4", ":"])
def test_a_pattern_that_is_none_is_refused_with_what_it_says(text):
    with pytest.raises(StepError, match="pattern") as refusal:
        Sparsify(pattern=text)
    assert f"'{text}'" in str(refusal.value)


def test_the_share_is_that_of_the_pattern_where_none_is_given():
    assert Sparsify().ratio == 0.5
    assert Sparsify(pattern="1:4").ratio == 0.75
    assert Sparsify(sparsity_ratio=0.9).ratio == 0.9
    assert Sparsify(sparsity_ratio=0.75, pattern="1:4").ratio == 0.75


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sparsity_ratio": 0.0}, "sparsity_ratio is 0.0"),
        ({"sparsity_ratio": 1.0}, "sparsity_ratio is 1.0"),
        ({"sparsity_ratio": -0.1}, "above 0 and below 1"),
        ({"sparsity_ratio": 0.6, "pattern": "2:4"}, "makes 0.5"),
        ({"pattern": "2:4", "scope": "global"}, "equally sparse"),
        ({"method": "wanda", "scope": "global"}, "within a layer only"),
        ({"method": "magnitud"}, "did you mean 'magnitude'"),
        ({"scope": "layers"}, "did you mean 'layer'"),
        ({"schedule": "cube"}, "did you mean 'cubic'"),
        ({"method": "rigl"}, "recover.epochs is 0"),
        ({"method": "rigl", "recover": Train(epochs=2), "iterations": 2}, "use iterations = 1"),
        ({"iterations": 0}, "iterations is 0"),
        ({"iterations": 3, "schedule": "one-shot"}, "one round"),
        ({"iterations": 3, "recover": Train(epochs=2)}, "2 for 3 rounds"),
        ({"teacher_weight": 1.5}, "teacher_weight is 1.5"),
        ({"drop_ratio": 0.0}, "drop_ratio is 0.0"),
        ({"stop_ratio": 1.1}, "stop_ratio is 1.1"),
        ({"update_batches": -1}, "update_batches is -1"),
        ({"ignore": ("(",)}, "no regular expression"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    with pytest.raises(StepError) as refusal:
        Sparsify(**changes)
    assert words in str(refusal.value)


def test_settings_go_through_a_profile_and_back():
    settings = Sparsify(method="wanda", pattern="2:4", ignore=("head",))
    plain = to_plain(settings)
    assert "sparsity_ratio" not in plain
    assert from_plain(Sparsify, plain, where="here", error=StepError) == settings
