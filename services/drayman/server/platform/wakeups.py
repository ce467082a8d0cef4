"""Hints between replicas: "look again at this". PostgreSQL's NOTIFY carries them; nothing depends on their arrival.

A NOTIFY takes a lock that all committing transactions share, so it is never sent inside the transaction that it tells of. What is
announced within one pause is gathered and sent in one statement after the commits. Replicas that lost the connection are told to
look at everything again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import asyncpg
import structlog

from drayman.server.platform.lifecycle import Part

log = structlog.get_logger(__name__)

_PAUSE = 0.02
_LONGEST_PAYLOAD = 7900
_RECONNECT = 0.5
_PROBE = 10.0
_ANSWER = 5.0


class WakeupBus(Part):
    """Announces words to the other replicas that listen on the same channel, and hears theirs."""

    def __init__(self, dsn: str, channel: str) -> None:
        self._dsn = dsn
        self._channel = channel
        self._origin = uuid4().hex[:8]
        self._hear: Callable[[str], None] = lambda _word: None
        self._missed: Callable[[], None] = lambda: None
        self._waiting: set[str] = set()
        self._something = asyncio.Event()
        self._connection: Any = None
        self._lost = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def subscribe(self, hear: Callable[[str], None], missed: Callable[[], None]) -> None:
        """Call `hear(word)` for each word of another replica, and `missed()` when words may have been lost."""
        self._hear, self._missed = hear, missed

    def announce(self, word: str) -> None:
        """Tell the other replicas, soon. The same word is told once per pause however often it is announced."""
        self._waiting.add(word)
        self._something.set()

    async def start(self) -> None:
        """Listen, and begin to send."""
        await self._connect()
        self._tasks = [
            asyncio.create_task(self._send(), name="wakeups"),
            asyncio.create_task(self._keep(), name="listen"),
        ]

    async def stop(self) -> None:
        """Send what waits, then close."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        if self._connection is not None:
            with suppress(Exception):
                await self._flush()
                await self._connection.close(timeout=2)
            self._connection = None

    async def _connect(self) -> None:
        connection = await asyncpg.connect(
            self._dsn, timeout=_ANSWER, server_settings={"application_name": "drayman wakeups"}
        )
        connection.add_termination_listener(self._terminated)
        try:
            async with asyncio.timeout(_ANSWER):
                await connection.add_listener(self._channel, self._received)
        except BaseException:
            connection.terminate()
            raise
        # Only now: a connection takes one statement at a time, and `_send` does not wait for us.
        self._connection = connection
        self._lost.clear()

    def _terminated(self, connection: object) -> None:
        if connection is self._connection:
            self._lost.set()

    def _received(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        origin, _, words = str(payload).partition(" ")
        if origin != self._origin:
            for word in words.split():
                self._hear(word)

    async def _send(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PROBE):
                    await self._something.wait()
            connection = self._connection
            try:
                async with asyncio.timeout(_ANSWER):
                    await self._flush()
            except Exception as error:
                log.warning("wake-up not sent", error=repr(error))  # a hint: the look-up of the others delivers
                # asyncpg does not tell of every connection that died under a statement, and a silent one tells nothing.
                connection.terminate()
                self._terminated(connection)
            await asyncio.sleep(_PAUSE)

    async def _flush(self) -> None:
        words, self._waiting = sorted(self._waiting), set()
        self._something.clear()
        for payload in _payloads(self._origin, words):
            await self._connection.execute("SELECT pg_notify($1, $2)", self._channel, payload)
        if not words:
            await self._connection.execute("SELECT 1")  # is anybody there? Who only listens would never know

    async def _keep(self) -> None:
        """Reconnect when the connection is gone."""
        while True:
            await self._lost.wait()
            log.warning("wake-up connection lost")
            while self._lost.is_set():
                try:
                    await self._connect()
                except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                    await asyncio.sleep(_RECONNECT)
            self._missed()


def _payloads(origin: str, words: list[str]) -> list[str]:
    payloads, line = [], origin
    for word in words:
        if len(line) + 1 + len(word) > _LONGEST_PAYLOAD:
            payloads.append(line)
            line = origin
        line += " " + word
    return [*payloads, line] if line != origin else payloads
