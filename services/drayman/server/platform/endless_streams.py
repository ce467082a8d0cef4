"""Streams that never end by themselves, in a process that does."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from drayman.server.platform.errors import Refusal
from drayman.server.platform.lifecycle import Part


class EndlessStreams(Part):
    """Base of servicers with such streams: who follows one is told when the process drains, and goes on elsewhere."""

    def __init__(self) -> None:
        self._draining = asyncio.Event()

    async def drain(self) -> None:
        """End the streams."""
        self._draining.set()

    async def _pause(self, seconds: float) -> None:
        """Wait. Raises Refusal (UNAVAILABLE) as soon as the process drains."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._draining.wait()
        if self._draining.is_set():
            raise Refusal("UNAVAILABLE", "the service is shutting down", retry_after=0.1)
