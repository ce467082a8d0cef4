"""One life cycle for everything that runs: start, drain, stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import grpc.aio
import structlog
from prometheus_client import CollectorRegistry

from drayman.server.platform.calls import Service
from drayman.server.platform.database import is_away
from drayman.server.platform.service_identity import ServiceIdentity
from drayman.server.platform.settings import Settings
from drayman.server.platform.tokens import TokenVerifier

log = structlog.get_logger(__name__)


class Part:
    """Something that runs inside a process. A part that needs less overrides less."""

    async def start(self) -> None:
        """Return once it works."""

    async def drain(self) -> None:
        """Stop taking on work and answer who waits; what is in progress may end."""

    async def stop(self) -> None:
        """Return once nothing of it runs any more. May be called without start, and twice."""


class Repeating(Part):
    """A loop that outlives its own failures.

    `turn` does one round and returns the seconds to wait before the next; `hasten` cuts the wait short. A round that raises is
    logged and repeated after a pause that grows to half a minute: a background task must never end in silence. Its names are its own, so
    that no part that is built on it takes the loop's place.
    """

    def __init__(self, name: str, turn: Callable[[], Awaitable[float]]) -> None:
        self.__name = name
        self.__turn = turn
        self.__hasten = asyncio.Event()
        self.__task: asyncio.Task[None] | None = None

    def hasten(self) -> None:
        """Begin the next round now."""
        self.__hasten.set()

    async def start(self) -> None:
        """Begin the first round."""
        self.__task = asyncio.create_task(self.__run(), name=self.__name)

    async def stop(self) -> None:
        """Cancel the loop and wait for its end."""
        if self.__task is not None:
            self.__task.cancel()
            with suppress(asyncio.CancelledError):
                await self.__task
            self.__task = None

    async def __run(self) -> None:
        pause = 0.5
        while True:
            self.__hasten.clear()
            try:
                wait = await self.__turn()
                pause = 0.5
            except Exception as error:
                if is_away(error):
                    log.warning("database away", part=self.__name, error=str(error) or type(error).__name__)
                else:
                    log.exception("round failed", part=self.__name)
                wait, pause = pause, min(pause * 2, 30.0)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.__hasten.wait(), wait)


@dataclass(frozen=True)
class Surroundings:
    """What a room is given when it opens.

    `auth` is a channel to auth, `peer(name)` one to another service (SettingsError if nobody said where it is), `identity` what services
    know each other by, `verifier` judges session tokens, `inner_port` is the port of loopback where this process answers.
    """

    settings: Settings
    database_url: str
    auth: grpc.aio.Channel
    verifier: TokenVerifier
    inner_port: int
    metrics: CollectorRegistry
    identity: ServiceIdentity
    peer: Callable[[str], grpc.aio.Channel]


@dataclass(frozen=True)
class Room:
    """One of the four services, opened: what it offers over gRPC and what runs behind it, in starting order."""

    services: Sequence[Service]
    parts: Sequence[Part] = field(default=())
