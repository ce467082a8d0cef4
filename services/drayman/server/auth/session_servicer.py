"""SessionService: who is logged in, and how to end it."""

from __future__ import annotations

from drayman.auth.v1 import session_service_pb2 as pb
from drayman.server.auth import names
from drayman.server.auth.audit import Event, author_of
from drayman.server.auth.auth_servicer import timestamp
from drayman.server.auth.directory import user_not_found
from drayman.server.auth.session_store import SessionStore, StoredSession
from drayman.server.auth.standing import require_self_or_admin
from drayman.server.auth.store import Store
from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid


class SessionServicer:
    """Lists and ends sessions: one's own, and for administrators everybody's."""

    def __init__(self, store: Store, sessions: SessionStore) -> None:
        self._store = store
        self._sessions = sessions

    async def ListSessions(self, request: pb.ListSessionsRequest, call: Call) -> pb.ListSessionsResponse:
        """Read the sessions of a user."""
        username = await self._whose(request.username, call)
        sessions = await self._sessions.sessions(username)
        return pb.ListSessionsResponse(sessions=[_session(each, call.caller.session) for each in sessions])

    async def RevokeSessions(self, request: pb.RevokeSessionsRequest, call: Call) -> pb.RevokeSessionsResponse:
        """End one session, or all of them with every token made so far."""
        target = request.WhichOneof("target")
        if target is None or (target == "all" and not request.all):
            raise invalid("target", "expected session_id, or all: true")
        session_id = names.check_uuid("session_id", request.session_id) if target == "session_id" else None
        username = await self._whose(request.username, call)
        author = author_of(call)
        async with self._store.changes() as changes:
            if await changes.user(username) is None:
                raise user_not_found(username)
            if session_id is None:
                await changes.raise_standing([username], revoke=True)
                revoked = await changes.end_sessions(username)
            elif await changes.end_session(username, session_id):
                revoked = 1
            else:
                raise Refusal(
                    "SESSION_NOT_FOUND",
                    f"user {username} has no session {session_id}",
                    "session_id",
                    {"user": username, "session": str(session_id)},
                )
            detail = {"session": str(session_id) if session_id else "all", "revoked": revoked}
            await changes.record(Event("SESSION_REVOKED", author, username, detail=detail))
        return pb.RevokeSessionsResponse(revoked=revoked)

    async def _whose(self, asked: str, call: Call) -> str:
        username = names.check("username", asked) if asked else call.caller.username
        await require_self_or_admin(self._store, call.caller, username)
        if await self._store.user(username) is None:
            raise user_not_found(username)
        return username


def _session(session: StoredSession, current: str) -> pb.Session:
    return pb.Session(
        session_id=str(session.session_id),
        username=session.username,
        method=session.method,
        peer=session.peer,
        client=session.client,
        create_time=timestamp(session.created_at.timestamp()),
        refresh_time=timestamp(session.refreshed_at.timestamp()),
        expire_time=timestamp(session.expires_at.timestamp()),
        current=str(session.session_id) == current,
    )
