"""The table of sandboxes: who stored what, and when it was used last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg

from drayman.server.platform.database import load_queries

LONGEST_NAME = 255

SQL = load_queries(Path(__file__).parent / "sandbox_queries.sql")


class SandboxStore:
    """What is known of sandboxes. The bytes are elsewhere: a row is written after they are there, and removed before they go."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def add(self, name: str, key: str, owner: str, size: int, trailer: bytes) -> bool:
        """Add one whose bytes are under `key`; False if there is one of that name."""
        return await self._pool.fetchval(SQL["add"], name, key, owner, size, trailer) is not None

    async def replace(self, name: str, key: str, owner: str, size: int, trailer: bytes) -> str | None:
        """Add one in place of another one, if there is one of that name; returns the key of the other one's bytes."""
        while not await self.add(name, key, owner, size, trailer):
            old: str | None = await self._pool.fetchval(SQL["replace"], name, key, owner, size, trailer)
            if old is not None:
                return old
        return None

    async def find(self, name: str) -> Any:
        """Read one: name, key, owner, size, created_at; None if there is none."""
        return await self._pool.fetchrow(SQL["one"], name)

    async def same(self, owner: str, size: int, trailer: bytes, seconds: float) -> Any:
        """Read the owner's newest one with this content that is not older: name, key, created_at; None if there is none."""
        return await self._pool.fetchrow(SQL["same"], owner, size, trailer, seconds)

    async def used(self, names: Sequence[str]) -> None:
        """They were used now."""
        await self._pool.execute(SQL["used"], list(names))

    async def sweep(self, seconds: float, most: int) -> tuple[int, list[str]]:
        """Forget some that nobody used for so long. Returns at how many it looked, and the keys of the bytes that are of no use any more.

        What a task names that is not over counts as used: it may be paused for long.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            found = {row["name"]: row["key"] for row in await connection.fetch(SQL["unused"], seconds, most)}
            # as they are in parameters, which are JSON
            written = [json.dumps(name)[1:-1] for name in found]
            kept = {row["name"] for row in await connection.fetch(SQL["keep"], list(found), written)} if found else ()
            gone = [name for name in found if name not in kept]
            await connection.execute(SQL["forget"], gone)
        return len(found), [found[name] for name in gone]

    async def known(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that belong to a sandbox."""
        return {row["key"] for row in await self._pool.fetch(SQL["known"], list(keys))}


def is_name(name: str) -> bool:
    """Whether a sandbox may have this name."""
    return (
        0 < len(name.encode(errors="replace")) <= LONGEST_NAME
        and name not in (".", "..")
        and "/" not in name
        and all(character.isprintable() for character in name)
    )
