"""Reads the audit log, newest first, or on and on as it is written.

Nobody who follows reads beyond the newest id before every transaction has ended that was writing when it was the newest (see
`platform.log_order`). What follows is complete and in order; it is late by as long as a transaction lasts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import asyncpg

from drayman.server.auth.audit import SQL
from drayman.server.platform.log_order import await_writers

#: Events that are read, and sent, at once.
PAGE = 500
#: Seconds between two looks for new events.
_LOOK = 0.5
#: Events that are swept at once.
_PORTION = 5000
_FIRST, _LAST = 0, 2**63 - 1

Row = asyncpg.Record


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events: of a user (as actor or subject), of these actions, refused ones, from `since` on, before `until`. Empty = all."""

    username: str = ""
    actions: Sequence[str] = ()
    refused_only: bool = False
    since: datetime | None = None
    until: datetime | None = None


def statement(wanted: Filter, *, ascending: bool) -> str:
    """Write the statement that reads events: such that the index for the filter is the one that gives their order."""
    end = f"ORDER BY event_id {'ASC' if ascending else 'DESC'} LIMIT $6"
    events = SQL["events"]
    if not wanted.username:
        return f"{events} {'AND refused' if wanted.refused_only else ''} {end}"
    if wanted.refused_only:
        # written so that audit_event_refused does not fit: under attack nearly all of the log is in that
        events += " AND refused::int = 1"
    return f"({events} AND actor = $7 {end}) UNION ALL ({events} AND subject = $7 AND actor <> $7 {end}) {end}"


class AuditStore:
    """The audit log. Rows have the columns of its table."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def events(self, wanted: Filter, limit: int) -> AsyncGenerator[list[Row], None]:
        """Yield pages of at most `limit` events, newest first."""
        low, high = await self._bounds(wanted)
        while limit > 0:
            size = min(limit, PAGE)
            rows = await self._read(wanted, low, high, size, ascending=False)
            if rows:
                yield rows
            if len(rows) < size:
                return
            high, limit = rows[-1]["event_id"], limit - size

    async def after(self, event_id: int, wanted: Filter, limit: int, before: int = _LAST) -> list[Row]:
        """Read at most `limit` events after one and before another, oldest first. What is being written now may be missing."""
        return await self._read(wanted, event_id, before, limit, ascending=True)

    async def follow(
        self, wanted: Filter, pause: Callable[[float], Awaitable[None]]
    ) -> AsyncGenerator[list[Row], None]:
        """Yield pages of events, oldest first, those to come included; without `since` only those.

        Never ends by itself: `pause`, which is given seconds to wait, may raise.
        """
        if wanted.since is None:
            wanted = replace(wanted, since=await self._pool.fetchval(SQL["clock"]))
        line, _ = await self._bounds(wanted)
        while True:
            newest = await self._pool.fetchval(SQL["newest"])
            if newest > line:
                await await_writers(self._pool, "auth.audit_event", pause)
                while rows := await self.after(line, wanted, PAGE, newest + 1):
                    yield rows
                    line = rows[-1]["event_id"]
                line = newest
            await pause(_LOOK)

    async def sweep(self, days: float) -> int:
        """Forget events that are older; returns how many."""
        swept = 0
        while True:
            tag: str = await self._pool.execute(SQL["sweep_events"], timedelta(days=days), _PORTION)
            count = int(tag.removeprefix("DELETE "))
            swept += count
            if count < _PORTION:
                return swept

    async def _bounds(self, wanted: Filter) -> tuple[int, int]:
        """Return two ids between which all events are that the filter's times allow."""
        if wanted.since is None and wanted.until is None:
            return _FIRST, _LAST
        row = await self._pool.fetchrow(SQL["bounds"], wanted.since, wanted.until)
        assert row is not None
        return row["low"], row["high"]

    async def _read(self, wanted: Filter, low: int, high: int, limit: int, *, ascending: bool) -> list[Row]:
        about = [wanted.since, wanted.until, list(wanted.actions) or None, limit]
        user = [wanted.username] if wanted.username else []
        rows: list[Row] = await self._pool.fetch(statement(wanted, ascending=ascending), low, high, *about, *user)
        return rows
