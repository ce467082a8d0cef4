"""What workers offered lately, and credentials that users delegated: the tables."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime

import asyncpg

from drayman.server.task.job_store import SQL, Row

#: Site, platform, software.
Offered = tuple[str, str, tuple[str, ...]]


class FarmStore:
    """Offers and credentials in the database."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def record_offers(self, offers: Collection[Offered]) -> None:
        """These were made just now."""
        rows = sorted(offers)
        await self._pool.execute(
            SQL["record_offers"],
            [site for site, _, _ in rows],
            [platform for _, platform, _ in rows],
            [json.dumps(software) for _, _, software in rows],
        )

    async def forget_offers(self) -> None:
        """Drop what was offered long ago."""
        await self._pool.execute(SQL["forget_offers"])

    async def offers(self, software: str) -> list[Row]:
        """What was offered within the last hour; with this software, if it is not empty."""
        return await self._pool.fetch(SQL["offers"], software)

    async def register_credential(self, owner: str, name: str, origin: str, repository: str, end: datetime) -> None:
        """Record a credential."""
        await self._pool.execute(SQL["register_credential"], owner, name, origin, repository, end)

    async def credential(self, owner: str) -> Row | None:
        """The credential that lasts longest, if one has not ended."""
        return await self._pool.fetchrow(SQL["credential"], owner)
