"""Ctrl-C between batches."""

import signal
import threading

import pytest

from edgekit.compress.training.interrupt import interruptions_deferred


@pytest.fixture(autouse=True)
def _default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_interruption_waits_for_the_end_of_the_block():
    reached = []

    def work():
        with interruptions_deferred() as is_asked:
            assert not is_asked()
            signal.raise_signal(signal.SIGINT)
            assert is_asked()
            reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_one_stops_at_once():
    reached = []

    def work():
        with interruptions_deferred():
            signal.raise_signal(signal.SIGINT)
            reached.append("first")
            signal.raise_signal(signal.SIGINT)
            reached.append("second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["first"]


def test_an_error_of_the_block_goes_first():
    def work():
        with interruptions_deferred():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        work()


def test_a_handler_of_someone_else_stays():
    heard = []
    signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    with interruptions_deferred() as is_asked:
        signal.raise_signal(signal.SIGINT)
        assert not is_asked()
    assert heard == [1]


def test_other_threads_are_left_alone():
    found = []

    def work():
        with interruptions_deferred() as is_asked:
            found.append(is_asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
