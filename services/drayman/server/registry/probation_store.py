"""What waits for approval: approved, rejected, or waiting for too long."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import asyncpg

from drayman.server.platform.database import load_queries
from drayman.server.platform.errors import Refusal
from drayman.server.registry import rows
from drayman.server.registry.addresses import VersionAddress
from drayman.server.registry.latest import Candidate, after_approval
from drayman.server.registry.records import Project, Version
from drayman.server.registry.removal_store import SQL as REMOVAL
from drayman.server.registry.removal_store import Removed, delete_versions
from drayman.server.registry.store import HERE
from drayman.server.registry.store import SQL as READING
from drayman.server.registry.version_store import SQL as VERSIONS

SQL = load_queries(HERE / "probation_queries.sql")


class ProbationStore:
    """The registry's tables, as decisions about uploads change them."""

    def __init__(self, pool: asyncpg.Pool, *, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called after each commit that adds to the log of changes. Open the pool with `hot=True`."""
        self._pool = pool
        self._changed = changed

    async def approve(self, address: VersionAddress, check: Callable[[Project, Version], None]) -> Version:
        """Approve a version on probation; `check` raises if the caller may not.

        Refuses with NOT_ON_PROBATION and what is not found. Documents: `Documenter.version` and `Documenter.project`.
        """
        async with self._pool.acquire() as connection:
            async with connection.transaction():
                found = await lock_version(connection, address, check)
                require_probation(found)
                asset = await connection.fetchrow(VERSIONS["lock_asset"], found.asset_id)
                assert asset is not None
                current = Candidate(asset["name"], asset["upload_finish"]) if asset["name"] is not None else None
                approved = Candidate(address.version, found.upload_finish)
                becomes_latest = after_approval(current, approved) == approved
                await connection.execute(SQL["approve"], found.version_id, becomes_latest)
            row = await connection.fetchrow(VERSIONS["published"], found.version_id)
        self._changed()
        return rows.found_version(row, address)

    async def reject(self, address: VersionAddress, check: Callable[[Project, Version], None]) -> Removed:
        """Remove a version on probation; `check` raises if the caller may not. Refuses with NOT_ON_PROBATION and what is not found."""
        async with self._pool.acquire() as connection, connection.transaction():
            version = await lock_version(connection, address, check)
            require_probation(version)
            await delete_versions(connection, [version.version_id])
            await connection.execute(REMOVAL["lower_usage"], version.project_id, version.usage)
            await connection.execute(REMOVAL["insert_removal"], address.folder)
        return Removed(version.project_id, address.folder)

    async def expired(self, days: float) -> list[VersionAddress]:
        """Read some of the versions that have waited for approval for more than so many days, oldest first."""
        found = await self._pool.fetch(SQL["expired_probation"], timedelta(days=days))
        return [VersionAddress(**row) for row in found]


async def lock_version(
    connection: Any, address: VersionAddress, check: Callable[[Project, Version], None] | None = None
) -> Version:
    """Lock a published version, its asset and its project, in the order that everybody keeps to. Refuses with what is not found."""
    storable = rows.storable(address.project, address.asset, address.version)
    found = await connection.fetchrow(READING["lock_project"], address.project) if storable else None
    project = rows.project_of(found, address.project)
    asset = await connection.fetchrow(READING["lock_asset"], project.project_id, address.asset)
    if asset is None or asset["revision"] == 0:
        raise rows.asset_missing(address.project, address.asset)
    row = await connection.fetchrow(SQL["lock_version"], asset["asset_id"], address.version)
    if row is None:
        raise rows.version_missing(address)
    version = Version(
        row["version_id"],
        project.project_id,
        asset["asset_id"],
        address,
        row["upload_user"],
        row["upload_start"],
        row["upload_finish"],
        row["on_probation"],
        row["version_id"] == asset["latest_id"],
        row["usage"],
        row["entries"],
    )
    if check is not None:
        check(project, version)
    return version


def require_probation(version: Version) -> None:
    """Refuse with NOT_ON_PROBATION for a version that does not wait for approval."""
    if not version.on_probation:
        raise Refusal(
            "NOT_ON_PROBATION",
            f"version {version.address.folder!r} does not wait for approval",
            metadata={"version": version.address.folder},
        )
