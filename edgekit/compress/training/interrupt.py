"""Ctrl-C between two batches instead of inside one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptions_deferred() -> Iterator[Callable[[], bool]]:
    """Within the block a first Ctrl-C is only remembered; a second one stops at once.

    The block asks the callable whether it should come to an end. It need not: the KeyboardInterrupt
    is raised when the block ends. Where someone else handles the signal, or outside the main
    thread, nothing changes.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    asked: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if asked:
            signal.default_int_handler(number, frame)
        asked.append(number)

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt
