"""Waiting for a service that is away."""

from __future__ import annotations

import asyncio
import random
import time

from drayman.client.errors import DraymanError

_LONGEST_PAUSE = 5.0


class Patience:
    """How long to wait for a service that is away: `seconds` in a row, and not beyond `end` (on the monotonic clock)."""

    def __init__(self, seconds: float, end: float | None = None) -> None:
        self.seconds = seconds
        self._end = end
        self.renew()

    def renew(self) -> None:
        """The service answers again."""
        self._since: float | None = None
        self._next = 0.2

    async def pause(self, error: DraymanError) -> None:
        """Wait a little before the next try, or raise the error if it has been long enough."""
        now = time.monotonic()
        self._since = self._since or now
        if now - self._since > self.seconds or (self._end is not None and now > self._end):
            raise error
        wait = random.uniform(self._next / 2, self._next)  # noqa: S311 - spreads a fleet
        self._next = min(self._next * 1.5, _LONGEST_PAUSE)
        await asyncio.sleep(max(wait, error.retry_after or 0.0))
