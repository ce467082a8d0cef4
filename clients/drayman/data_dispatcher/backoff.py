"""When to try again: after random times that grow, until a budget is used up.

Data Dispatcher, section 1.4 of its behaviour.
"""

from __future__ import annotations

import random
import time


class Backoff:
    """The pauses of one call. `budget` is in seconds from the first failure; 0 = no second try."""

    def __init__(self, budget: float, first: float, growth: float) -> None:
        self._budget = budget
        self._interval = first
        self._growth = growth
        self._end: float | None = None

    def pause(self, at_least: float | None = None) -> bool:
        """Sleep before the next try; False = the budget is used up. `at_least` is what the service asks for, in seconds."""
        now = time.monotonic()
        if self._end is None:
            self._end = now + self._budget
        left = self._end - now
        if left <= 0:
            return False
        # Thousands of workers lose the same server at the same moment: they must not come back together.
        wait = (at_least or 0.0) + random.uniform(0.0, self._interval)  # noqa: S311 - no secret
        self._interval *= self._growth
        time.sleep(min(wait, left))
        return True

    def succeeded(self, first: float) -> None:
        """Something was heard: the next failure begins anew."""
        self._interval = first
        self._end = None
