"""Tells services what they need to judge tokens: keys, standing, ended sessions.

One look at the database a second, whoever watches, and one at once after a change that was made here. What is told twice does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from drayman.auth.v1 import trust_service_pb2 as pb
from drayman.server.auth.key_store import KeyStore
from drayman.server.auth.keys import jwk_set
from drayman.server.auth.session_store import RevokedRow, SessionStore, StandingRow
from drayman.server.platform.calls import Call
from drayman.server.platform.lifecycle import Repeating

_LOOK_SECONDS = 1.0
#: Messages that a watcher may be behind; one that is further behind begins anew.
_BEHIND = 100


@dataclass(frozen=True, slots=True)
class _Seen:
    """The last version seen of each kind. Two looks are two moments: what one has seen says nothing of the other."""

    standing: int
    revoked: int


_NOTHING = _Seen(0, 0)


class TrustFeed(Repeating):
    """Looks for changes, and hands them to who watches."""

    def __init__(self, keys: KeyStore, sessions: SessionStore, issuer: str) -> None:
        super().__init__("trust feed", self._look)
        self._keys = keys
        self._sessions = sessions
        self._issuer = issuer
        self._seen = _NOTHING
        self._key_set_told = ""
        self._watchers: set[asyncio.Queue[pb.WatchTrustResponse | None]] = set()
        self._ending = False

    async def drain(self) -> None:
        """End the streams: who watches goes on at another replica."""
        self._ending = True
        for watcher in self._watchers:
            _put(watcher, None)

    async def watch(self) -> AsyncIterator[pb.WatchTrustResponse]:
        """Yield everything, then what changes. Ends when the service does, or when the watcher is too slow."""
        if self._ending:
            return
        # first the queue, then the look: nothing falls between them
        queue: asyncio.Queue[pb.WatchTrustResponse | None] = asyncio.Queue(_BEHIND)
        self._watchers.add(queue)
        try:
            message, _ = await self._message(_NOTHING)
            message.complete = True
            message.jwks_json, message.issuer = await self._key_set(), self._issuer
            yield message
            while (change := await queue.get()) is not None:
                yield change
        finally:
            self._watchers.discard(queue)

    async def _look(self) -> float:
        message, self._seen = await self._message(self._seen)
        keys = await self._key_set()
        if keys != self._key_set_told:
            message.jwks_json, message.issuer = keys, self._issuer
            self._key_set_told = keys
        for watcher in list(self._watchers):
            if not _put(watcher, message):
                self._watchers.discard(watcher)
        return _LOOK_SECONDS

    async def _message(self, seen: _Seen) -> tuple[pb.WatchTrustResponse, _Seen]:
        """Return what changed after what was seen, and what has been seen now."""
        standings = await self._sessions.standings(seen.standing)
        revoked = await self._sessions.revoked(seen.revoked)
        message = pb.WatchTrustResponse(
            standings=[_standing(row) for row in standings], revoked_sessions=[_revoked(row) for row in revoked]
        )
        return message, _Seen(
            standings[-1].version if standings else seen.standing, revoked[-1].version if revoked else seen.revoked
        )

    async def _key_set(self) -> str:
        return jwk_set(await self._keys.published_keys())


class TrustServicer:
    """TrustService, for the services of the deployment."""

    def __init__(self, feed: TrustFeed) -> None:
        self._feed = feed

    async def WatchTrust(self, _request: pb.WatchTrustRequest, call: Call) -> None:  # noqa: N802 - the name is the contract
        """Tell everything that matters, then what changes."""
        async for message in self._feed.watch():
            await call.send(message)


def _put(queue: asyncio.Queue[pb.WatchTrustResponse | None], message: pb.WatchTrustResponse | None) -> bool:
    """Hand over a message; False if the watcher is too far behind, whose stream then ends."""
    if queue.full():
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)
        return False
    queue.put_nowait(message)
    return True


def _standing(row: StandingRow) -> pb.Standing:
    return pb.Standing(
        username=row.username, version=row.version, valid_from=row.valid_from, admin=row.admin, roles=row.roles
    )


def _revoked(row: RevokedRow) -> pb.RevokedSession:
    message = pb.RevokedSession(session_id=str(row.session_id), username=row.username)
    message.until.FromDatetime(row.until)
    return message
