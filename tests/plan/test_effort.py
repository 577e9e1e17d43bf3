"""What effort max makes of settings, and how many epochs a plan counts."""

import pytest

from edgekit.core.codec import from_plain, to_plain
from edgekit.core.errors import StepError
from edgekit.core.steps import Distil, Prune, Search, Train
from edgekit.plan.effort import prolonged, trained_epochs


def test_max_trains_three_times_as_long_and_tries_rates_for_a_fifth_of_the_stated_epochs():
    longer = prolonged(to_plain(Train(epochs=15)), {})
    assert longer["epochs"] == 45
    assert longer["search"] == {"epochs": 3, "rate_factors": [0.3, 3.0]}
    # Everything else is as it was, and it is still a training.
    changed = {"epochs", "search"}
    assert {key: value for key, value in longer.items() if key not in changed} == {
        key: value for key, value in to_plain(Train()).items() if key not in changed
    }
    assert from_plain(Train, longer, where="train").search == Search(epochs=3)


def test_what_is_stated_stays():
    plain = to_plain(Train(epochs=15))
    assert prolonged(plain, {"epochs": 15})["epochs"] == 15
    assert prolonged(plain, {"search": {"epochs": 0}})["search"]["epochs"] == 0
    # By the profile: its trials are as long as it says.
    assert prolonged(to_plain(Train(search=Search(epochs=2))), {})["search"]["epochs"] == 2
    assert prolonged(to_plain(Train(epochs=0)), {})["search"]["epochs"] == 0
    assert prolonged(to_plain(Train(epochs=2)), {})["search"]["epochs"] == 1


def test_trials_are_counted_where_they_are_made():
    assert trained_epochs(to_plain(Train(epochs=6))) == 6
    # The stated rate and two others, never longer than the training itself.
    assert trained_epochs(to_plain(Train(epochs=6, search=Search(epochs=2)))) == 6 + 3 * 2
    assert trained_epochs(to_plain(Train(epochs=6, search=Search(epochs=9)))) == 6 + 3 * 6
    distil = Distil(train=Train(epochs=6, search=Search(epochs=2)))
    assert trained_epochs(to_plain(distil)) == 6 + (3 + 2) * 2
    # Of the three shares the stated one is tried already.
    taught = Distil(
        hard_weight=0.3, soft_weight=0.7, train=Train(epochs=6, search=Search(epochs=2))
    )
    assert trained_epochs(to_plain(taught)) == 6 + (3 + 2) * 2
    searched = Train(epochs=6, search=Search(epochs=2))
    own = Distil(hard_weight=0.5, soft_weight=0.5, train=searched)
    assert trained_epochs(to_plain(own)) == 6 + (3 + 3) * 2
    alone = Distil(hard_weight=0, train=Train(epochs=6, search=Search(epochs=2)))
    assert trained_epochs(to_plain(alone)) == 6 + 3 * 2
    assert trained_epochs(to_plain(Prune(recover=Train(epochs=0, search=Search(epochs=2))))) == 0
    assert trained_epochs({"ratio": 0.5}) is None


def test_a_plug_in_may_call_something_else_search():
    assert trained_epochs({"epochs": 4, "search": {"epochs": 2}}) == 6
    assert prolonged({"epochs": 4, "search": "wide"}, {}) == {"epochs": 12, "search": "wide"}


@pytest.mark.parametrize(
    ("given", "said"),
    [({"epochs": -1}, "epochs is -1"), ({"rate_factors": (0.0,)}, "rate_factors has 0.0")],
)
def test_values_outside_their_range_are_refused(given, said):
    with pytest.raises(StepError, match=f"search: {said}"):
        Search(**given)


def test_a_share_of_labels_is_of_what_labels_weigh_together():
    moved = Distil(hard_weight=1.0, soft_weight=3.0).with_label_share(0.75)
    assert (moved.hard_weight, moved.soft_weight) == (3.0, 1.0)
    with pytest.raises(StepError, match="label_shares is 1"):
        Distil(label_shares=(1.0,))
