"""Reading a log that is written by many, in the order of its ids, without missing a line.

Ids rise with time, but lines become visible when their transactions commit, in any order: whoever asks for "more than the last id that I
saw" misses the line whose transaction took its id early and committed late.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import asyncpg

#: Seconds between two looks at transactions that are waited for.
_GLANCE = 0.02

#: Transactions that have written into a table, or are about to: they lock it before they take an id.
_WRITERS = """
SELECT l.virtualtransaction
FROM pg_locks l JOIN pg_database d ON d.oid = l.database
WHERE d.datname = current_database() AND l.locktype = 'relation' AND l.relation = $1::text::regclass
  AND l.mode = 'RowExclusiveLock' AND l.granted
"""


async def await_writers(pool: asyncpg.Pool, table: str, pause: Callable[[float], Awaitable[None]]) -> None:
    """Return when all transactions have ended that are writing into a table now: no id up to the newest will become visible any more.

    `pause` is given seconds to wait, and may raise.
    """
    writing = await _writers(pool, table)
    while writing:
        await pause(_GLANCE)
        writing &= await _writers(pool, table)


async def _writers(pool: asyncpg.Pool, table: str) -> set[str]:
    return {row["virtualtransaction"] for row in await pool.fetch(_WRITERS, table)}
