"""How fast a project gets through its files, and when it will be through. Pure."""

from __future__ import annotations

from collections import deque

#: Seconds over which the rate is taken.
WINDOW = 60.0
#: What would take longer than this many seconds has no end that is worth telling.
_NEVER = 10 * 365 * 86400.0


class Rate:
    """Handles over per second, over a sliding minute. Handles that are put back do not count against it."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self._over = 0
        self._progress = 0

    def note(self, at: float, over: int) -> None:
        """Take note of how many handles are over at a time in seconds, which never goes back."""
        if self._samples:
            self._progress += max(over - self._over, 0)
        self._over = over
        self._samples.append((at, self._progress))
        # the last sample that is a minute old stays: it says where the minute began
        while len(self._samples) > 1 and self._samples[1][0] <= at - WINDOW:
            self._samples.popleft()

    @property
    def per_second(self) -> float:
        """The rate as of the last note; 0 before the second one."""
        if not self._samples:
            return 0.0
        (begin, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / (end - begin) if end > begin else 0.0


def seconds_left(remaining: int, per_second: float) -> float | None:
    """Seconds until the remaining handles are over at a rate; None if nothing moves, nothing remains, or nobody will live to see it."""
    if remaining <= 0 or per_second <= 0 or remaining > per_second * _NEVER:
        return None
    return remaining / per_second
