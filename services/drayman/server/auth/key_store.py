"""The keys of auth itself, as stored: sealed, but for their public parts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from drayman.server.auth import sealing
from drayman.server.auth.keys import PublicKey, SigningKey
from drayman.server.auth.sealing import SealingKeys
from drayman.server.platform.database import load_queries

SQL = load_queries(Path(__file__).parent / "key_queries.sql")


class KeyStore:
    """Keys that sign session tokens, and the one that signs nonces."""

    def __init__(self, pool: asyncpg.Pool, keys: SealingKeys) -> None:
        self._pool = pool
        self.sealing = keys

    async def nonce_key(self) -> bytes:
        """Read the key that signs nonces."""
        row = await self._pool.fetchrow(SQL["nonce_key"])
        assert row is not None, "the room makes a key before it opens"
        return sealing.opened_nonce_key(self.sealing, bytes(row["secret"]), row["sealed_by"])

    async def published_keys(self) -> list[PublicKey]:
        """Read the public keys with which session tokens are verified."""
        return [PublicKey(row["key_id"], row["public_key"]) for row in await self._pool.fetch(SQL["published_keys"])]

    async def signing_key(self) -> tuple[SigningKey, float]:
        """Read the key that signs now, and until when it is known to be needed, in seconds since 1970."""
        row = await self._pool.fetchrow(SQL["signing_key"])
        assert row is not None, "the room makes a key before it opens"
        key = sealing.opened_signing_key(self.sealing, row["key_id"], bytes(row["private_key"]), row["sealed_by"])
        return key, row["needed_until"].timestamp()

    async def need_key(self, key_id: str, until: float) -> bool:
        """Keep a key published until then at least; False if it has been removed."""
        return await self._pool.fetchval(SQL["need_key"], key_id, datetime.fromtimestamp(until, UTC)) is not None

    async def any_in_the_clear(self) -> bool:
        """Whether a key is not sealed: one from before there was sealing."""
        return bool(await self._pool.fetchval(SQL["any_in_the_clear"]))

    async def sweep(self) -> list[str]:
        """Forget the keys of which no token is left; returns their ids."""
        return [row["key_id"] for row in await self._pool.fetch(SQL["sweep_keys"])]
