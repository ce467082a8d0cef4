"""Writes the documents beside the content from the rows, after the commits that changed these.

Rows say what has still to be written, so that what a crash left out is written later. Two processes never write the documents of one
project at the same time, so the last to write has read the newest rows; who changes the rows does not wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import asyncpg
import structlog

from drayman.server.platform.database import is_away, load_queries
from drayman.server.platform.lifecycle import Part
from drayman.server.registry import documents, rows
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.content import Content, ContentError, ContentLost
from drayman.server.registry.documents import LogEntry, Summary
from drayman.server.registry.entries import Entry
from drayman.server.registry.quota import Quota
from drayman.server.registry.relinking import restore_links
from drayman.server.registry.store import HERE, entry_pages

SQL = load_queries(HERE / "document_queries.sql")

log = structlog.get_logger(__name__)

#: Assets, versions and changes that are written at once.
_PORTION = 200
#: Seconds from one writing that nobody waits for to the next of the same project: of uploads one after the other, one writes for many.
_PACE = 0.05
#: Advisory locks are of the whole database: those of project documents have this in their upper half.
_LOCK = 0x7265_6764 << 32  # "regd"


class Documenter(Part):
    """Writes what is marked unwritten."""

    def __init__(self, pool: asyncpg.Pool, content: Content) -> None:
        """Open the pool with `hot=True`."""
        self._pool = pool
        self._content = content
        #: of projects: what will be begun as soon as what is at work has ended
        self._next: dict[int, asyncio.Task[bool]] = {}
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        #: of projects: what is written though nobody waits for it, and those of which more has changed since it began
        self._unwatched: dict[int, asyncio.Task[None]] = {}
        self._changed_since: set[int] = set()
        #: set while somebody waits for all of it
        self._hurry = asyncio.Event()

    async def stop(self) -> None:
        """Return when all is written that was to be written `soon`. What could not be is left to the next process."""
        await self.settle()

    async def settle(self) -> None:
        """Return when all is written that was to be written `soon`."""
        self._hurry.set()
        while self._unwatched:
            await asyncio.wait(list(self._unwatched.values()))
        self._hurry.clear()

    def soon(self, project_id: int) -> None:
        """Do the same as `attempt`, without anybody who waits for it: now, or in a moment if that was only just done."""
        if project_id in self._unwatched:
            self._changed_since.add(project_id)
        else:
            task = asyncio.create_task(self._write_unwatched(project_id), name="documents")
            self._unwatched[project_id] = task

    async def _write_unwatched(self, project_id: int) -> None:
        try:
            while True:
                self._changed_since.discard(project_id)
                await self.attempt(project_id)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), _PACE)
                if project_id not in self._changed_since:
                    return
        finally:
            del self._unwatched[project_id]

    async def attempt(self, project_id: int, *version_ids: int) -> None:
        """Write the documents of these versions, and as `project`; what fails is logged and left to the sweeper."""
        try:
            for version_id in version_ids:
                await self.version(version_id)
            await self.project(project_id)
        except Exception as error:
            # what they are about is done: nobody who did it shall believe the opposite
            if is_away(error) or isinstance(error, ContentError):
                why = str(error) or type(error).__name__
                log.warning("documents not written yet", project_id=project_id, error=why)
            else:
                log.exception("documents not written yet", project_id=project_id)

    async def project(self, project_id: int) -> None:
        """Write ..permissions, ..usage and ..quota of a project, ..permissions and ..latest of its assets, where they changed.

        And what is missing of it in ..logs; if it is gone, what is missing there at all.
        """
        coming = self._next.get(project_id)
        if coming is None:
            coming = self._next[project_id] = asyncio.create_task(self._take_turn(project_id), name="documents")
            coming.add_done_callback(_heard)
        # of many who come while one is at work, one writes for all
        if not await asyncio.shield(coming):
            await self.changes()

    async def _take_turn(self, project_id: int) -> bool:
        turn = self._turns.setdefault(project_id, asyncio.Lock())
        async with turn:
            # whoever comes from now on has changed rows that may be read already
            del self._next[project_id]
            return await self._project(project_id, wait=True)

    async def _project(self, project_id: int, *, wait: bool) -> bool:
        """Write the documents of a project and its assets; with `wait` False not if another process is at it. False if it is gone."""
        while (more := await self._write_project(project_id, wait=wait)) is True:
            pass
        return more is not None

    async def version(self, version_id: int) -> None:
        """Write ..summary, ..manifest and every ..links of a published version, if they are marked unwritten."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(SQL["unwritten_version"], version_id)
            if row is None:
                return
            folder = f"{await connection.fetchval(SQL['folder'], row['asset_id'])}/{row['name']}"
            entries = [rows.entry_of(entry) async for page in entry_pages(connection, version_id) for entry in page]
            links = documents.links(entries)
            for path in _places_of_links(entries) - links.keys():
                await self._content.remove_document(f"{folder}/{path}")
            summary = Summary(row["upload_user"], row["upload_start"], row["upload_finish"], row["on_probation"])
            written = links | {
                documents.MANIFEST: documents.manifest(entries),
                documents.SUMMARY: documents.summary(summary),
            }
            try:
                # rows that were rerouted by who was killed before the links were
                await restore_links(self._content, VersionAddress.parse(folder), entries)
                await self._content.write_documents({f"{folder}/{path}": text for path, text in written.items()})
            except ContentLost:
                # damaged: whoever validates it is told; trying for ever would not help
                log.exception("version cannot be documented", version=folder)
            await connection.execute(SQL["version_written"], version_id)

    async def changes(self) -> None:
        """Write what is missing in ..logs."""
        while True:
            async with self._pool.acquire() as connection, connection.transaction():
                found = await connection.fetch(SQL["unwritten_changes"], _PORTION)
                if found:
                    await self._write(_of_changes(found), documents.LOGS)
                    await connection.execute(SQL["changes_written"], [row["change_id"] for row in found])
            if len(found) < _PORTION:
                return

    async def sweep(self) -> None:
        """Write everything that is marked unwritten and that nobody is at."""
        for row in await self._pool.fetch(SQL["unwritten_versions"], _PORTION):
            await self.version(row["version_id"])
        for row in await self._pool.fetch(SQL["unwritten_projects"], _PORTION):
            await self._project(row["project_id"], wait=False)
        await self.changes()

    async def _write_project(self, project_id: int, *, wait: bool) -> bool | None:
        """Write a portion; returns whether there is more, None if there is no such project."""
        async with self._pool.acquire() as connection, connection.transaction():
            if not await _lock(connection, project_id, wait=wait):
                return False
            project = await connection.fetchrow(SQL["unwritten_project"], project_id)
            if project is None:
                return None
            name = project["name"]
            assets = await connection.fetch(SQL["unwritten_assets"], project_id, _PORTION)
            changes = await connection.fetch(SQL["unwritten_changes_of"], name, _PORTION)
            texts = _of_assets(name, assets) | _of_changes(changes)
            if project["written"] < project["revision"]:
                texts |= await self._changed(_of_governance(project))
                texts[f"{name}/{documents.USAGE}"] = documents.usage(project["usage"])
            if texts:
                await self._write(texts, name)
            for asset in assets:
                if asset["latest"] is None:
                    await self._content.remove_document(f"{name}/{asset['name']}/{documents.LATEST}")
            if texts or assets:
                columns = [[asset[column] for asset in assets] for column in ("asset_id", "revision")]
                logged = [change["change_id"] for change in changes]
                await connection.execute(SQL["written"], project_id, project["revision"], *columns, logged)
            return _PORTION in (len(assets), len(changes))

    async def _changed(self, texts: dict[str, bytes]) -> dict[str, bytes]:
        """Leave out what stands there already: uploads change usage only, and reading costs less than writing."""
        try:
            there = await self._content.read_small(list(texts))
        except ContentLost:
            return texts
        return {key: text for (key, text), found in zip(texts.items(), there, strict=True) if text != found}

    async def _write(self, texts: dict[str, bytes], folder: str) -> None:
        """Write documents; their folders, and this one, are made if they are missing."""
        try:
            await self._content.write_documents(texts)
        except ContentLost:
            for above in sorted({key.rpartition("/")[0] for key in texts} | {folder}):
                await self._content.make_folder(above)
            await self._content.write_documents(texts)


