"""The tables of tasks: transactions, and the statements that several parts run. See `task_queries.sql`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

from drayman.server.platform.database import load_queries
from drayman.server.task.task_states import FINAL, TaskState

HERE = Path(__file__).parent
SQL = load_queries(HERE / "task_queries.sql")

Row = asyncpg.Record
Connection = Any

#: What hand-outs may draw from.
_OPEN = frozenset({TaskState.SCOUTING, TaskState.RUNNING})
_NEWEST = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which tasks somebody wants to see; None = any."""

    owner: str | None = None
    states: Sequence[str] | None = None
    name: str | None = None  # `*` stands for anything
    task_ids: Sequence[int] | None = None
    request_no: int | None = None
    after: int = 0
    changed_since: datetime | None = None
    type: str | None = None
    parent_id: int | None = None


class TaskStore:
    """Tasks in the database, over connections whose plans are pinned. What changes something takes the connection of a transaction."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Run several statements as one."""
        async with self._pool.acquire() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Have a connection to oneself, for something that lasts longer than a transaction."""
        async with self._pool.acquire() as connection:
            yield connection

    # --- looking -----------------------------------------------------------------------------------------------------

    async def task(self, task_id: int) -> Row | None:
        """Read a task and its tally."""
        return await self._pool.fetchrow(f"{SQL['task']} {SQL['one_task']}", task_id)

    async def fetch(self, statement: str, *values: Any) -> list[Row]:
        """Run a statement that only reads."""
        return await self._pool.fetch(SQL[statement], *values)

    async def fetchrow(self, statement: str, *values: Any) -> Row | None:
        """Run a statement that only reads, for its first row."""
        return await self._pool.fetchrow(SQL[statement], *values)

    async def fetchval(self, statement: str, *values: Any) -> Any:
        """Run a statement that only reads, for a single value."""
        return await self._pool.fetchval(SQL[statement], *values)

    async def tasks(self, selection: Selection, *, before: int | None, limit: int) -> list[Row]:
        """Tasks by descending id, those with an id below `before`."""
        name = None if selection.name is None else _pattern(selection.name)
        return await self._pool.fetch(
            f"{SQL['task']} {SQL['listed_tasks']}",
            selection.owner,
            selection.states,
            name,
            selection.task_ids,
            selection.request_no,
            selection.after,
            selection.changed_since,
            selection.type,
            selection.parent_id,
            _NEWEST if before is None else before,
            limit,
        )

    # --- attention ---------------------------------------------------------------------------------------------------

    async def claim(self, busy: Sequence[int], most: int) -> list[tuple[int, datetime]]:
        """Take tasks that have to be looked after."""
        async with self.transaction() as connection:
            rows = await connection.fetch(SQL["claim"], list(busy), most)
        return [(row["task_id"], row["attend_at"]) for row in rows]

    async def claim_on(self, task_id: int) -> datetime | None:
        """Keep a task that is being looked after for a while longer; None = it is gone."""
        async with self.transaction() as connection:
            found: datetime | None = await connection.fetchval(SQL["claim_on"], task_id)
        return found

    async def release(self, task_id: int, claimed: datetime, seconds: float | None) -> None:
        """Leave a task alone for so many seconds, or until something happens."""
        async with self.transaction() as connection:
            await connection.execute(SQL["release"], task_id, claimed, seconds)

    async def next_due(self) -> float | None:
        """Seconds until a task has to be looked after."""
        seconds: float | None = await self._pool.fetchval(SQL["next_due"])
        return seconds

    # --- changing ----------------------------------------------------------------------------------------------------

    async def lock(self, connection: Connection, task_id: int) -> Row | None:
        """Lock a task: until the end of the transaction nobody else changes its state. None = there is none."""
        row: Row | None = await connection.fetchrow(f"{SQL['task']} {SQL['one_task']} {SQL['locked_task']}", task_id)
        return row

    async def move(
        self,
        connection: Connection,
        task: Row,
        state: TaskState,
        *,
        old_state: TaskState | None = None,
        error: str | None = None,
        command: str | None = None,
        attend: bool = True,
    ) -> None:
        """Bring a locked task to a state. `error` None leaves the old text. `command` is the one that is being carried out from now on.

        Somebody will look after it at once; its jobs are handed out, or not, from the commit on; children learn of an end.
        """
        await connection.execute(
            SQL["move"], task["task_id"], state, old_state, _storable(error), command, state in FINAL
        )
        if attend:
            await connection.execute(SQL["attend"], [task["task_id"]])
        if state in FINAL:
            await connection.execute(SQL["attend_children"], task["task_id"])
        await connection.execute(SQL["set_lots"], task["task_id"], state in _OPEN)

    async def pend(self, connection: Connection, task: Row, old_state: TaskState, error: str) -> None:
        """Let a task wait before it goes on from `old_state`. One that waits goes on waiting."""
        await self.move(
            connection,
            task,
            TaskState.PENDING,
            old_state=old_state,
            error=error,
            command=task["command"],
            attend=False,
        )

    async def live_chunk(
        self, connection: Connection, task_id: int, *, held: bool, after: int, limit: int
    ) -> list[Row]:
        """Lock jobs that are not over, in the order of their ids; those that workers have only if `held`."""
        rows: list[Row] = await connection.fetch(SQL["live_chunk"], task_id, held, after, limit)
        return rows

    async def order(self, connection: Connection, job_ids: Sequence[int], why: str) -> list[int]:
        """Give the workers of jobs the order to stop; returns the jobs that had none before."""
        rows = await connection.fetch(SQL["order_jobs"], list(job_ids), why) if job_ids else []
        return [row["job_id"] for row in rows]

    async def run(self, connection: Connection, statement: str, *values: Any) -> Any:
        """Run a statement in a transaction; returns the first value of its first row, if any."""
        return await connection.fetchval(SQL[statement], *values)


def _pattern(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")


def _storable(text: str | None) -> str | None:
    return None if text is None else text.replace("\0", "�").encode(errors="replace").decode()
