"""Rows that go: versions, assets and projects that are deleted. Their content goes after the commit: see `Remover`.

What has still to go is a row of registry.removal, and its name is not given out again before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from drayman.server.platform.database import load_queries
from drayman.server.platform.errors import Refusal
from drayman.server.registry import rows
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.records import PUBLISHED, PUBLISHING
from drayman.server.registry.rerouting import Doomed
from drayman.server.registry.store import HERE, recompute_latest
from drayman.server.registry.store import SQL as READING

SQL = load_queries(HERE / "removal_queries.sql")


class StillPublished(Exception):
    """A version of it is being put in its place this moment: try again."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What a transaction has removed."""

    project_id: int
    #: from the registry's root
    folder: str
    #: uploads that were in progress: their incoming folders are of no use any more
    uploads: Sequence[UUID] = ()


class RemovalStore:
    """The registry's tables, as deletions change them."""

    def __init__(self, pool: asyncpg.Pool, *, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called after each commit that adds to the log of changes. Open the pool with `hot=True`."""
        self._pool = pool
        self._changed = changed

    async def delete(self, doomed: Doomed, *, force: bool) -> Removed | None:
        """Remove a project, an asset or a version; None if it is not there.

        Refuses with LINKED_TO unless `force`. Raises StillPublished.
        """
        if not rows.storable(doomed.project, doomed.asset, doomed.version):
            return None
        async with self._pool.acquire() as connection, connection.transaction():
            if not doomed.asset:
                removed = await _delete_project(connection, doomed, force=force)
            elif not doomed.version:
                removed = await _delete_asset(connection, doomed, force=force)
            else:
                removed = await _delete_version(connection, doomed, force=force)
        if removed is not None:
            self._changed()
        return removed

    async def orphaned(self, address: VersionAddress) -> None:
        """Note that a version's folder may be there without a row."""
        await self._pool.execute(SQL["insert_orphan"], address.project, address.asset, address.version)

    async def removals(self) -> list[str]:
        """Read folders whose content has still to go."""
        return [row["path"] for row in await self._pool.fetch(SQL["removals"])]

    @asynccontextmanager
    async def removing(self, folder: str) -> AsyncIterator[bool]:
        """Hold a removal while the content goes, and forget it at the end of the block; yields False if it is done already."""
        async with self._pool.acquire() as connection, connection.transaction():
            waits = bool(await connection.fetchval(SQL["lock_removal"], folder))
            yield waits
            if waits:
                await connection.execute(SQL["delete_removal"], folder)


async def _delete_version(connection: Any, doomed: Doomed, *, force: bool) -> Removed | None:
    project = await connection.fetchrow(READING["lock_project"], doomed.project)
    asset = await connection.fetchrow(READING["lock_asset"], project["project_id"], doomed.asset) if project else None
    version = await connection.fetchrow(SQL["lock_versions"], asset["asset_id"], doomed.version) if asset else None
    if project is None or asset is None or version is None or version["state"] != PUBLISHED:
        return None
    if not force:
        names = doomed.project, doomed.asset, doomed.version
        await _refuse_linked(connection, doomed, "links_into_version", *names, version["version_id"])
    was_latest = version["version_id"] == asset["latest_id"]
    await delete_versions(connection, [version["version_id"]])
    await connection.execute(SQL["lower_usage"], project["project_id"], version["usage"])
    if not version["on_probation"]:
        await recompute_latest(connection, asset["asset_id"])
        change = "delete-version", doomed.project, doomed.asset, doomed.version, was_latest
        await connection.execute(SQL["insert_change"], *change)
    return await _removed(connection, project["project_id"], doomed)


async def _delete_asset(connection: Any, doomed: Doomed, *, force: bool) -> Removed | None:
    project = await connection.fetchrow(READING["lock_project"], doomed.project)
    asset = await connection.fetchrow(SQL["lock_asset"], project["project_id"], doomed.asset) if project else None
    if asset is None or asset["revision"] == 0:
        return None
    versions = await _lock_versions(connection, asset["asset_id"])
    if not force:
        await _refuse_linked(connection, doomed, "links_into_asset", doomed.project, doomed.asset, asset["asset_id"])
    await delete_versions(connection, [row["version_id"] for row in versions])
    await connection.execute(SQL["delete_asset"], asset["asset_id"])
    freed = sum(row["usage"] for row in versions if row["state"] == PUBLISHED)
    await connection.execute(SQL["lower_usage"], project["project_id"], freed)
    await connection.execute(SQL["insert_change"], "delete-asset", doomed.project, doomed.asset, None, None)
    return await _removed(connection, project["project_id"], doomed, versions)


async def _delete_project(connection: Any, doomed: Doomed, *, force: bool) -> Removed | None:
    project = await connection.fetchrow(SQL["lock_project"], doomed.project)
    if project is None:
        return None
    assets = await connection.fetch(SQL["lock_assets"], project["project_id"])
    versions = [row for asset in assets for row in await _lock_versions(connection, asset["asset_id"])]
    if not force:
        await _refuse_linked(connection, doomed, "links_into_project", doomed.project, project["project_id"])
    await delete_versions(connection, [row["version_id"] for row in versions])
    await connection.execute(SQL["delete_project"], project["project_id"])
    await connection.execute(SQL["insert_change"], "delete-project", doomed.project, None, None, None)
    return await _removed(connection, project["project_id"], doomed, versions)


async def _lock_versions(connection: Any, asset_id: int) -> list[Any]:
    """Lock the versions of an asset, those that are being uploaded too."""
    versions: list[Any] = await connection.fetch(SQL["lock_versions"], asset_id, None)
    if any(row["state"] == PUBLISHING and row["busy"] for row in versions):
        raise StillPublished
    return versions


async def delete_versions(connection: Any, version_ids: list[int]) -> None:
    """Delete versions, which are locked, with their entries."""
    await connection.execute(SQL["delete_entries"], version_ids)
    await connection.execute(SQL["delete_versions"], version_ids)


async def _refuse_linked(connection: Any, doomed: Doomed, statement: str, *values: object) -> None:
    row = await connection.fetchrow(SQL[statement], *values)
    if row is not None:
        folder, link = (
            _folder(doomed),
            f"{await connection.fetchval(SQL['folder_of'], row['version_id'])}/{row['path']}",
        )
        raise Refusal(
            "LINKED_TO",
            f"{link!r} links into {folder!r}: reroute the links that lead there first, or say `force`",
            metadata={"deleted": folder, "link": link},
        )


async def _removed(connection: Any, project_id: int, doomed: Doomed, versions: Sequence[Any] = ()) -> Removed:
    folder = _folder(doomed)
    await connection.execute(SQL["insert_removal"], folder)
    return Removed(project_id, folder, [row["upload_id"] for row in versions if row["state"] != PUBLISHED])


def _folder(doomed: Doomed) -> str:
    return "/".join(part for part in (doomed.project, doomed.asset, doomed.version) if part)
