"""Projects, assets, versions and entries: reading them, and governance.

Refusals: REGISTRY_PROJECT_NOT_FOUND, ASSET_NOT_FOUND, VERSION_NOT_FOUND, as soon as something on the way is missing. What is being uploaded
is not there for any method of this module. Who changes something writes the documents afterwards: `Documenter.project`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from drayman.server.platform.database import load_queries
from drayman.server.platform.errors import Refusal
from drayman.server.registry import rows
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.entries import Entry
from drayman.server.registry.latest import Candidate, recomputed
from drayman.server.registry.pages import Place
from drayman.server.registry.permissions import Permissions
from drayman.server.registry.quota import Quota
from drayman.server.registry.records import Asset, Project, Version

HERE = Path(__file__).parent
SQL = load_queries(HERE / "queries.sql")

#: Entries that are read at once.
PAGE = 5000
_FIRST = Place(datetime(1, 1, 1, tzinfo=UTC), 0)
#: No character sorts after it, and no name of a file has two of them.
_END = "\U0010ffff" * 2


class Store:
    """The registry's tables, read and governed."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        """Open the pool with `hot=True`: every statement here walks indexes."""
        self._pool = pool

    async def project(self, name: str) -> Project:
        """Read a project. Refuses with REGISTRY_PROJECT_NOT_FOUND."""
        return rows.project_of(await self._row("project", name), name)

    async def projects(self, after: str, limit: int) -> list[str]:
        """Read at most `limit` names of projects that come after `after` ("" = from the first), by name."""
        return [row["name"] for row in await self._pool.fetch(SQL["projects"], after, limit)]

    async def asset(self, project: str, name: str) -> Asset:
        """Read an asset. Refuses with REGISTRY_PROJECT_NOT_FOUND or ASSET_NOT_FOUND."""
        row = await self._row("asset", project, name)
        if row is None:
            raise rows.project_missing(project)
        if row["asset_id"] is None:
            raise rows.asset_missing(project, name)
        return rows.asset_of(row, project, row["latest"])

    async def assets(self, project: str, after: str, limit: int) -> list[str]:
        """Read names of a project's assets, by name. Refuses with REGISTRY_PROJECT_NOT_FOUND."""
        found = await self.project(project)
        return [row["name"] for row in await self._pool.fetch(SQL["assets"], found.project_id, after, limit)]

    async def version(self, address: VersionAddress) -> Version:
        """Read a published version. Refuses with REGISTRY_PROJECT_NOT_FOUND, ASSET_NOT_FOUND or VERSION_NOT_FOUND."""
        row = await self._row("version", address.project, address.asset, address.version)
        return rows.found_version(row, address)

    async def versions(self, project: str, asset: str, after: str, limit: int) -> list[Version]:
        """Read published versions by name, those on probation too. Refuses with REGISTRY_PROJECT_NOT_FOUND or ASSET_NOT_FOUND."""
        found = await self.asset(project, asset)
        return [rows.version_of(row) for row in await self._pool.fetch(SQL["versions"], found.asset_id, after, limit)]

    async def latest(self, project: str, asset: str) -> Version | None:
        """Read an asset's latest version; None = no version is approved. Refuses with REGISTRY_PROJECT_NOT_FOUND or ASSET_NOT_FOUND."""
        found = await self.asset(project, asset)
        if found.latest is None:
            return None
        row = await self._row("version", project, asset, found.latest)
        if row is None or row["version_id"] is None:
            return await self.latest(project, asset)  # deleted this moment: there is another latest one, or none
        return rows.version_of(row)

    async def latest_entries(
        self, project: str, asset: str, contents: Collection[tuple[bytes, int]] | None
    ) -> tuple[str, list[Entry]]:
        """Read which entries with content an asset's latest version has, in no order, and its name; none if there is no such version.

        With `contents`, as MD5 and size, only those that have one of these.
        """
        if contents is None:
            found = await self._pool.fetch(SQL["latest_entries"], project, asset)
        else:
            columns = [[content[part] for content in contents] for part in range(2)]
            found = await self._pool.fetch(SQL["latest_with"], project, asset, *columns)
        return (found[0]["version"] if found else ""), [rows.entry_of(row) for row in found]

    async def there(self, versions: Collection[VersionAddress]) -> set[VersionAddress]:
        """Say which of these versions are published."""
        columns = [[getattr(version, part) for version in versions] for part in ("project", "asset", "version")]
        return {VersionAddress(**row) for row in await self._pool.fetch(SQL["there"], *columns)}

    async def entry(self, version_id: int, path: str) -> Entry | None:
        """Read one entry; None if the version has no such path."""
        row = await self._pool.fetchrow(SQL["entry"], version_id, path) if rows.storable(path) else None
        return rows.entry_of(row) if row else None

    async def entries(self, version_id: int, prefix: str = "") -> list[Entry]:
        """Read all entries, or those whose path begins with `prefix`, by path."""
        return [rows.entry_of(row) async for page in self.entry_pages(version_id, prefix) for row in page]

    async def entry_pages(self, version_id: int, prefix: str = "") -> AsyncGenerator[list[Any], None]:
        """Yield the same as rows with the columns of `registry.entry`, in pages."""
        async for page in entry_pages(self._pool, version_id, prefix):
            yield page

    async def probation(self, project: str | None, after: Place | None, limit: int) -> list[Version]:
        """Read versions that wait, oldest upload first; a `Place` is (upload_finish, version_id); `project` None = of all.

        Refuses with REGISTRY_PROJECT_NOT_FOUND.
        """
        place = after or _FIRST
        if project is None:
            found = await self._pool.fetch(SQL["probation"], place.at, place.number, limit)
        else:
            project_id = (await self.project(project)).project_id
            found = await self._pool.fetch(SQL["probation_of_project"], place.at, place.number, limit, project_id)
        return [rows.version_of(row) for row in found]

    async def create_project(
        self,
        name: str,
        permissions: Permissions,
        quota: Quota,
        *,
        check: Callable[[str], Awaitable[None]] | None = None,
    ) -> Project:
        """Add a project. Refuses with REGISTRY_PROJECT_EXISTS, also while the content of one of that name is still being removed.

        `check` is called with the name when nobody else can have it any more, and may refuse.
        """
        values = rows.permission_values(permissions), (quota.baseline, quota.growth_rate, quota.year)
        async with self._pool.acquire() as connection, connection.transaction():
            project_id = await connection.fetchval(
                SQL["insert_project"], name, *values[0], permissions.global_write, *values[1]
            )
            if project_id is None:
                raise Refusal("REGISTRY_PROJECT_EXISTS", f"there is a project {name!r}", metadata={"project": name})
            if await connection.fetchval(SQL["pending_removals"], [name]):
                raise Refusal(
                    "REGISTRY_PROJECT_EXISTS",
                    f"the content of a project {name!r} that was deleted is still being removed: try again soon",
                    metadata={"project": name},
                )
            if check is not None:
                await check(name)
        return Project(project_id, name, permissions, quota, 0)

    async def set_permissions(
        self,
        project: str,
        asset: str | None,
        change: Callable[[Project, Asset | None], Permissions],
    ) -> Permissions:
        """Change who may do what, in one step: no other change comes between what `change` is given and what it returns.

        `change` is called with the project and, if one is named and exists, the asset; it returns the new permissions (of the asset, if one
        is named: an asset that does not exist is made) or raises, and nothing changes. Returns what is stored.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            found = await _locked(connection, project)
            if asset is None:
                permissions = change(found, None)
                owners, uploaders = rows.permission_values(permissions)
                await connection.execute(
                    SQL["set_project_permissions"], found.project_id, owners, uploaders, permissions.global_write
                )
                return permissions
            row = (
                await connection.fetchrow(SQL["lock_asset"], found.project_id, asset) if rows.storable(asset) else None
            )
            # one that is only being made by an upload does not count, though what it was given already does
            there = row is not None and (row["revision"] > 0 or row["owners"] is not None)
            permissions = change(found, rows.asset_of(row, project, None) if row is not None and there else None)
            await connection.execute(
                SQL["put_asset_permissions"], found.project_id, asset, *rows.permission_values(permissions)
            )
            if await connection.fetchval(SQL["pending_removals"], [f"{project}/{asset}"]):
                raise Refusal(
                    "UNAVAILABLE",
                    f"the content of an asset {asset!r} that was deleted is still being removed: try again soon",
                    retry_after=1.0,
                )
            return permissions

    async def set_quota(self, project: str, change: Callable[[Quota], Quota]) -> Project:
        """Change a project's quota in one step; `change` may raise. Refuses with REGISTRY_PROJECT_NOT_FOUND."""
        async with self._pool.acquire() as connection, connection.transaction():
            found = await _locked(connection, project)
            quota = change(found.quota)
            await connection.execute(SQL["set_quota"], found.project_id, quota.baseline, quota.growth_rate, quota.year)
        return Project(found.project_id, found.name, found.permissions, quota, found.usage)

    async def refresh_latest(self, project: str, asset: str) -> str | None:
        """Find the latest version of an asset again; returns its name. Refuses with what is not found."""
        async with self._pool.acquire() as connection, connection.transaction():
            found = await _locked(connection, project)
            row = (
                await connection.fetchrow(SQL["lock_asset"], found.project_id, asset) if rows.storable(asset) else None
            )
            if row is None or row["revision"] == 0:
                raise rows.asset_missing(project, asset)
            return await recompute_latest(connection, row["asset_id"])

    async def refresh_usage(self, project: str) -> int:
        """Add the usage of a project up again, from its entries; returns it. Refuses with REGISTRY_PROJECT_NOT_FOUND."""
        found = await self.project(project)
        # what is wrong is found before the project is locked: there may be millions of entries
        wrong = await self._pool.fetch(SQL["wrong_usages"], found.project_id)
        async with self._pool.acquire() as connection, connection.transaction():
            await _locked(connection, project)
            columns = [[row[name] for row in wrong] for name in ("version_id", "usage", "right_usage")]
            await connection.execute(SQL["correct_usages"], *columns)
            return int(await connection.fetchval(SQL["sum_usage"], found.project_id))

    async def _row(self, statement: str, *names: str) -> asyncpg.Record | None:
        # what the database cannot take is in it under no name; nor is anything under the empty one
        return await self._pool.fetchrow(SQL[statement], *(name if rows.storable(name) else "" for name in names))


async def entry_pages(source: Any, version_id: int, prefix: str = "") -> AsyncGenerator[list[Any], None]:
    """Yield the entries of a version as rows, by path; `source` is a pool or a connection."""
    after = ""
    while rows.storable(prefix):
        page = await source.fetch(SQL["entries"], version_id, after, prefix, prefix + _END, PAGE)
        if page:
            yield page
        if len(page) < PAGE:
            return
        after = page[-1]["path"]


async def recompute_latest(connection: Any, asset_id: int) -> str | None:
    """Find the latest version of an asset, which is locked, again; returns its name."""
    found = {row["name"]: row for row in await connection.fetch(SQL["candidates"], asset_id)}
    latest = recomputed(Candidate(name, row["upload_finish"]) for name, row in found.items())
    await connection.execute(SQL["set_latest"], asset_id, found[latest.name]["version_id"] if latest else None)
    return latest.name if latest else None


async def _locked(connection: Any, project: str) -> Project:
    row = await connection.fetchrow(SQL["lock_project"], project) if rows.storable(project) else None
    return rows.project_of(row, project)
