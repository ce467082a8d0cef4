"""Keeps the limits of `throttle`, for all replicas together: in the database, by its clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import asyncpg

from drayman.server.auth import names, throttle
from drayman.server.auth.audit import Author, Event, record
from drayman.server.auth.throttle import Bucket, Content, Verdict
from drayman.server.platform.database import load_queries
from drayman.server.platform.errors import Refusal

SQL = load_queries(Path(__file__).parent / "login_limit_queries.sql")

#: The audit log hears of an empty bucket at most so often.
_TOLD_EVERY = timedelta(minutes=1)
#: Rows that are swept at once.
_PORTION = 1000


#: How long an attempt waits for its turn, in seconds, and for how many replicas at least there is room.
_PATIENCE = 5.0
_REPLICAS = 3


class Attempt:
    """An attempt of a login that was let in."""

    def __init__(self) -> None:
        self.user: str | None = None
        self.costs = True

    def succeeded(self, username: str) -> None:
        """Somebody has proved to be this user ("" = it does not matter who), which costs nothing if the block ends well.

        From then on the peer is familiar for the user.
        """
        self.user, self.costs = username, False

    def void(self) -> None:
        """The proof could not be looked at, which is not its maker's fault: it costs nothing, however the block ends."""
        self.costs = False


class LoginLimits:
    """Lets attempts of logins in, or refuses them."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        # A peer that calls without pause waits for its own row: here, where it costs nothing, and not with a connection each.
        self._turns: WeakValueDictionary[bytes, asyncio.Semaphore] = WeakValueDictionary()
        self._gates: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def attempt(
        self, username: str | None, peer: str, *, client: str = "", method: str = ""
    ) -> AsyncIterator[Attempt]:
        """Take a token for an attempt; it is spent unless `succeeded` was called and the block ends without raising, or `void` was.

        `username` is as claimed, None = the peer alone counts: proofs that cannot be guessed. `peer` is an address without port. `client`
        and `method` are for the audit log. Raises Refusal (LOGIN_THROTTLED, with the wait in seconds).
        """
        buckets = throttle.buckets(username, peer)
        place = throttle.network(peer)
        author = Author(username or "", peer, client)
        async with self._turn(buckets):
            gate = self._gates.setdefault(place, asyncio.Lock())
            async with gate:
                taken = await self._take(buckets, place, author, method)
            attempt = Attempt()
            try:
                yield attempt
            except BaseException:
                attempt.costs = attempt.costs or attempt.user is not None  # it was not a success after all
                attempt.user = None
                raise
            finally:
                if not attempt.costs:
                    back = [throttle.given_back(bucket, proved=attempt.user is not None) for bucket in taken]
                    await self._pool.execute(SQL["give_back"], [bucket.key for bucket in taken], back)
            if attempt.user:
                await self._pool.execute(SQL["remember"], _possible(attempt.user), place)

    @asynccontextmanager
    async def _turn(self, buckets: Sequence[Bucket]) -> AsyncIterator[None]:
        """Let as many attempts be in progress as leave room in the buckets, for other replicas too; further ones wait for their turn.

        A fleet that logs in as one user at one moment is not an attack: each success gives back what it took.
        """
        async with AsyncExitStack() as turns:
            try:
                async with asyncio.timeout(_PATIENCE):
                    for bucket in buckets:
                        if bucket.limit is throttle.USER:
                            continue  # others may wait there, who have nothing to do with this peer
                        room = max(1, int(bucket.limit.burst) // _REPLICAS)
                        turn = self._turns.setdefault(bucket.key, asyncio.Semaphore(room))
                        await turn.acquire()
                        turns.callback(turn.release)
            except TimeoutError:
                raise Refusal("LOGIN_THROTTLED", "Too many logins at once: wait a little", retry_after=1.0) from None
            yield

    async def sweep(self) -> None:
        """Forget full buckets and peers that are not familiar any more."""
        await self._in_portions("mend_clocks")
        await self._in_portions("sweep_attempts", timedelta(seconds=throttle.FULL_AFTER))
        await self._in_portions("sweep_familiar_peers", throttle.FAMILIAR_FOR)

    async def _in_portions(self, name: str, *parameters: object) -> None:
        while await self._pool.execute(SQL[name], *parameters, _PORTION) in (
            f"DELETE {_PORTION}",
            f"UPDATE {_PORTION}",
        ):
            pass

    async def _take(self, buckets: Sequence[Bucket], place: str, author: Author, method: str) -> list[Bucket]:
        """Take a token out of each bucket that applies; returns those."""
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await self._look(connection, buckets, place, author.name)
            contents = [
                Content(bucket, row["level"], (row["now"] - row["at"]).total_seconds())
                for bucket, row in ((bucket, rows[bucket.key]) for bucket in buckets)
            ]
            familiar = any(throttle.is_familiar(row["seen_at"], row["now"]) for row in rows.values())
            verdict = throttle.judge(contents, familiar=familiar)
            if not verdict.empty:
                keys = [bucket.key for bucket, _ in verdict.taken]
                levels = [level for _, level in verdict.taken]
                await connection.execute(SQL["take"], keys, levels, [rows[key]["now"] for key in keys])
                return [bucket for bucket, _ in verdict.taken]
            untold = [bucket for bucket in verdict.empty if _is_due(rows[bucket.key])]
            if not untold:
                raise _throttled(verdict)  # undone: buckets that were only looked into leave no rows
            await connection.execute(SQL["tell"], [bucket.key for bucket in untold])
            await record(connection, *(_event(bucket, place, author, method, verdict.wait) for bucket in untold))
        raise _throttled(verdict)

    async def _look(
        self, connection: Any, buckets: Sequence[Bucket], place: str, username: str
    ) -> dict[bytes, asyncpg.Record]:
        keys, bursts = [bucket.key for bucket in buckets], [bucket.limit.burst for bucket in buckets]
        rows = await connection.fetch(SQL["look"], keys, bursts, _possible(username), place)
        return {bytes(row["key"]): row for row in rows}


def _possible(username: str) -> str:
    """Return the name, or, for one that nobody can have and the database might not even take, the empty one, which nobody has either."""
    encodable = username.encode(errors="ignore").decode() == username
    return username if encodable and not names.problem(username) else ""


def _is_due(row: asyncpg.Record) -> bool:
    told: Any = row["told_at"]
    return told is None or abs(row["now"] - told) >= _TOLD_EVERY  # clocks may be set back


def _event(bucket: Bucket, place: str, author: Author, method: str, wait: float) -> Event:
    return Event(
        "LOGIN_THROTTLED",
        author,
        subject=place if bucket.limit in (throttle.PEER, throttle.PROOFS_OF_PEER) else author.name,
        refused=True,
        reason="LOGIN_THROTTLED",
        method=method,
        detail={"limit": bucket.limit.name, "wait_seconds": round(wait, 3)},
    )


def _throttled(verdict: Verdict) -> Refusal:
    return Refusal("LOGIN_THROTTLED", "Too many login attempts: wait a little", retry_after=verdict.wait)
