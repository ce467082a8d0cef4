"""Lets batches fill up under load, and only under load."""

from __future__ import annotations

import asyncio

#: Seconds from the start of one batch to that of the next, at least, while batches have company.
_PACE = 0.007


class Gathering:
    """Paces the batches of one project.

    A statement for five wishes costs nearly what one for twenty does. A loaded service that begins the next one the moment the last is on
    disk spends its time on statements, so it waits a moment; a wish that comes alone never waits.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._company = False

    async def gather(self) -> None:
        """Return when the next batch may begin: at once, unless the last one had company and began just now."""
        if self._company:
            left = self._began + _PACE - asyncio.get_running_loop().time()
            if left > 0:
                await asyncio.sleep(left)

    def begins(self, size: int) -> None:
        """Take note of a batch."""
        self._began = asyncio.get_running_loop().time()
        self._company = size > 1
