"""Auth's statements, run: single ones by `Store`, those that belong together by `Changes`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from drayman.server.auth.audit import Event, record
from drayman.server.auth.digest import Secret
from drayman.server.auth.identities import Identity
from drayman.server.auth.keys import PublicKey
from drayman.server.auth.sealing import Sealed
from drayman.server.platform.database import load_queries

HERE = Path(__file__).parent
SQL = load_queries(HERE / "queries.sql")

_CHANGE_LOCK = 0x61757468  # "auth": one change of users, roles or keys at a time


@dataclass(frozen=True, slots=True)
class User:
    """A user as stored; `roles` and `identities` are sorted."""

    name: str
    admin: bool
    disabled: bool
    full_name: str
    email: str
    created_at: datetime
    roles: Sequence[str]
    identities: Sequence[Identity] = ()

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

    @property
    def connection(self) -> Any:
        """The connection, for what another store does within the same transaction."""
        return self._connection

    async def user(self, name: str) -> User | None:
        """Read a user."""
        return _user(await self._connection.fetchrow(SQL["get_user"], name))

    async def any_user(self) -> bool:
        """Whether there is a user at all."""
        return bool(await self._connection.fetchval(SQL["any_user"]))

    async def other_admins(self, name: str) -> bool:
        """Whether somebody other than this user can administer."""
        return bool(await self._connection.fetchval(SQL["other_admins"], name))

    async def users(self, names: Iterable[str]) -> dict[str, User]:
        """Read those of these users who exist, by name."""
        rows = await self._connection.fetch(SQL["get_users"], list(names))
        return {row["name"]: user for row in rows if (user := _user(row)) is not None}

    async def insert_user(self, name: str, *, admin: bool, full_name: str, email: str, disabled: bool = False) -> bool:
        """Add a user; False if the name is taken."""
        values = (name, admin, disabled, full_name, email)
        return await self._connection.fetchval(SQL["insert_user"], *values) is not None

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
        await self._connection.execute(SQL["insert_secrets"], name, *_columns(secrets))

    async def put_secrets(self, name: str, secrets: Sequence[Secret]) -> None:
        """Add secrets of a user, in the place of those of the same algorithm and realm."""
        await self._connection.execute(SQL["put_secrets"], name, *_columns(secrets))

    async def secrets(self, name: str, realm: str) -> dict[str, Secret]:
        """Read the secrets of a user in a realm, by algorithm."""
        rows = await self._connection.fetch(SQL["stored_secrets"], name, realm)
        return {row["algorithm"]: Secret(row["algorithm"], realm, row["ha1"]) for row in rows}

    async def insert_identities(self, name: str, identities: Sequence[Identity]) -> list[Identity]:
        """Register identities of a user; returns those that were not."""
        columns = [each.kind for each in identities], [each.name for each in identities]
        rows = await self._connection.fetch(SQL["insert_identities"], name, *columns)
        return sorted(Identity(row["kind"], row["name"]) for row in rows)

    async def delete_identities(self, name: str, identities: Sequence[Identity]) -> list[Identity]:
        """Remove identities of a user; returns those that were registered."""
        columns = [each.kind for each in identities], [each.name for each in identities]
        rows = await self._connection.fetch(SQL["delete_identities"], name, *columns)
        return sorted(Identity(row["kind"], row["name"]) for row in rows)

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

    async def insert_memberships(self, roles: Iterable[str], users: Iterable[str]) -> list[tuple[str, str]]:
        """Make every user a member of every role; returns the pairs of role and user that are new."""
        rows = await self._connection.fetch(SQL["insert_memberships"], list(roles), list(users))
        return sorted((row["role"], row["username"]) for row in rows)

    async def delete_members(self, role: str, users: Iterable[str]) -> list[str]:
        """Take users out of a role; returns those who were in it."""
        return sorted(row["username"] for row in await self._connection.fetch(SQL["delete_members"], role, list(users)))

    async def lock_users(self, names: Iterable[str]) -> None:
        """Let logins of these users that are in progress come to their end, and keep others waiting until the commit."""
        await self._connection.execute(SQL["lock_users"], sorted(set(names)))

    async def raise_standing(self, names: Iterable[str], *, revoke: bool = False) -> None:
        """Note that what these users may do has changed; with `revoke` every token made before is refused from now on.

        Logins of these users that are in progress come to their end before, or see what changed.
        """
        await self._connection.execute(SQL["lock_users"], sorted(set(names)))
        await self._connection.execute(SQL["raise_standing"], sorted(set(names)), revoke)

    async def end_sessions(self, name: str, *, keep: UUID | None = None, method: str | None = None) -> int:
        """End the sessions of a user, but the one to keep and those of other methods; returns how many."""
        return int(await self._connection.fetchval(SQL["end_sessions"], name, keep, method))

    async def end_session(self, name: str, session_id: UUID) -> bool:
        """End a session of a user; False if there is no such session."""
        return bool(await self._connection.fetchval(SQL["end_session"], name, session_id))

    async def record(self, *events: Event) -> None:
        """Write into the audit log what this transaction does."""
        await record(self._connection, *events)

    async def insert_nonce_key(self, sealed: Sealed) -> None:
        """Keep the key that signs nonces, unless there is one."""
        await self._connection.execute(SQL["insert_nonce_key"], sealed.data, sealed.key_id)

    async def any_key(self) -> bool:
        """Whether there is a key that signs session tokens."""
        return bool(await self._connection.fetchval(SQL["any_key"]))

    async def insert_key(self, key: PublicKey, sealed: Sealed, lead: float) -> None:
        """Publish a key, whose private part is sealed, that signs from `lead` seconds after now."""
        await self._connection.execute(
            SQL["insert_key"], key.key_id, sealed.data, key.raw, timedelta(seconds=lead), sealed.key_id
        )


class Store:
    """The tables of auth."""

    def __init__(self, pool: asyncpg.Pool, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called after each transaction of changes."""
        self._pool = pool
        self._changed = changed

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[Changes]:
        """Begin a transaction of changes; it is committed when the block ends and undone if it raises.

        Changes are rare. Doing them one after another makes "the last administrator" and "a role that exists" facts that hold until
        the commit, and leaves no order of row locks to get wrong.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(SQL["lock_changes"], _CHANGE_LOCK)
            yield Changes(connection)
        self._changed()

    async def record(self, *events: Event) -> None:
        """Write into the audit log what changed nothing: refusals."""
        await record(self._pool, *events)

    async def user(self, name: str) -> User | None:
        """Read a user."""
        return _user(await self._pool.fetchrow(SQL["get_user"], name))

    async def users(self, after: str, limit: int) -> list[User]:
        """Read at most `limit` users whose names come after `after`, by name."""
        rows = await self._pool.fetch(SQL["list_users"], after, limit)
        return [user for row in rows if (user := _user(row)) is not None]

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

    async def sweep(self) -> None:
        """Forget expired nonces."""
        await self._pool.execute(SQL["sweep_nonces"])


def _user(row: asyncpg.Record | None) -> User | None:
    return User(**{**row, "identities": [Identity.of(text) for text in row["identities"]]}) if row else None


def _columns(secrets: Sequence[Secret]) -> list[list[str]]:
    return [[getattr(secret, column) for secret in secrets] for column in ("algorithm", "realm", "ha1")]


def _role(row: asyncpg.Record | None) -> Role | None:
    return Role(row["name"], row["members"]) if row else None
