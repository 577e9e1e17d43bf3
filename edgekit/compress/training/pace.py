"""How far a training is and how long it will still take."""

import time

from edgekit.core.progress import Reporter

# A listener that draws, or writes lines to a log, need not hear of every batch.
INTERVAL_SECONDS = 0.5


class Pace:
    """Tells a reporter where a training stands, now and then."""

    def __init__(self, reporter: Reporter, *, done: int = 0, total: int | None = None) -> None:
        """done: batches that are behind it already. total: of all; None where nobody knows."""
        self._reporter = reporter
        self._first, self._total = done, total
        self._started_at = time.monotonic()
        self._said_at = float("-inf")

    def tell(self, done: int, message: str) -> None:
        """Say that so many batches are done; most calls say nothing."""
        now = time.monotonic()
        if now - self._said_at < INTERVAL_SECONDS and done != self._total:
            return
        self._said_at = now
        if self._total is None:
            self._reporter.progress(message)
            return
        left = self._left(done, now - self._started_at, self._total)
        self._reporter.progress(f"{message}{left}", done / self._total)

    def _left(self, done: int, seconds: float, total: int) -> str:
        if done == self._first or done >= total:
            return ""
        left = seconds / (done - self._first) * (total - done)
        return f", about {time_text(left)} left"


def time_text(seconds: float) -> str:
    """A length of time as people say it: ``40 s``, ``12 min``, ``3 h 5 min``."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
