"""What people write by hand: a table of files, one statement to reserve a row with SKIP LOCKED, one to finish it.

The favourable form of it: one round trip and one transaction each, prepared, with a partial index over what is ready. No history, no
counters, no leases, no logins, and no service between: connections go straight to PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from fleet import Desk, Outcome, Work

_TABLE = """
CREATE SCHEMA IF NOT EXISTS row_at_a_time;
CREATE TABLE IF NOT EXISTS row_at_a_time.file (
    file_id     bigint PRIMARY KEY,
    namespace   text NOT NULL,
    name        text NOT NULL,
    attributes  text NOT NULL DEFAULT '{}',
    state       text NOT NULL DEFAULT 'initial',
    attempts    int NOT NULL DEFAULT 0,
    worker_id   text,
    reserved_at timestamptz,
    ended_at    timestamptz
);
CREATE INDEX IF NOT EXISTS file_ready ON row_at_a_time.file (file_id) WHERE state = 'initial';
TRUNCATE row_at_a_time.file;
"""

_FILL = """
INSERT INTO row_at_a_time.file (file_id, namespace, name)
SELECT n, 'bench', format('file-%s.root', lpad(n::text, 7, '0')) FROM generate_series(1, $1::bigint) n
"""

_RESERVE = """
UPDATE row_at_a_time.file
   SET state = 'reserved', attempts = attempts + 1, worker_id = $1, reserved_at = now()
 WHERE file_id = (SELECT file_id FROM row_at_a_time.file WHERE state = 'initial'
                   ORDER BY file_id FOR UPDATE SKIP LOCKED LIMIT 1)
RETURNING file_id, namespace, name, attributes, attempts, reserved_at
"""

_FINISH = """
UPDATE row_at_a_time.file
   SET state = 'done', ended_at = now()
 WHERE file_id = $1 AND state = 'reserved' AND worker_id = $2 AND attempts = $3
"""


def fill(dsn: str, files: int) -> None:
    """Make the table anew with so many files."""
    asyncio.run(_fill(dsn, files))


async def _fill(dsn: str, files: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_TABLE)
        await connection.execute(_FILL, files)
        await connection.execute("VACUUM ANALYZE row_at_a_time.file")
    finally:
        await connection.close()


@dataclass(frozen=True)
class RowAtATime:
    """Reserve and finish `files` files over `connections` connections, each doing one thing at a time."""

    dsn: str
    client: int
    files: int
    connections: int

    @asynccontextmanager
    async def ready(self, _desk: Desk) -> AsyncIterator[Work]:
        connections = [await asyncpg.connect(self.dsn) for _ in range(self.connections)]

        async def work() -> Outcome:
            files = iter(range(self.files))
            await asyncio.gather(
                *(self._worker(connection, number, files) for number, connection in enumerate(connections))
            )
            return Outcome(self.files)

        try:
            yield work
        finally:
            for connection in connections:
                await connection.close()

    async def _worker(self, connection: asyncpg.Connection, number: int, files: Iterator[int]) -> None:
        name = f"bench-{self.client}-{number}"
        reserve = await connection.prepare(_RESERVE)
        finish = await connection.prepare(_FINISH)
        for _ in files:
            row = await reserve.fetchrow(name)
            if row is None:
                raise RuntimeError("expected a file, got none")
            await finish.fetch(row["file_id"], name, row["attempts"])
