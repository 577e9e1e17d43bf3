import pytest

from edgekit.compress.schedule import epochs_by_round, rounds_of, shares
from edgekit.core.steps import Prune, Train


def test_cubic_schedule_by_the_published_formula():
    """Zhu & Gupta 2017: s_t = s_f + (s_0 - s_f)(1 - t/n)^3, here with s_0 = 0 and s_f = 1."""
    assert shares("cubic", 4) == pytest.approx((37 / 64, 56 / 64, 63 / 64, 1.0))


def test_linear_schedule_takes_the_same_each_round():
    assert shares("linear", 4) == pytest.approx((0.25, 0.5, 0.75, 1.0))


def test_one_shot_takes_all_at_once():
    assert shares("one-shot", 4) == (1.0,)


@pytest.mark.parametrize("schedule", ["one-shot", "linear", "cubic", "per-epoch"])
@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_share_grows_to_the_whole(schedule, rounds):
    found = shares(schedule, rounds)
    assert found[-1] == 1.0
    assert list(found) == sorted(set(found))


@pytest.mark.parametrize(
    ("schedule", "rounds"), [("one-shot", 1), ("cubic", 3), ("linear", 3), ("per-epoch", 5)]
)
def test_rounds_of_each_schedule(schedule, rounds):
    iterations = 1 if schedule == "one-shot" else 3
    settings = Prune(schedule=schedule, iterations=iterations, recover=Train(epochs=5))
    assert rounds_of(settings) == rounds


@pytest.mark.parametrize(
    ("epochs", "rounds", "wanted"),
    [(6, 3, (2, 2, 2)), (7, 3, (2, 2, 3)), (2, 3, (0, 1, 1)), (0, 2, (0, 0))],
)
def test_epochs_are_shared_and_the_rest_goes_to_the_last_rounds(epochs, rounds, wanted):
    assert epochs_by_round(epochs, rounds) == wanted
