"""What administrators do to versions that are there: rebuild their entries, make links independent, take over what another system made.

Every change marks the documents that have to be written: call `Documenter.version` and `Documenter.project` afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from drayman.server.platform.database import load_queries
from drayman.server.registry import rows
from drayman.server.registry.addresses import FileAddress, VersionAddress
from drayman.server.registry.entries import Entry, usage
from drayman.server.registry.permissions import Permissions
from drayman.server.registry.probation_store import lock_version
from drayman.server.registry.quota import Quota
from drayman.server.registry.records import Version
from drayman.server.registry.removal_store import SQL as REMOVAL
from drayman.server.registry.rerouting import Doomed, LinkEntry, Reroute
from drayman.server.registry.store import HERE, Store, recompute_latest
from drayman.server.registry.version_store import SQL as VERSIONS
from drayman.server.registry.version_store import copy_entries

SQL = load_queries(HERE / "maintenance_queries.sql")


class MaintenanceStore:
    """The registry's tables, as maintenance changes them."""

    def __init__(self, pool: asyncpg.Pool, *, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called after each commit that adds to the log of changes. Open the pool with `hot=True`."""
        self._pool = pool
        self._store = Store(pool)
        self._changed = changed

    async def replace_entries(self, address: VersionAddress, entries: Sequence[Entry]) -> Version:
        """Put other entries in the place of those of a published version (reindex); usage follows.

        Adds a change `reindex-version`, unless it is on probation. Refuses with what is not found.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            version = await lock_version(connection, address)
            await connection.execute(VERSIONS["forget_entries"], version.version_id)
            await copy_entries(connection, version.version_id, entries)
            more = usage(entries) - version.usage, len(entries) - version.entries
            await connection.execute(SQL["change_usage"], version.version_id, version.project_id, *more, True)
            if not version.on_probation:
                change = "reindex-version", address.project, address.asset, address.version, version.latest
                await connection.execute(REMOVAL["insert_change"], *change)
        self._changed()
        return await self._store.version(address)

    async def links_around(self, doomed: Iterable[Doomed]) -> list[LinkEntry]:
        """Read the link entries that lie in what is doomed, and those that lead into it: what `rerouting.plan` needs."""
        links: dict[FileAddress, LinkEntry] = {}
        for each in doomed:
            if not rows.storable(each.project, each.asset, each.version):
                continue
            for statement in ("links_in", "links_into"):
                for row in await self._pool.fetch(SQL[statement], each.project, each.asset, each.version):
                    link = _link(row)
                    links[link.address] = link
        return list(links.values())

    async def missing(self, files: Iterable[FileAddress]) -> set[FileAddress]:
        """Say which of these files no published version has."""
        asked = list(dict.fromkeys(files))
        columns = [[getattr(file, part) for file in asked] for part in ("project", "asset", "version", "path")]
        there = {row["n"] - 1 for row in await self._pool.fetch(SQL["there"], *columns)}
        return {file for number, file in enumerate(asked) if number not in there}

    async def check_doomed(self, doomed: Iterable[Doomed]) -> None:
        """Refuse with REGISTRY_PROJECT_NOT_FOUND, ASSET_NOT_FOUND or VERSION_NOT_FOUND for the first that is not there."""
        for each in doomed:
            if each.version:
                await self._store.version(VersionAddress(each.project, each.asset, each.version))
            elif each.asset:
                await self._store.asset(each.project, each.asset)
            else:
                await self._store.project(each.project)

    async def reroute(self, version: VersionAddress, changes: Sequence[Reroute]) -> tuple[int, int] | None:
        """Change link entries of one version, after its copies have been made; usage follows. Entries that lead elsewhere by now stay.

        Returns (project_id, version_id) for the documents. Refuses with what is not found.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            found = await lock_version(connection, version)
            values = [
                (
                    change.address.path,
                    *rows.address_values(change.content),
                    *rows.address_values(change.target),
                    *rows.address_values(change.ancestor),
                )
                for change in changes
            ]
            done = await connection.fetch(
                SQL["reroute"], found.version_id, *(list(column) for column in zip(*values, strict=True))
            )
            more = sum(row["usage"] for row in done)
            await connection.execute(SQL["change_usage"], found.version_id, found.project_id, more, 0, True)
        return found.project_id, found.version_id

    async def adopt_project(self, name: str, permissions: Permissions, quota: Quota) -> tuple[int, bool]:
        """Add a project that is there on disk; returns its id, and whether it is new. One that exists stays as it is."""
        values = rows.permission_values(permissions), (quota.baseline, quota.growth_rate, quota.year)
        project_id = await self._pool.fetchval(
            SQL["adopt_project"], name, *values[0], permissions.global_write, *values[1]
        )
        if project_id is not None:
            return project_id, True
        return (await self._store.project(name)).project_id, False

    async def adopt_asset(self, project_id: int, name: str, permissions: Permissions | None) -> tuple[int, bool]:
        """Add an asset; as `adopt_project`."""
        own = (None, None) if permissions is None else rows.permission_values(permissions)
        asset_id = await self._pool.fetchval(SQL["insert_asset"], project_id, name, *own)
        if asset_id is not None:
            return asset_id, True
        return int(await self._pool.fetchval(SQL["asset_id"], project_id, name)), False

    async def adopt_version(
        self,
        project_id: int,
        asset_id: int,
        name: str,
        upload_user: str,
        upload_start: datetime,
        upload_finish: datetime,
        on_probation: bool,
        entries: Sequence[Entry],
    ) -> bool:
        """Add a published version with its entries and usage, whole or not at all; False if there is one of the name (it stays as it is).

        No document of the version is written and nothing is logged: they are there. For the latest see `adopt_latest`.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(SQL["lock_project"], project_id)
            size = usage(entries)
            values = name, on_probation, upload_user, upload_start, upload_finish, size, len(entries)
            version_id = await connection.fetchval(SQL["insert_version"], project_id, asset_id, *values)
            if version_id is None:
                return False
            await copy_entries(connection, version_id, entries)
            await connection.execute(SQL["adopt_usage"], project_id, size)
        return True

    async def adopt_latest(self, asset_id: int, version: str | None) -> str | None:
        """Make a version the latest of its asset, as its document says already.

        For None, or one that is not published and approved, as `refresh_latest`.

        Returns its name.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(SQL["lock_asset"], asset_id)
            version_id = None
            if version is not None and rows.storable(version):
                version_id = await connection.fetchval(SQL["approved"], asset_id, version)
            if version_id is None:
                return await recompute_latest(connection, asset_id)
            await connection.execute(SQL["adopt_latest"], asset_id, version_id)
            return version


def _link(row: Any) -> LinkEntry:
    target = FileAddress(row["target_project"], row["target_asset"], row["target_version"], row["target_path"])
    ancestor = None
    if row["ancestor_project"] is not None:
        ancestor = FileAddress(
            row["ancestor_project"], row["ancestor_asset"], row["ancestor_version"], row["ancestor_path"]
        )
    address = FileAddress(row["project"], row["asset"], row["version"], row["path"])
    return LinkEntry(address, row["size"], target, ancestor)
