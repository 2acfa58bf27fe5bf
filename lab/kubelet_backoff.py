"""The pauses before something is tried once more: 10 s, doubled each time up to 5 minutes, as a kubelet has them."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST, LONGEST = 10.0, 300.0
"""Seconds."""


class Backoff:
    """The pauses of one thing that fails."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.seconds = 0.0
        """The pause that counts now; none before the first failure."""
        self._last = 0.0

    def holds(self, failed_at: float) -> bool:
        """Whether it has to wait still, if it failed then."""
        if self._expired(failed_at):
            return False
        return self._clock() - failed_at < self.seconds

    def next(self, failed_at: float) -> None:
        """It is tried once more: the next pause is twice as long, or the first one after a long time of peace."""
        self.seconds = FIRST if not self.seconds or self._expired(failed_at) else min(self.seconds * 2, LONGEST)
        self._last = self._clock()

    def _expired(self, failed_at: float) -> bool:
        return failed_at - self._last > 2 * LONGEST
