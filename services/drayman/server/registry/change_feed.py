"""Reads what changed, oldest first, or on and on.

Nobody who follows reads beyond the newest id before every transaction has ended that was writing when it was the newest (see
`platform.log_order`). What follows is complete and in order; it is late by as long as a transaction lasts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from datetime import datetime

import asyncpg

from drayman.server.platform.database import load_queries
from drayman.server.platform.log_order import await_writers
from drayman.server.registry.records import Change
from drayman.server.registry.store import HERE

SQL = load_queries(HERE / "change_queries.sql")

#: Changes that are read, and sent, at once.
PAGE = 500
#: Seconds between two looks for new changes that nobody told of.
_LOOK = 1.0
_LAST = 2**63 - 1


class ChangeFeed:
    """The log of changes."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        """Open the pool with `hot=True`."""
        self._pool = pool
        self._followers: set[asyncio.Event] = set()

    def hear(self, _word: str = "") -> None:
        """Let all who follow look now: something changed. For `WakeupBus.subscribe`, and for `changed` of the stores."""
        for follower in self._followers:
            follower.set()

    async def changes(self, after: int, since: datetime | None, project: str) -> AsyncGenerator[list[Change], None]:
        """Yield pages of changes that are there: those after an id, since a time, of a project ("" = of all)."""
        line = max(after, await self._start(since))
        while page := await self._read(line, _LAST, since, project):
            yield page
            line = page[-1].change_id

    async def follow(
        self, after: int, since: datetime | None, project: str, pause: Callable[[float], Awaitable[None]]
    ) -> AsyncGenerator[list[Change], None]:
        """Yield pages of changes, those to come included. Never ends by itself: `pause`, given seconds to wait, may raise."""
        line = max(after, await self._start(since))
        news = asyncio.Event()
        self._followers.add(news)
        try:
            while True:
                news.clear()
                newest = await self._pool.fetchval(SQL["newest"])
                if newest > line:
                    await await_writers(self._pool, "registry.change", pause)
                    while page := await self._read(line, newest + 1, since, project):
                        yield page
                        line = page[-1].change_id
                    line = newest
                await _first(news.wait(), pause(_LOOK))
        finally:
            self._followers.discard(news)

    async def _start(self, since: datetime | None) -> int:
        return 0 if since is None else int(await self._pool.fetchval(SQL["first_since"], since))

    async def _read(self, after: int, before: int, since: datetime | None, project: str) -> list[Change]:
        statement, of = ("changes_of_project", [project]) if project else ("changes", [])
        if "\x00" in project:
            return []
        return [Change(**row) for row in await self._pool.fetch(SQL[statement], after, before, since, PAGE, *of)]


async def _first(*waits: Awaitable[object]) -> None:
    """Return when the first of them does; raises what it raises."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
