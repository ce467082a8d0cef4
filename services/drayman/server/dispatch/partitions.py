"""The weekly partitions of the history: made ahead and dropped without stopping those who write it.

`CREATE TABLE ... PARTITION OF` and dropping a partition lock the whole history against everybody: behind a transaction that wrote a long
list they would queue, and every draw and report behind them. Attaching and detaching lock it against each other only.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import asyncpg

_WEEK = timedelta(days=7)
_ONE_AT_A_TIME = "hashtext('dispatch.handle_log')"
_PARTITIONS = """
SELECT c.relname AS name, i.inhdetachpending AS leaving
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'dispatch.handle_log'::regclass
"""


async def keep_partitions(pool: asyncpg.Pool, weeks: Sequence[date], oldest: date) -> datetime | None:
    """Have a partition for each of the weeks (named by its first day), and none that ended before `oldest`.

    Returns the end of the latest one that was dropped. Of several replicas one does it; the others leave it at that.
    """
    async with pool.acquire() as connection:
        if not await connection.fetchval(f"SELECT pg_try_advisory_lock({_ONE_AT_A_TIME})"):
            # at a start it is waited for: without a partition nothing could be written
            async with connection.transaction():
                await connection.execute(f"SELECT pg_advisory_xact_lock({_ONE_AT_A_TIME})")
            return None
        try:
            rows = await connection.fetch(_PARTITIONS)
            for week in weeks:
                if _name(week) not in {row["name"] for row in rows}:
                    await _attach(connection, week)
            ended = [row for row in rows if _end(row["name"]) <= oldest]
            for row in ended:
                how = "FINALIZE" if row["leaving"] else "CONCURRENTLY"  # somebody was interrupted in the middle
                await connection.execute(
                    f"ALTER TABLE dispatch.handle_log DETACH PARTITION dispatch.{row['name']} {how}"
                )
                await connection.execute(f"DROP TABLE dispatch.{row['name']}")
        finally:
            await connection.execute(f"SELECT pg_advisory_unlock({_ONE_AT_A_TIME})")
    latest = max((_end(row["name"]) for row in ended), default=None)
    return datetime.combine(latest, datetime.min.time(), UTC) if latest else None


async def _attach(connection: asyncpg.pool.PoolConnectionProxy, week: date) -> None:
    name = _name(week)
    async with connection.transaction():
        # what an interrupted attempt left, or a detached one of the same week, is not the history any more
        await connection.execute(f"DROP TABLE IF EXISTS dispatch.{name}")
        await connection.execute(f"CREATE TABLE dispatch.{name} (LIKE dispatch.handle_log INCLUDING ALL)")
        await connection.execute(
            f"ALTER TABLE dispatch.handle_log ATTACH PARTITION dispatch.{name} "
            f"FOR VALUES FROM ('{week}+00') TO ('{week + _WEEK}+00')"
        )


def _name(week: date) -> str:
    return f"handle_log_{week:%Y%m%d}"


def _end(name: str) -> date:
    return datetime.strptime(name[-8:], "%Y%m%d").date() + _WEEK  # noqa: DTZ007 - a date
