"""Makes projects: files streamed into the database as they arrive, all of them or nothing.

The stream feeds PostgreSQL's COPY inside one transaction. A project that is being made occupies a connection of its own, of which
there are a few; who comes later waits, and with it their stream (flow control), so memory stays bounded whatever arrives. A client
that stalls is cut off: it would hold the connection, and the database's horizon, for everybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from drayman.dispatch.v1 import project_service_pb2 as pb
from drayman.server.dispatch import attributes
from drayman.server.dispatch.did import check_did
from drayman.server.dispatch.store import SQL
from drayman.server.platform.errors import Refusal, invalid

_STALL_SECONDS = 60.0
_PAGE = 20_000

#: A file to store: project id, handle id, namespace, name, attributes.
FileRow = tuple[int, int, str, str, str]


@dataclass(frozen=True)
class Rules:
    """Everything about a new project but its files; names are known to exist."""

    owner: str
    attributes: str
    query: str | None
    worker_timeout: float | None
    idle_timeout: float | None
    users: Sequence[str] = ()
    roles: Sequence[str] = ()
    request_id: UUID | None = None
    open_list: bool = False
    max_attempts: int | None = None
    max_running: int | None = None


class Creator:
    """Makes projects out of streams and out of other projects."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def create(self, rules: Rules, requests: AsyncIterator[pb.CreateProjectRequest]) -> int:
        """Store a project and the files that arrive; returns its id. A repeated request gets the project of the first time."""
        async with self._pool.acquire() as connection, connection.transaction():
            project_id, virtual = await _insert_project(connection, rules)
            if project_id is None:
                return await _made_before(connection, rules)
            intake = FileIntake(project_id, requests)
            await _copy_files(connection, intake.rows())
            await _insert_handles(connection, project_id, rules, virtual, intake.count, intake.count)
            return project_id

    async def copy(self, original_id: int, rules: Rules, file_attributes: str) -> int:
        """Store a project with the files of another one, `file_attributes` laid over each file's; returns its id."""
        async with self._pool.acquire() as connection, connection.transaction():
            project_id, virtual = await _insert_project(connection, rules)
            if project_id is None:
                return await _made_before(connection, rules)
            if attributes.members(file_attributes or "{}"):
                await _copy_overlaid(connection, original_id, project_id, file_attributes)
            else:
                await connection.execute(SQL["copy_files"], original_id, project_id)
            # handle ids are the original's, where some may be missing
            copied = await connection.fetchrow(_COPIED, project_id)
            assert copied is not None
            count, last = copied
            await _insert_handles(connection, project_id, rules, virtual, count, last)
            await connection.execute(SQL["copy_timeouts"], original_id, project_id)
            data = attributes.searchable({"source": original_id})
            await connection.execute(SQL["log_project"], project_id, "copied", "active", rules.owner, data)
            return project_id


class FileIntake:
    """Reads the files of a stream, checks each, and numbers them."""

    def __init__(
        self, project_id: int, requests: AsyncIterator[pb.CreateProjectRequest] | AsyncIterator[pb.AddFilesRequest]
    ) -> None:
        self._project_id = project_id
        self._requests = requests
        self.count = 0

    async def rows(self) -> AsyncIterator[list[FileRow]]:
        """Yield rows batch by batch. Raises Refusal on a bad file and on a list that is not whole."""
        while (request := await self._next()) is not None:
            part = request.WhichOneof("part")
            if part == "files":
                yield self._batch(request)
            elif part == "end":
                if request.end.file_count != self.count:
                    raise _incomplete(f"`end` counts {request.end.file_count} files, {self.count} arrived")
                if await self._next() is not None:
                    raise invalid("part", "a message after `end`")
                return
            else:
                raise invalid("part", f"expected `files` or `end`, not {part or 'nothing'}")
        raise _incomplete(f"the stream closed after {self.count} files without `end`")

    def _batch(self, request: pb.CreateProjectRequest | pb.AddFilesRequest) -> list[FileRow]:
        rows = []
        number, project_id = self.count, self._project_id
        for file in request.files.files:
            number += 1
            did, text = file.did, file.attributes_json
            namespace, name = did.namespace, did.name
            check_did(namespace, name, f"files[{number - 1}].did", f"file {number}")
            if text:
                check_attributes(text, "files.attributes_json", f"file {number} ({namespace}:{name})")
            rows.append((project_id, number, namespace, name, text or "{}"))
        self.count = number
        return rows

    async def _next(self) -> pb.CreateProjectRequest | pb.AddFilesRequest | None:
        try:
            async with asyncio.timeout(_STALL_SECONDS):
                return await anext(self._requests, None)
        except TimeoutError as error:
            raise _incomplete(f"nothing arrived for {_STALL_SECONDS:.0f} s after {self.count} files") from error


