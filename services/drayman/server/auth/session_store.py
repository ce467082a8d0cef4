"""Sessions as stored, and what services are told of standing and revocation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from drayman.server.auth.audit import Author, Event, record
from drayman.server.auth.digest import Secret
from drayman.server.auth.refresh_tokens import Stored
from drayman.server.platform.database import load_queries

SQL = load_queries(Path(__file__).parent / "session_queries.sql")


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a token is made for: what they may do, and the version of their standing."""

    name: str
    admin: bool
    disabled: bool
    version: int
    roles: Sequence[str]


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session as stored; `ends_at` None = no refresh is the last one."""

    session_id: UUID
    username: str
    method: str
    peer: str
    client: str
    created_at: datetime
    refreshed_at: datetime
    expires_at: datetime
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class Refreshable:
    """What a refresh needs to know of a session; times in seconds since 1970."""

    username: str
    method: str
    ends: float | None
    tokens: Stored


@dataclass(frozen=True, slots=True)
class StandingRow:
    """What services are told of a user."""

    username: str
    version: int
    valid_from: int
    admin: bool
    roles: Sequence[str]


@dataclass(frozen=True, slots=True)
class RevokedRow:
    """What services are told of a session that was ended."""

    session_id: UUID
    username: str
    version: int
    until: datetime


class Logins:
    """One transaction in which a session begins or goes on."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def subject(self, name: str) -> Subject | None:
        """Read a user; what is read holds until the commit, but for what does not revoke tokens."""
        await self._connection.execute(SQL["lock_user"], name)
        return _subject(await self._connection.fetchrow(SQL["subject"], name))

    async def has_secret(self, name: str, secret: Secret) -> bool:
        """Whether a password is a user's still; it stays so until the commit, if `subject` was read before."""
        return bool(
            await self._connection.fetchval(SQL["has_secret"], name, secret.algorithm, secret.realm, secret.ha1)
        )

    async def insert(
        self,
        session_id: UUID,
        name: str,
        method: str,
        author: Author,
        *,
        expires: float,
        ends: float | None,
        token_until: float,
        refresh_hash: bytes | None,
    ) -> None:
        """Keep a new session; times in seconds since 1970."""
        times = (_time(expires), None if ends is None else _time(ends), _time(token_until))
        await self._connection.execute(
            SQL["insert_session"], session_id, name, method, author.peer, author.client[:500], *times, refresh_hash
        )

    async def lock_session(self, session_id: UUID) -> Refreshable | None:
        """Read a session that has not ended, for this transaction alone; its user is locked as well, before it."""
        await self._connection.execute(SQL["lock_user_of_session"], session_id)
        row = await self._connection.fetchrow(SQL["lock_session"], session_id)
        if row is None:
            return None
        rotated = row["rotated_at"].timestamp() if row["rotated_at"] else 0.0
        ends = row["ends_at"].timestamp() if row["ends_at"] else None
        tokens = Stored(row["refresh_hash"], row["previous_hash"], row["previous_request"], rotated)
        return Refreshable(row["username"], row["method"], ends, tokens)

    async def refresh(self, session_id: UUID, *, expires: float, token_until: float) -> None:
        """Note that the session got a token."""
        await self._connection.execute(SQL["refresh_session"], session_id, _time(expires), _time(token_until))

    async def rotate(self, session_id: UUID, request: UUID, refresh_hash: bytes) -> None:
        """Put the next refresh token in the place of the one that this request has used."""
        await self._connection.execute(SQL["rotate_refresh_token"], session_id, request, refresh_hash)

    async def record(self, *events: Event) -> None:
        """Write into the audit log what this transaction does."""
        await record(self._connection, *events)


class SessionStore:
    """The tables of sessions and of what services are told."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def logins(self) -> AsyncIterator[Logins]:
        """Begin a transaction; it is committed when the block ends and undone if it raises."""
        async with self._pool.acquire() as connection, connection.transaction():
            yield Logins(connection)

    async def session(self, session_id: UUID) -> StoredSession | None:
        """Read a session."""
        row = await self._pool.fetchrow(SQL["get_session"], session_id)
        return StoredSession(**dict(row)) if row else None

    async def sessions(self, name: str) -> list[StoredSession]:
        """Read the sessions of a user that have not ended, newest first."""
        return [StoredSession(**dict(row)) for row in await self._pool.fetch(SQL["list_sessions"], name)]

    async def standings(self, after: int) -> list[StandingRow]:
        """Read what changed after a version, oldest first."""
        return [StandingRow(**dict(row)) for row in await self._pool.fetch(SQL["standings_since"], after)]

    async def revoked(self, after: int) -> list[RevokedRow]:
        """Read the sessions that were ended after a version, oldest first."""
        return [RevokedRow(**dict(row)) for row in await self._pool.fetch(SQL["revoked_since"], after)]

    async def registered(self, name: str, kind: str) -> list[str]:
        """Read the identities of a kind by which a user logs in."""
        return [row["name"] for row in await self._pool.fetch(SQL["registered"], name, kind)]

    async def only_user(self, kind: str, identity: str) -> str | None:
        """Return the one user for whom an identity is registered; None if there is none, or several."""
        rows = await self._pool.fetch(SQL["registered_users"], kind, identity)
        return rows[0]["username"] if len(rows) == 1 else None

    async def sweep(self) -> None:
        """Forget what no valid token can name any more."""
        for name in ("sweep_sessions", "sweep_revoked_sessions", "sweep_standings"):
            await self._pool.execute(SQL[name])


def _subject(row: asyncpg.Record | None) -> Subject | None:
    return Subject(**dict(row)) if row else None


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
