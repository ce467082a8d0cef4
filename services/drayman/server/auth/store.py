"""Auth's statements, run: single ones by `Store`, those that belong together by `Changes`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from drayman.server.auth.digest import Secret
from drayman.server.auth.keys import PublicKey, SigningKey
from drayman.server.platform.database import load_queries

HERE = Path(__file__).parent
SQL = load_queries(HERE / "queries.sql")

_CHANGE_LOCK = 0x61757468  # "auth": one change of users, roles or keys at a time


@dataclass(frozen=True, slots=True)
class User:
    """A user as stored; `roles` are sorted."""

    name: str
    admin: bool
    disabled: bool
    full_name: str
    email: str
    created_at: datetime
    roles: Sequence[str]

    @property
    def administers(self) -> bool:
        """Whether they can administer the deployment."""
        return self.admin and not self.disabled


@dataclass(frozen=True, slots=True)
class Role:
    """A role as stored; `members` are sorted."""

    name: str
    members: Sequence[str]


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """What a password login is checked against."""

    ha1: str
    disabled: bool


class Changes:
    """One transaction of changes. No other one runs at the same time, on any replica."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def user(self, name: str) -> User | None:
        """Read a user."""
        return _user(await self._connection.fetchrow(SQL["get_user"], name))

    async def any_user(self) -> bool:
        """Whether there is a user at all."""
        return bool(await self._connection.fetchval(SQL["any_user"]))

    async def other_admins(self, name: str) -> bool:
        """Whether somebody other than this user can administer."""
        return bool(await self._connection.fetchval(SQL["other_admins"], name))

    async def insert_user(self, name: str, *, admin: bool, full_name: str, email: str) -> bool:
        """Add a user; False if the name is taken."""
        return await self._connection.fetchval(SQL["insert_user"], name, admin, full_name, email) is not None

    async def update_user(
        self, name: str, *, admin: bool | None, disabled: bool | None, full_name: str | None, email: str | None
    ) -> None:
        """Change what is not None."""
        await self._connection.execute(SQL["update_user"], name, admin, disabled, full_name, email)

    async def delete_user(self, name: str) -> None:
        """Remove a user, their memberships and secrets."""
        await self._connection.execute(SQL["delete_user"], name)

    async def insert_secrets(self, name: str, secrets: Sequence[Secret]) -> None:
        """Add secrets of a user."""
        columns = [[getattr(secret, column) for secret in secrets] for column in ("algorithm", "realm", "ha1")]
        await self._connection.execute(SQL["insert_secrets"], name, *columns)

    async def delete_secrets(self, name: str) -> None:
        """Remove all secrets of a user."""
        await self._connection.execute(SQL["delete_secrets"], name)

    async def known_users(self, names: Iterable[str]) -> set[str]:
        """Return those of the names that users have."""
        return {row["name"] for row in await self._connection.fetch(SQL["known_users"], list(names))}

    async def known_roles(self, names: Iterable[str]) -> set[str]:
        """Return those of the names that roles have."""
        return {row["name"] for row in await self._connection.fetch(SQL["known_roles"], list(names))}

    async def role(self, name: str) -> Role | None:
        """Read a role."""
        return _role(await self._connection.fetchrow(SQL["get_role"], name))

    async def insert_roles(self, names: Iterable[str]) -> set[str]:
        """Add the roles that are missing; returns their names."""
        return {row["name"] for row in await self._connection.fetch(SQL["insert_roles"], list(names))}

    async def delete_role(self, name: str) -> None:
        """Remove a role and its memberships."""
        await self._connection.execute(SQL["delete_role"], name)

    async def insert_memberships(self, roles: Iterable[str], users: Iterable[str]) -> None:
        """Make every user a member of every role."""
        await self._connection.execute(SQL["insert_memberships"], list(roles), list(users))

    async def delete_members(self, role: str, users: Iterable[str]) -> None:
        """Take users out of a role."""
        await self._connection.execute(SQL["delete_members"], role, list(users))

    async def insert_nonce_key(self, key: bytes) -> None:
        """Keep the key that signs nonces, unless there is one."""
        await self._connection.execute(SQL["insert_nonce_key"], key)

    async def any_key(self) -> bool:
        """Whether there is a key that signs session tokens."""
        return await self._connection.fetchrow(SQL["signing_key"]) is not None

    async def insert_key(self, key: SigningKey, lead: float) -> None:
        """Publish a key that signs from `lead` seconds after now."""
        await self._connection.execute(
            SQL["insert_key"], key.key_id, key.to_bytes(), key.public().raw, timedelta(seconds=lead)
        )