def check_attributes(text: str, field: str, what: str) -> dict[str, Any]:
    """Read attributes; raises Refusal if they are not one JSON object that can be stored."""
    try:
        found = attributes.parse(text)
    except attributes.NotAnObject as error:
        raise invalid(field, f"attributes of {what} are not one JSON object: {error}: {text[:200]!r}") from error
    if "\x00" in text:
        raise invalid(field, f"attributes of {what} contain NUL")
    return found


def _incomplete(message: str) -> Refusal:
    return Refusal("INCOMPLETE_FILE_LIST", f"incomplete file list: {message}")


async def _made_before(connection: Any, rules: Rules) -> int:
    # The insert waited for the first call's transaction: it is there.
    project_id: int = await connection.fetchval(SQL["project_of_request"], rules.owner, rules.request_id)
    return project_id


async def _insert_project(connection: Any, rules: Rules) -> tuple[int | None, bool]:
    """Insert the project's row; None if there is one of the same request."""
    found = attributes.parse(rules.attributes)
    virtual = attributes.is_virtual(found)
    project_id: int | None = await connection.fetchval(
        SQL["insert_project"],
        rules.owner,
        rules.attributes or "{}",
        attributes.searchable(found),
        rules.query,
        virtual,
        attributes.retries_on_timeout(found),
        rules.worker_timeout,
        rules.idle_timeout,
        sorted(set(rules.users)),
        sorted(set(rules.roles)),
        rules.request_id,
    )
    return project_id, virtual


async def _copy_files(connection: Any, batches: AsyncIterator[list[FileRow]]) -> None:
    async def records() -> AsyncIterator[FileRow]:
        async for batch in batches:
            for row in batch:
                yield row

    try:
        await connection.copy_records_to_table(
            "file",
            schema_name="dispatch",
            columns=("project_id", "handle_id", "namespace", "name", "attributes"),
            records=records(),
        )
    except asyncpg.UniqueViolationError as error:
        raise duplicate(error) from error


_COPIED = "SELECT count(*), coalesce(max(handle_id), 0) FROM dispatch.file WHERE project_id = $1"


async def _copy_overlaid(connection: Any, original_id: int, project_id: int, over: str) -> None:
    """Copy files page by page; each page is read whole before it is written, so memory stays bounded."""
    last = 0
    while page := await connection.fetch(SQL["files_page"], original_id, last, _PAGE):
        rows = [
            (project_id, row["handle_id"], row["namespace"], row["name"], attributes.overlay(row["attributes"], over))
            for row in page
        ]
        last = page[-1]["handle_id"]
        columns = ("project_id", "handle_id", "namespace", "name", "attributes")
        await connection.copy_records_to_table("file", schema_name="dispatch", columns=columns, records=rows)


async def _insert_handles(connection: Any, project_id: int, rules: Rules, virtual: bool, count: int, last: int) -> None:
    await make_handles(connection, project_id, virtual, 0, last)
    await connection.execute(
        SQL["insert_tally"], project_id, count, last, rules.open_list, rules.max_attempts, rules.max_running
    )
    await connection.execute(SQL["insert_groups"], project_id)
    await connection.execute(SQL["log_project"], project_id, "create", "active", rules.owner, f'{{"files": {count}}}')


async def make_handles(connection: Any, project_id: int, virtual: bool, after: int, last: int) -> None:
    """Insert handles for the files after one handle id, up to and with another, which is the project's last."""
    if virtual:
        await connection.execute(SQL["insert_virtual_handles"], project_id, after, last)
    else:
        await connection.execute(SQL["placement_is_read"])
        await connection.execute(SQL["insert_handles"], project_id, after, last)
    if last > after:
        await connection.execute(SQL["log_creation"], project_id, after + 1, last)
    if await connection.fetchval(SQL["statistics_are_stale"], last - after):
        await connection.execute(SQL["renew_statistics"])


def duplicate(error: asyncpg.UniqueViolationError) -> Refusal:
    """PostgreSQL's detail reads `Key (namespace, name, project_id)=(x, y, 7) already exists`."""
    detail = (error.detail or "").partition("=(")[2].rpartition(") already")[0].rpartition(", ")[0]
    namespace, _, name = detail.partition(", ")
    return duplicate_did(namespace, name)


def duplicate_did(namespace: str, name: str) -> Refusal:
    """Refuse a list that names a file twice."""
    did = f"{namespace}:{name}"
    return Refusal("DUPLICATE_FILE", f"duplicate file: {did}", "files.did", {"did": did})
