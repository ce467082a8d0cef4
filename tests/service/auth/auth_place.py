"""Auth's database and rules without a service around them, and what there is to see in them."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg

from drayman.server.auth.audit import Author
from drayman.server.auth.directory import Directory
from drayman.server.auth.sessions import Sessions
from drayman.server.auth.store import Store
from drayman.server.auth.user_servicer import UserServicer
from drayman.server.platform.calls import Call
from drayman.server.platform.trust import Caller

ROOT = Author("root", "192.0.2.1", "test/1")
HASH = "0123456789abcdef" * 4


class Place:
    """A database with the administrator `root`, and what there is to see in it."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool
        self.store = Store(pool)
        self.directory = Directory(self.store)
        # nothing here gets as far as a token
        self.servicer = UserServicer(self.store, cast("Sessions", None), "drayman")
        self._seen = 0

    async def user(self, name: str, *, admin: bool = False, roles: tuple[str, ...] = ()) -> str:
        """Add a user and forget what that left."""
        await self.directory.create_user(
            ROOT, name, [], admin=admin, roles=roles, create_roles=True, full_name="", email=""
        )
        await self.forget()
        return name

    async def session(self, name: str, method: str = "digest") -> UUID:
        session = uuid4()
        end = datetime.now(UTC) + timedelta(hours=1)
        await self.pool.execute(
            "INSERT INTO auth.session (session_id, username, method, peer, client, expires_at, token_until, refresh_hash)"
            " VALUES ($1, $2, $3, '', '', $4, $4, $5)",
            *(session, name, method, end, None if method == "issued" else session.bytes * 2),
        )
        return session

    async def sessions(self, name: str) -> set[UUID]:
        rows = await self.pool.fetch("SELECT session_id FROM auth.session WHERE username = $1", name)
        return {row["session_id"] for row in rows}

    async def revoked(self) -> set[UUID]:
        return {row["session_id"] for row in await self.pool.fetch("SELECT session_id FROM auth.revoked_session")}

    async def events(self) -> list[tuple[Any, ...]]:
        """What was left since the last look: action, actor, subject, refused, reason, detail."""
        rows = await self.pool.fetch("DELETE FROM auth.audit_event RETURNING *")
        rows.sort(key=lambda row: row["event_id"])
        assert {(row["peer"], row["client"]) for row in rows} <= {(ROOT.peer, ROOT.client)}
        return [
            (*(row[key] for key in ("action", "actor", "subject", "refused", "reason")), json.loads(row["detail"]))
            for row in rows
        ]

    async def standing(self) -> dict[str, bool]:
        """Whose standing was raised since the last look, and whether that revoked all tokens made before."""
        rows = await self.pool.fetch(
            "SELECT username, version, valid_from FROM auth.standing WHERE version > $1", self._seen
        )
        self._seen = max([self._seen, *(row["version"] for row in rows)])
        return {row["username"]: row["valid_from"] == row["version"] for row in rows}

    async def forget(self) -> None:
        await self.pool.execute("DELETE FROM auth.audit_event")
        await self.standing()

    async def left(self) -> tuple[list[tuple[Any, ...]], dict[str, bool]]:
        return await self.events(), await self.standing()


def done(action: str, subject: str, **detail: object) -> tuple[Any, ...]:
    """What `root` leaves who does this."""
    return (action, "root", subject, False, "", detail)


class Context:
    """As much of gRPC's context as tells who calls."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("user-agent", ROOT.client),)

    def peer(self) -> str:
        return f"ipv4:{ROOT.peer}:4711"


def call_of(name: str, *, admin: bool = False) -> Call:
    return Call(Context(), Caller(name, admin, frozenset(), 0.0, "", str(uuid4())))  # type: ignore[arg-type]
