"""Progress and the time that is left."""

import pytest

from edgekit.compress.training import pace
from edgekit.compress.training.pace import Pace, time_text
from edgekit.core.progress import Reporter


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


@pytest.fixture
def said():
    return []


def _pace(said, **settings):
    return Pace(Reporter(stage="t", listener=said.append), **settings)


def test_time_left_is_what_the_rest_takes_at_the_speed_so_far(clock, said):
    found = _pace(said, total=100)
    clock.now += 30
    found.tell(25, "epoch 1")
    assert said[0].message == "epoch 1, about 2 min left"
    assert said[0].fraction == 0.25


def test_batches_of_an_earlier_run_took_no_time_of_this_one(clock, said):
    found = _pace(said, done=80, total=100)
    clock.now += 10
    found.tell(90, "epoch 1")
    assert said[0].message == "epoch 1, about 10 s left"


def test_most_batches_are_not_told_but_the_last_is(clock, said):
    found = _pace(said, total=10)
    for done in range(1, 11):
        clock.now += 0.125
        found.tell(done, "e")
    assert [event.fraction for event in said] == [0.1, 0.5, 0.9, 1.0]
    assert said[-1].message == "e"


def test_without_a_total_there_is_no_fraction(clock, said):
    _pace(said).tell(3, "3 batches")
    assert (said[0].message, said[0].fraction) == ("3 batches", None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3540, "59 min"),
        (3600, "1 h 0 min"),
        (11100, "3 h 5 min"),
    ],
)
def test_times_are_told_as_people_say_them(seconds, text):
    assert time_text(seconds) == text
