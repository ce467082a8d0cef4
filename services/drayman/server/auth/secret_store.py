"""Users' secrets in the database, and the change to another sealing key of everything that is sealed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from drayman.server.auth import sealing
from drayman.server.auth.sealing import KeyMissing, Sealed, SealingKeys
from drayman.server.auth.secret_rules import total_problem
from drayman.server.auth.store import Store
from drayman.server.platform.database import load_queries
from drayman.server.platform.errors import Refusal
from drayman.server.platform.settings import SettingsError

SQL = load_queries(Path(__file__).parent / "secret_queries.sql")

_SEALING_LOCK = 0x7365616C  # "seal"
#: Changes at a time: users with many secrets must not keep logins from the database's connections.
_CHANGES_AT_A_TIME = 3
#: A value has at most 4 MB.
_VALUES_A_PAGE = 8
_KEYS_A_PAGE = 1000

_Reseal = Callable[[Any], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class UserSecret:
    """A secret as its owner sees it; `value` is None unless it was asked for, `length` is in characters."""

    key: str
    value: str | None = field(repr=False)
    length: int
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Reencryption:
    """What a re-encryption did: the id of the key that seals everything now, and how many secrets and keys of auth it sealed anew."""

    key_id: str
    user_secrets: int
    own_keys: int


async def keys_in_use(connection: asyncpg.Pool | Any) -> frozenset[str]:
    """Read the ids of the keys that something in the database is sealed by."""
    return frozenset(row["sealed_by"] for row in await connection.fetch(SQL["keys_in_use"]))


async def require_keys(connection: asyncpg.Pool | Any, keys: SealingKeys) -> None:
    """Raise SettingsError if something is sealed by a key that is not in the key file."""
    missing = sorted(await keys_in_use(connection) - keys.ids)
    if missing:
        raise _keys_missing(keys.path, missing)


async def open_keys(connection: asyncpg.Pool | Any, path: Path) -> SealingKeys:
    """Read the key file, which is made only if nothing is sealed yet, and check that it has every key in use.

    To be called under the lock of changes, together with the first sealing: of several hosts that start at once one makes the key file,
    and the others are told to copy it. Raises SettingsError, OSError.
    """
    used = await keys_in_use(connection)
    if used and not path.exists():
        raise _keys_missing(path, sorted(used))
    keys = SealingKeys.obtain(path)
    await require_keys(connection, keys)
    return keys


class SecretStore:
    """The table of users' secrets."""

    def __init__(self, pool: asyncpg.Pool, store: Store, keys: SealingKeys) -> None:
        self._pool = pool
        self._store = store
        self._keys = keys
        self._turns = asyncio.Semaphore(_CHANGES_AT_A_TIME)

    async def set(self, username: str, key: str, value: str) -> None:
        """Store a secret. Raises Refusal (TOO_MANY_SECRETS; TOKEN_INVALID if the user is gone)."""
        raw = value.encode()
        async with self._turns, self._pool.acquire() as connection, connection.transaction():
            await connection.execute(SQL["lock_sealing"], _SEALING_LOCK)
            if await connection.fetchval(SQL["lock_user"], username) is None:
                raise Refusal("TOKEN_INVALID", f"user {username} not found", metadata={"user": username})
            (others,) = await connection.fetch(SQL["usage"], username, key, sealing.OVERHEAD)
            problem = total_problem(others["keys"] + 1, others["size"] + len(raw))
            if problem:
                raise Refusal("TOO_MANY_SECRETS", problem, metadata={"user": username})
            sealed = self._keys.seal(_place(username, key), raw)
            await connection.execute(SQL["set_secret"], username, key, sealed.data, sealed.key_id, len(value))

    async def delete(self, username: str, key: str) -> int:
        """Remove a secret; returns how many that were."""
        return await self._delete("delete_secret", username, key)

    async def delete_all(self, username: str) -> int:
        """Remove all secrets of a user; returns how many that were."""
        return await self._delete("delete_secrets", username)

    async def secrets(
        self, username: str, keys: Sequence[str] | None = None, *, values: bool = True
    ) -> AsyncIterator[UserSecret]:
        """Read a user's secrets by key, only these `keys` if given. Raises Refusal (SEALING_KEY_MISSING), Tampered."""
        asked = list(keys) if keys is not None else None
        statement, size = (SQL["list_secrets"], _VALUES_A_PAGE) if values else (SQL["list_keys"], _KEYS_A_PAGE)
        after = ""
        while True:
            page = await self._pool.fetch(statement, username, after, asked, size)
            for row in page:
                value = self._opened(username, row) if values else None
                yield UserSecret(row["key"], value, row["length"], row["changed_at"])
            if len(page) < size:
                return
            after = page[-1]["key"]

    async def reencrypt(self) -> Reencryption:
        """Seal with the newest key what another one seals, or what is in the clear, while everything goes on.

        Each batch is a transaction of its own: what was done stays done, and a second call goes on with the rest. Raises Refusal
        (SEALING_KEY_MISSING) before anything is changed, Tampered at a value that cannot be opened.
        """
        missing = sorted(await keys_in_use(self._pool) - self._keys.ids)
        if missing:
            raise _missing_refusal(missing[0])
        user_secrets = own_keys = 0
        newest = ""
        while newest != self._keys.newest:  # a key may be added while we work
            newest = self._keys.newest
            await self._await_sealing()
            for key_id in sorted(await keys_in_use(self._pool) - {newest}):
                user_secrets += await self._reseal_secrets(key_id)
            own_keys += await self._repeat(partial(self._reseal_signing_key, newest))
            own_keys += await self._repeat(partial(self._reseal_nonce_key, newest))
        return Reencryption(newest, user_secrets, own_keys)

    async def _delete(self, statement: str, username: str, *arguments: str) -> int:
        async with self._turns, self._pool.acquire() as connection, connection.transaction():
            await connection.fetchval(SQL["lock_user"], username)
            status = await connection.execute(SQL[statement], username, *arguments)
        return int(status.split()[-1])

    def _opened(self, username: str, row: asyncpg.Record) -> str:
        try:
            return self._keys.open(_place(username, row["key"]), Sealed(row["sealed_by"], row["sealed"])).decode()
        except KeyMissing as error:
            raise _missing_refusal(error.key_id) from error

    async def _await_sealing(self) -> None:
        """Wait for those who may have sealed with an older key and have not committed yet."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(SQL["await_sealing"], _SEALING_LOCK)
        async with self._store.changes():
            pass

    async def _reseal_secrets(self, key_id: str) -> int:
        count, place = 0, ("", "")
        while True:
            async with self._pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(SQL["secrets_to_reseal"], key_id, *place, _VALUES_A_PAGE)
                for row in rows:
                    await self._reseal_secret(connection, row, key_id)
            if not rows:
                break
            count, place = count + len(rows), (rows[-1]["username"], rows[-1]["key"])

        async def reseal_one(connection: Any) -> int:
            row = await connection.fetchrow(SQL["secret_to_reseal"], key_id)
            if row is None:
                return 0
            await self._reseal_secret(connection, row, key_id)
            return 1

        # what was skipped, one by one: who holds one row waits for no other
        return count + await self._repeat(reseal_one)

    async def _reseal_secret(self, connection: Any, row: asyncpg.Record, key_id: str) -> None:
        place = _place(row["username"], row["key"])
        sealed = self._keys.seal(place, self._keys.open(place, Sealed(key_id, row["sealed"])))
        await connection.execute(SQL["reseal_secret"], row["username"], row["key"], sealed.data, sealed.key_id)

    async def _reseal_signing_key(self, newest: str, connection: Any) -> int:
        row = await connection.fetchrow(SQL["signing_key_to_reseal"], newest)
        if row is None:
            return 0
        key = sealing.opened_signing_key(self._keys, row["key_id"], row["private_key"], row["sealed_by"])
        sealed = sealing.sealed_signing_key(self._keys, key)
        await connection.execute(SQL["reseal_signing_key"], key.key_id, sealed.data, sealed.key_id)
        return 1

    async def _reseal_nonce_key(self, newest: str, connection: Any) -> int:
        row = await connection.fetchrow(SQL["nonce_key_to_reseal"], newest)
        if row is None:
            return 0
        secret = sealing.opened_nonce_key(self._keys, row["secret"], row["sealed_by"])
        sealed = sealing.sealed_nonce_key(self._keys, secret)
        await connection.execute(SQL["reseal_nonce_key"], sealed.data, sealed.key_id)
        return 1

    async def _repeat(self, reseal: _Reseal) -> int:
        """Do one row a transaction until there is none left; returns how many there were."""
        count = 0
        while True:
            async with self._pool.acquire() as connection, connection.transaction():
                done = await reseal(connection)
            if not done:
                return count
            count += done


def _place(username: str, key: str) -> tuple[str, str, str]:
    return "user_secret", username, key


def _keys_missing(path: Path, missing: Sequence[str]) -> SettingsError:
    return SettingsError(
        f"{path}: lacks {', '.join(missing)}, with which the database is encrypted: "
        "copy the key file from another host of the deployment, or from its backup, "
        "or let DRAYMAN_SECRETS_KEY_FILE name the right one"
    )


def _missing_refusal(key_id: str) -> Refusal:
    return Refusal(
        "SEALING_KEY_MISSING",
        f"encrypted with the key {key_id}, which is not in the key file of the service",
        metadata={"key_id": key_id},
    )
