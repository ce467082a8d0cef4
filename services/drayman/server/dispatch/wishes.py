"""Somebody's wait for files, and how it ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from drayman.server.dispatch.standing import Standing
from drayman.server.dispatch.store import Row
from drayman.server.platform.errors import Refusal


@dataclass(frozen=True, slots=True)
class Given:
    """A wish came true."""

    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Ended:
    """The project hands out nothing any more."""

    standing: Standing


@dataclass(frozen=True, slots=True)
class Waited:
    """The wish's time is over, or the service is shutting down."""

    draining: bool


class Wish:
    """Somebody's wait for files."""

    __slots__ = (
        "_waiter",
        "cpu_site",
        "now_or_never",
        "number",
        "parked",
        "request_id",
        "result",
        "want",
        "withdrawn",
        "worker_id",
    )

    def __init__(
        self, worker_id: str, cpu_site: str, want: int, request_id: UUID | None, *, now_or_never: bool
    ) -> None:
        self.worker_id = worker_id
        self.cpu_site = cpu_site
        self.want = want
        self.request_id = request_id
        self.now_or_never = now_or_never
        self.number = 0
        self.parked = False
        self.withdrawn = False
        self.result: Given | Ended | Waited | Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def change(self) -> None:
        """Wait until there is a result, or until it is clear that there is none yet (`parked`)."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def resolve(self, result: Given | Ended | Waited | Exception) -> None:
        """Set the result."""
        self.result = result
        self.signal()

    def signal(self) -> None:
        """Wake who waits for a change."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Listener(Protocol):
    """Somebody who has to hear of a project even while waiting for nothing: a worker's session."""

    def project_ended(self, ended: Ended) -> None:
        """Nothing will be handed out any more."""

    def project_gone(self, refusal: Refusal) -> None:
        """There is no such project any more."""

    def question_leases(self) -> None:
        """Handles were taken from their workers: look whether one's own are among them."""

    def drain(self) -> None:
        """The service is shutting down."""
