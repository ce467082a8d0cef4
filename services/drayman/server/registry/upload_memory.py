"""How many bytes of uploads are in memory at a time: who would exceed it waits, and with it the client."""

from __future__ import annotations

import asyncio
from collections import deque


class Memory:
    """So many bytes, for who comes first. What is larger than all of it gets through alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes that are taken."""
        return self._used

    async def take(self, size: int) -> None:
        """Take so many bytes, once they are there."""
        if not self._waiting and self._fits(size):
            self._used += size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(size)
            raise

    def give_back(self, size: int) -> None:
        """Give bytes back."""
        self._used -= size
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():
                if not self._fits(wanted):
                    return
                self._used += wanted
                turn.set_result(None)
            self._waiting.popleft()

    def _fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._size