class Store:
    """The tables of auth."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[Changes]:
        """Begin a transaction of changes; it is committed when the block ends and undone if it raises.

        Changes are rare. Doing them one after another makes "the last administrator" and "a role that exists" facts that hold until
        the commit, and leaves no order of row locks to get wrong.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(SQL["lock_changes"], _CHANGE_LOCK)
            yield Changes(connection)

    async def user(self, name: str) -> User | None:
        """Read a user."""
        return _user(await self._pool.fetchrow(SQL["get_user"], name))

    async def users(self, after: str, limit: int) -> list[User]:
        """Read at most `limit` users whose names come after `after`, by name."""
        rows = await self._pool.fetch(SQL["list_users"], after, limit)
        return [User(**dict(row)) for row in rows]

    async def standing(self, name: str) -> tuple[bool, bool] | None:
        """Read whether a user is an administrator and whether they are disabled; None = no such user."""
        row = await self._pool.fetchrow(SQL["standing"], name)
        return (row["admin"], row["disabled"]) if row else None

    async def roles(self) -> list[Role]:
        """Read all roles, by name."""
        return [Role(row["name"], row["members"]) for row in await self._pool.fetch(SQL["list_roles"])]

    async def known_users(self, names: Iterable[str]) -> set[str]:
        """Return those of the names that users have."""
        return {row["name"] for row in await self._pool.fetch(SQL["known_users"], list(names))}

    async def known_roles(self, names: Iterable[str]) -> set[str]:
        """Return those of the names that roles have."""
        return {row["name"] for row in await self._pool.fetch(SQL["known_roles"], list(names))}

    async def login_secret(self, name: str, algorithm: str, realm: str) -> StoredSecret | None:
        """Read what a password login is checked against."""
        row = await self._pool.fetchrow(SQL["login_secret"], name, algorithm, realm)
        return StoredSecret(row["ha1"], row["disabled"]) if row else None

    async def md5_in_use(self, realm: str) -> bool:
        """Whether an imported MD5 hash of this realm is stored."""
        return bool(await self._pool.fetchval(SQL["md5_in_use"], realm))

    async def use_nonce(self, identity: bytes, expires: float) -> bool:
        """Mark a nonce as used; True for exactly one of all who try, on any replica."""
        return await self._pool.fetchval(SQL["use_nonce"], identity, datetime.fromtimestamp(expires, UTC)) is not None

    async def nonce_key(self) -> bytes:
        """Read the key that signs nonces."""
        return bytes(await self._pool.fetchval(SQL["nonce_key"]))

    async def published_keys(self) -> list[PublicKey]:
        """Read the public keys with which session tokens are verified."""
        return [PublicKey(row["key_id"], row["public_key"]) for row in await self._pool.fetch(SQL["published_keys"])]

    async def signing_key(self) -> tuple[SigningKey, float]:
        """Read the key that signs now, and until when it is known to be needed, in seconds since 1970."""
        row = await self._pool.fetchrow(SQL["signing_key"])
        assert row is not None, "the room makes a key before it opens"
        return SigningKey.from_bytes(row["key_id"], row["private_key"]), row["needed_until"].timestamp()

    async def need_key(self, key_id: str, until: float) -> bool:
        """Keep a key published until then at least; False if it has been removed."""
        return await self._pool.fetchval(SQL["need_key"], key_id, datetime.fromtimestamp(until, UTC)) is not None

    async def sweep(self) -> list[str]:
        """Forget expired nonces and keys of which no token is left; returns the ids of the keys."""
        await self._pool.execute(SQL["sweep_nonces"])
        return [row["key_id"] for row in await self._pool.fetch(SQL["sweep_keys"])]


def _user(row: asyncpg.Record | None) -> User | None:
    return User(**dict(row)) if row else None


def _role(row: asyncpg.Record | None) -> Role | None:
    return Role(row["name"], row["members"]) if row else None
