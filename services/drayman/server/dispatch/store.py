"""Dispatch's statements, run. The hot ones on connections of their own, whose plans are pinned."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import date, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from drayman.server.dispatch.allotment import Group, Stock
from drayman.server.dispatch.lifecycle import Outcome, ProjectState
from drayman.server.dispatch.partitions import keep_partitions
from drayman.server.dispatch.search_sql import Condition
from drayman.server.dispatch.standing import Standing, Why
from drayman.server.dispatch.storage_map import StorageMap
from drayman.server.platform.database import load_queries

HERE = Path(__file__).parent
SQL = load_queries(HERE / "queries.sql")

_SEARCHES_AT_ONCE = 3
#: Draws and reports that are under way when a limit is set may take so many milliseconds; while they do, new ones wait.
_LONGEST_HALT = 500
#: Seconds until it is tried again.
_PAUSE = 1.0

Row = asyncpg.Record
#: For whom a handle is drawn: worker id, request id, CPU site, and the RSE it will be read from if that has a limit.
Draw = tuple[str, UUID | None, str, int | None]
#: A place in the history: when, and which row of that instant.
Moment = tuple[datetime, tuple[int, int]]
#: A report: handle id, attempt or 0, delivery or 0, worker id, outcome, request id, code, message.
Said = tuple[int, int, int, str, Outcome, UUID | None, str, str]


def search_statement(condition: Condition, limit: int) -> str:
    """Write the statement that finds projects. Parameters: after, owner, state, those of the condition."""
    return f"{SQL['projects']}\n{SQL['projects_found']}\nAND {condition.text} ORDER BY p.project_id LIMIT {limit:d}"


class Store:
    """The tables of dispatch. Methods return rows as the statement of the same name in queries.sql gives them."""

    def __init__(self, pool: asyncpg.Pool, hot: asyncpg.Pool, search_seconds: float = 10.0) -> None:
        self._pool = pool
        self._hot = hot
        self._search_seconds = search_seconds
        # whoever searches without an index must not hold every connection
        self._searches = asyncio.Semaphore(_SEARCHES_AT_ONCE)

    # --- the worker's path -------------------------------------------------------------------------------------------

    async def draw(self, project_id: int, draws: Mapping[Group, Sequence[Draw]], limited: Collection[int]) -> list[Row]:
        """Reserve for the wishes, as allotted. A row's `place` counts from 1 through all groups in their order.

        `limited` are the RSEs known to have a limit. No rows at all: there are more of them, or the project is not active.
        """
        takes = [len(wishes) for wishes in draws.values()]
        everybody = [draw for wishes in draws.values() for draw in wishes]
        return await self._hot.fetch(
            SQL["draw"],
            project_id,
            [group.attempts for group in draws],
            [group.location_id for group in draws],
            takes,
            [end - take for end, take in zip(accumulate(takes), takes, strict=True)],
            [draw[0] for draw in everybody],
            [draw[1] for draw in everybody],
            [draw[2] for draw in everybody],
            rses if any(rses := [draw[3] for draw in everybody]) else [],
            list(limited),
        )

    async def settle(self, project_id: int, said: Sequence[Said]) -> list[Row]:
        """Apply reports."""
        return await self._hot.fetch(SQL["settle"], project_id, *map(list, zip(*said, strict=True)))

    async def standing_of_handles(self, project_id: int, handle_ids: Sequence[int]) -> dict[int, Row]:
        """Say how handles stand, by id."""
        rows = await self._hot.fetch(SQL["standing"], project_id, list(handle_ids))
        return {row["handle_id"]: row for row in rows}

    async def redeliver(self, project_id: int, worker_id: str, request_id: UUID) -> list[Row]:
        """Hand out once more what a request got."""
        return await self._hot.fetch(SQL["redeliver"], project_id, worker_id, request_id)

    async def held(self, project_id: int, worker_id: str, session_id: UUID) -> list[Row]:
        """List what a worker's session holds."""
        return await self._hot.fetch(SQL["held"], project_id, worker_id, session_id)

    async def oldest_lease(self, project_id: int) -> Row | None:
        """Find the oldest reservation of a project."""
        return await self._hot.fetchrow(SQL["oldest_lease"], project_id)

    async def renew(self, project_id: int, worker_id: str, leases: Sequence[tuple[int, int]]) -> list[Row]:
        """Extend leases given as (handle id, attempt)."""
        handle_ids, attempts = [lease[0] for lease in leases], [lease[1] for lease in leases]
        return await self._hot.fetch(SQL["renew"], project_id, worker_id, handle_ids, attempts)

    async def find_handles(self, project_id: int, dids: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """Find the handle ids of DIDs; unknown ones are missing."""
        rows = await self._hot.fetch(SQL["find_handles"], project_id, [d[0] for d in dids], [d[1] for d in dids])
        return {dids[row["place"] - 1]: row["handle_id"] for row in rows}

    async def readable_replicas(self, project_id: int, handle_ids: Sequence[int]) -> list[Row]:
        """Replicas that can be read now."""
        return await self._hot.fetch(SQL["readable_replicas"], project_id, list(handle_ids))

    async def standing(self, project_id: int) -> Standing | None:
        """Read a project as the reserver remembers it."""
        row = await self._hot.fetchrow(SQL["standings"], project_id)
        if row is None:
            return None
        groups = await self._hot.fetch(SQL["groups"], project_id)
        return Standing(
            project_id,
            row["owner"],
            ProjectState(row["state"]),
            row["attributes"],
            row["virtual"],
            row["retry_on_timeout"],
            row["worker_timeout"],
            frozenset(row["users"]),
            frozenset(row["roles"]),
            row["files"],
            row["done"],
            row["failed"],
            row["open"],
            row["max_attempts"],
            row["max_running"],
            Why(row["reason_code"] or "", row["reason_message"] or "", row["reason_username"] or "", row["reason_at"])
            if row["reason_at"]
            else None,
            {Group(g["attempts"], g["location_id"]): Stock(g["ready"], g["low"]) for g in groups},
        )

    async def recount_group(self, project_id: int, group: Group) -> None:
        """Mend a group's count and bound."""
        await self._hot.execute(SQL["recount_group"], project_id, group.attempts, group.location_id)

    # --- time --------------------------------------------------------------------------------------------------------

    async def due_leases(self) -> list[Row]:
        """List leases that have run out."""
        return await self._hot.fetch(SQL["due_leases"])

    async def next_lease(self) -> float | None:
        """Seconds until the next lease runs out."""
        seconds: float | None = await self._hot.fetchval(SQL["next_lease"])
        return seconds

    async def idle_projects(self) -> list[Row]:
        """Active projects by the seconds they have left until they are abandoned."""
        return await self._pool.fetch(SQL["idle_projects"])

    async def abandon(self, project_id: int) -> bool:
        """Abandon a project if it is still idle."""
        return await self._pool.fetchval(SQL["abandon"], project_id) is not None

    async def keep_partitions(self, weeks: Sequence[date], oldest: date) -> None:
        """Have a partition of the history for each of the weeks (named by its first day), and none that ended before `oldest`."""
        ended = await keep_partitions(self._pool, weeks, oldest)
        if ended is not None:
            await self._pool.execute(SQL["delete_project_events"], ended)

    # --- projects ----------------------------------------------------------------------------------------------------

    async def projects(
        self,
        *,
        project_id: int | None = None,
        owner: str | None = None,
        state: str | None = None,
        not_state: str | None = None,
        facts: str | None = None,
        after: int = 0,
        limit: int = 1,
    ) -> list[Row]:
        """Projects by ascending id."""
        statement = f"{SQL['projects']}\n{SQL['projects_listed']}"
        return await self._pool.fetch(statement, after, project_id, owner, state, not_state, facts, limit)

    async def search_projects(
        self, condition: Condition, owner: str | None, state: str | None, after: int, limit: int
    ) -> list[Row]:
        """Projects by ascending id that meet a condition, whose parameters count from 4."""
        statement = search_statement(condition, limit)
        async with self._searches, self._pool.acquire() as connection, connection.transaction(readonly=True):
            await connection.execute(f"SET LOCAL statement_timeout = {round(self._search_seconds * 1000):d}")
            if condition.expressions:
                await connection.execute(SQL["read_expressions"], condition.expressions)
            return await connection.fetch(statement, after, owner, state, *condition.parameters)

    async def handles(
        self,
        project_id: int,
        after: int,
        state: str | None,
        not_state: str | None,
        limit: int,
        reason_code: str | None = None,
    ) -> list[Row]:
        """Handles in creation order."""
        return await self._hot.fetch(SQL["handles"], project_id, after, state, not_state, limit, reason_code)

    async def handles_by_id(self, project_id: int, handle_ids: Sequence[int]) -> list[Row]:
        """These handles."""
        return await self._hot.fetch(SQL["handles_by_id"], project_id, list(handle_ids))

    async def reserved_handles(self, project_id: int, worker_id: str | None) -> list[Row]:
        """Handles reserved now."""
        return await self._hot.fetch(SQL["reserved_handles"], project_id, worker_id)

    async def replicas_of(self, dids: Sequence[tuple[str, str]]) -> list[Row]:
        """All replicas of files."""
        return await self._hot.fetch(SQL["replicas_of"], [d[0] for d in dids], [d[1] for d in dids])

    async def cancel(self, project_id: int, username: str, code: str, message: str) -> None:
        """Cancel; twice is once."""
        async with self.transaction() as connection:
            await connection.execute(SQL["lock_tally"], [project_id])
            if await connection.fetchval(SQL["cancel"], project_id, code, message, username):
                data = json.dumps({name: text for name, text in (("code", code), ("message", message)) if text})
                await connection.execute(SQL["log_project"], project_id, "cancel", "cancelled", username, data)

    async def activate(self, project_id: int, username: str | None) -> None:
        """Make active again."""
        async with self.transaction() as connection:
            await connection.execute(SQL["lock_tally"], [project_id])
            state = await connection.fetchval(SQL["activate"], project_id)
            if state is not None:
                await connection.execute(SQL["touch"], project_id)
                await connection.execute(SQL["log_project"], project_id, "activate", state, username, "{}")

    async def restart(
        self, project_id: int, states: Sequence[str], handle_ids: Sequence[int] | None, username: str
    ) -> int:
        """Put handles back; returns how many changed."""
        takes_back = "reserved" in states or handle_ids is not None
        async with self.transaction() as connection:
            if takes_back:
                await connection.execute(SQL["touch_rses"])
            await connection.execute(SQL["lock_tally"], [project_id])
            await connection.execute(SQL["lock_groups"], [project_id])
            if takes_back:
                await connection.execute(SQL["leave_rses"], project_id, handle_ids)
            restarted: int = await connection.fetchval(SQL["restart"], project_id, list(states), handle_ids)
            if restarted:
                await connection.execute(SQL["reopen"], project_id)
                state = await connection.fetchval(
                    "SELECT state::text FROM dispatch.project WHERE project_id = $1", project_id
                )
                data = f'{{"handles_reset": {restarted}}}'
                await connection.execute(SQL["log_project"], project_id, "restart", state, username, data)
        return restarted

    async def delete_project(self, project_id: int) -> bool:
        """Remove the project itself; its files go by `delete_remnant`."""
        async with self.transaction() as connection:
            await connection.execute(SQL["touch_rses"])
            # as everybody who changes a project: first the tally
            await connection.execute(SQL["lock_tally"], [project_id])
            await connection.execute(SQL["lock_project"], project_id)  # what is just being drawn has to leave as well
            await connection.execute(SQL["leave_rses"], project_id, None)
            return await connection.fetchval(SQL["delete_project"], project_id) is not None

    async def remnants(self) -> list[Row]:
        """Projects that are gone while files of theirs are left, and their last handle id."""
        return await self._pool.fetch(SQL["remnants"])

    async def delete_remnant(self, project_id: int, last: int) -> None:
        """Remove what is left of a project that is gone, a hundred thousand files at a time; files last, so that it can be resumed."""
        for upto in range(last, 0, -100_000):
            for table in ("handles", "history", "files"):
                await self._hot.execute(SQL[f"delete_{table}"], project_id, upto)

    # --- history -----------------------------------------------------------------------------------------------------

    async def project_exists(self, project_id: int) -> bool:
        """Whether there is such a project."""
        return await self._pool.fetchval(SQL["project_exists"], project_id) is not None

    async def project_events(self, project_id: int, after: Moment, limit: int) -> list[Row]:
        """Read a page of a project's own history."""
        return await self._pool.fetch(SQL["project_events"], project_id, *after, limit)

    async def handle_batches(
        self, project_id: int, after: Moment, batches: int, handles: int, event: str | None, code: str | None
    ) -> list[Row]:
        """Read a page of the history of a project's handles, batch by batch."""
        return await self._hot.fetch(SQL["handle_batches"], project_id, *after, batches, handles, event, code)

    async def events_of_handle(
        self, project_id: int, handle_id: int, after: Moment, event: str | None, code: str | None, limit: int
    ) -> list[Row]:
        """Read a page of one handle's history."""
        return await self._hot.fetch(SQL["events_of_handle"], project_id, handle_id, *after, event, code, limit)

    async def names_of_handles(self, project_id: int, handle_ids: Sequence[int]) -> dict[int, Row]:
        """Find the DIDs of handles, by id."""
        rows = await self._hot.fetch(SQL["names_of_handles"], project_id, list(handle_ids))
        return {row["handle_id"]: row for row in rows}

    async def names_between(self, project_id: int, after: int, last: int, limit: int) -> list[Row]:
        """Find the DIDs of the handles after one up to another, in creation order."""
        return await self._hot.fetch(SQL["names_between"], project_id, after, last, limit)

    # --- storage -----------------------------------------------------------------------------------------------------

    async def storage_map(self) -> StorageMap:
        """Read what the reserver keeps in memory of the storage."""
        locations = await self._pool.fetch(SQL["locations"])
        rses = await self._pool.fetch(SQL["map_of_storage"])  # after the locations: those have RSEs that are known
        proximities: dict[str, dict[str, int]] = {}
        for row in await self.proximities(None):
            proximities.setdefault(row["cpu_site"], {})[row["rse"]] = row["proximity"]
        return StorageMap(
            {row["rse_id"]: row["name"] for row in rses if row["usable"]},
            {row["location_id"]: tuple(row["rse_ids"]) for row in locations},
            proximities,
            {row["rse_id"]: row["name"] for row in rses if not row["usable"]},
            frozenset(row["rse_id"] for row in rses if row["is_enabled"] and not row["usable"]),
            frozenset(row["rse_id"] for row in rses if row["max_running"] is not None),
        )

    async def rses(self, name: str | None) -> list[Row]:
        """All RSEs, or one."""
        return await self._pool.fetch(SQL["rses"], name)

    async def insert_rse(self, *fields: Any) -> Row | None:
        """Create an RSE; None if the name is taken."""
        async with self.transaction() as connection:
            row: Row | None = await connection.fetchrow(SQL["insert_rse"], *fields)
            if row is not None and row["max_running"] is not None:
                await connection.execute(SQL["count_load"], row["rse_id"])
        return row

    async def update_rse(self, *fields: Any) -> Row | None:
        """Change an RSE; None if there is none. A limit is in force when this returns."""
        while True:
            with suppress(asyncpg.LockNotAvailableError):
                async with self.transaction() as connection:
                    row: Row | None = await connection.fetchrow(SQL["update_rse"], *fields)
                    if row is not None and fields[-1] is not None:
                        await _limit(connection, row)
                return row
            await asyncio.sleep(_PAUSE)

    async def delete_rse(self, name: str) -> int | None:
        """Remove an RSE; returns the number of its replicas, None if there is no such RSE."""
        replicas: int | None = await self._pool.fetchval(SQL["delete_rse"], name)
        return replicas

    async def unknown_rses(self, names: Sequence[str]) -> list[str]:
        """Those of the names that no RSE has."""
        known = {
            row["name"]
            for row in await self._pool.fetch("SELECT name FROM dispatch.rse WHERE name = ANY ($1)", list(names))
        }
        return [name for name in names if name not in known]

    async def full_rses(self) -> frozenset[int]:
        """RSEs at which as many files are reserved as may be."""
        return frozenset(row["rse_id"] for row in await self._hot.fetch(SQL["full_rses"]))

    async def proximities(self, cpu_site: str | None) -> list[Row]:
        """Entries of the proximity map."""
        return await self._pool.fetch(SQL["proximities"], cpu_site)

    async def change_proximities(
        self, upserts: Sequence[tuple[str, str, int]], deletes: Sequence[tuple[str, str]]
    ) -> None:
        """Set and remove entries of the proximity map."""
        async with self.transaction() as connection:
            if deletes:
                await connection.execute(SQL["delete_proximities"], *map(list, zip(*deletes, strict=True)))
            if upserts:
                await connection.execute(SQL["upsert_proximities"], *map(list, zip(*upserts, strict=True)))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """Run several statements as one."""
        async with self._pool.acquire() as connection, connection.transaction():
            yield connection


async def _limit(connection: Any, rse: Row) -> None:
    """Begin, or cease, to count what is reserved at an RSE whose limit was changed, with nothing under way that does not know it.

    Raises LockNotAvailableError if something takes its time: the restart of a large project, say. Everybody else must not wait for that.
    """
    if rse["max_running"] is None:
        await connection.execute(SQL["end_count"], rse["rse_id"])
        return
    await connection.execute(f"SET LOCAL lock_timeout = {_LONGEST_HALT:d}")
    await connection.execute(SQL["begin_count"])
    await connection.execute(SQL["count_load"], rse["rse_id"])
