"""Adds files to a project that is being worked on: all of them or nothing, and nobody waits for the list to arrive.

The files are staged where only this transaction sees them. What stops reports and draws (the counts, the groups) is locked at the very
end, for the moment it takes to count the new handles in.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from drayman.dispatch.v1 import project_service_pb2 as pb
from drayman.server.dispatch.creation import FileIntake, duplicate, duplicate_did, make_handles
from drayman.server.dispatch.store import SQL
from drayman.server.platform.errors import Refusal


class Added(NamedTuple):
    """How many files were added, and how many left out because the project had them."""

    added: int
    skipped: int


class _AddedMeanwhileError(Exception):
    """Another call of the same request was faster."""


class Grower:
    """Adds streamed files to projects."""

    def __init__(self, pool: asyncpg.Pool, ordinary: asyncpg.Pool) -> None:
        self._pool = pool
        self._ordinary = ordinary

    async def add(
        self,
        begin: pb.BeginAddFiles,
        request_id: UUID | None,
        username: str,
        requests: AsyncIterator[pb.AddFilesRequest],
    ) -> Added:
        """Add the files that arrive. A repeated request is answered as the first time. Raises Refusal."""
        async with self._pool.acquire() as connection:
            try:
                async with connection.transaction():
                    return await self._add(connection, begin, request_id, username, requests)
            except (_AddedMeanwhileError, asyncpg.UniqueViolationError, Refusal) as error:
                # whatever is wrong now, right after another call of the same request: that one's answer counts
                before = await _added_before(connection, begin.project_id, request_id)
                if before is not None:
                    return before
                if isinstance(error, asyncpg.UniqueViolationError):
                    raise duplicate(error) from error
                raise

    async def _add(
        self,
        connection: Any,
        begin: pb.BeginAddFiles,
        request_id: UUID | None,
        username: str,
        requests: AsyncIterator[pb.AddFilesRequest],
    ) -> Added:
        project_id = begin.project_id
        before = await _added_before(connection, project_id, request_id)
        if before is not None:
            return before
        await _refuse_unless_it_takes_files(connection, project_id)
        count = await _stage(connection, requests)
        await _sift(connection, project_id, skip=begin.skip_existing)
        new = await connection.fetchval("SELECT count(*) FROM staged")
        added = 0
        if new:
            last = await self._ordinary.fetchval(SQL["take_handle_ids"], project_id, new)
            if last is None:
                raise _not_found(project_id)
            first = last - new + 1
            status = await connection.execute(
                SQL["insert_staged"] + (" ON CONFLICT DO NOTHING" if begin.skip_existing else ""), project_id, first - 1
            )
            added = int(status.split()[-1])
            virtual = await connection.fetchval(
                "SELECT virtual FROM dispatch.project WHERE project_id = $1", project_id
            )
            await make_handles(connection, project_id, bool(virtual), first - 1, last)
        await connection.execute(SQL["lock_tally"], [project_id])
        if await _added_before(connection, project_id, request_id) is not None:
            raise _AddedMeanwhileError
        await _refuse_unless_it_takes_files(connection, project_id)
        if added:
            await connection.execute(SQL["lock_groups"], [project_id])
            await connection.execute(SQL["grow_groups"], project_id, first, last)
        open_list = begin.open if begin.HasField("open") else None
        await connection.execute(SQL["grow_tally"], project_id, added, open_list)
        if added or open_list:
            await connection.execute(SQL["reopen"], project_id)
        await connection.execute(SQL["close_list"], project_id)
        state = await connection.fetchval(_STATE, project_id)
        data = {"files": added, "skipped": count - added} | ({"request_id": str(request_id)} if request_id else {})
        await connection.execute(SQL["log_project"], project_id, "add", state, username, json.dumps(data))
        return Added(added, count - added)


_STATE = "SELECT state::text FROM dispatch.project WHERE project_id = $1"


async def _added_before(connection: Any, project_id: int, request_id: UUID | None) -> Added | None:
    if request_id is None:
        return None
    row = await connection.fetchrow(SQL["added_before"], project_id, str(request_id))
    return Added(row["added"], row["skipped"]) if row else None


async def _stage(connection: Any, requests: AsyncIterator[pb.AddFilesRequest]) -> int:
    intake = FileIntake(0, requests)

    async def records() -> AsyncIterator[tuple[int, str, str, str]]:
        async for batch in intake.rows():
            for row in batch:
                yield row[1:]

    await connection.execute(SQL["stage_files"])
    columns = ("place", "namespace", "name", "attributes")
    await connection.copy_records_to_table("staged", columns=columns, records=records())
    await connection.execute("ANALYZE staged")
    return intake.count


async def _sift(connection: Any, project_id: int, *, skip: bool) -> None:
    """See to it that nothing is staged twice, nor what the project has."""
    twice = await connection.fetchrow(SQL["staged_twice"])
    if twice is not None:
        raise duplicate_did(twice["namespace"], twice["name"])
    if skip:
        await connection.execute(SQL["unstage_existing"], project_id)
        return
    again = await connection.fetchrow(SQL["staged_again"], project_id)
    if again is not None:
        raise duplicate_did(again["namespace"], again["name"])


async def _refuse_unless_it_takes_files(connection: Any, project_id: int) -> None:
    state = await connection.fetchval(_STATE, project_id)
    if state is None:
        raise _not_found(project_id)
    if state == "cancelled":
        message = f"project {project_id} is cancelled: activate it to add files"
        raise Refusal("PROJECT_INACTIVE", message, metadata={"project_id": str(project_id), "state": state})


def _not_found(project_id: int) -> Refusal:
    return Refusal("PROJECT_NOT_FOUND", f"project {project_id} not found", metadata={"project_id": str(project_id)})