async def _lock(connection: Any, project_id: int, *, wait: bool) -> bool:
    """Keep other processes from writing the documents of a project until the commit; False if one is at it and we do not wait."""
    key = _LOCK | project_id & 0xFFFF_FFFF
    if wait:
        await connection.execute(SQL["turn"], key)
        return True
    return bool(await connection.fetchval(SQL["try_turn"], key))


def _heard(task: asyncio.Task[bool]) -> None:
    """Note what became of a task, though everybody who waited for it may have gone."""
    if not task.cancelled():
        task.exception()


def _of_governance(row: Any) -> dict[str, bytes]:
    folder = row["name"]
    owned = rows.permissions(row["owners"], row["uploaders"], row["global_write"])
    return {
        f"{folder}/{documents.PERMISSIONS}": documents.permissions(owned),
        f"{folder}/{documents.QUOTA}": documents.quota(Quota(row["baseline"], row["growth_rate"], row["quota_year"])),
    }


def _of_assets(project: str, assets: Sequence[Any]) -> dict[str, bytes]:
    texts = {}
    for row in assets:
        folder = f"{project}/{row['name']}"
        if row["latest"] is not None:
            texts[f"{folder}/{documents.LATEST}"] = documents.latest(row["latest"])
        if row["owners"] is not None:
            owned = rows.permissions(row["owners"], row["uploaders"], None)
            texts[f"{folder}/{documents.PERMISSIONS}"] = documents.permissions(owned)
    return texts


def _places_of_links(entries: Sequence[Entry]) -> set[str]:
    """Paths at which a version can have ..links: in each of its directories."""
    folders = {""}
    for entry in entries:
        folder = entry.path if entry.is_directory else entry.path.rpartition("/")[0]
        while folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return {f"{folder}/{documents.LINKS}" if folder else documents.LINKS for folder in folders}


def _of_changes(changes: Sequence[Any]) -> dict[str, bytes]:
    return {
        documents.log_name(row["at"], row["change_id"]): documents.log_entry(
            LogEntry(row["type"], row["project"], row["asset"], row["version"], row["latest"])
        )
        for row in changes
    }
