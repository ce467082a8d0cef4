"""Somebody's wait for files, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from drayman.server.dispatch.standing import Standing
from drayman.server.dispatch.store import Row
from drayman.server.platform import wishes as waiting
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


class Wish(waiting.Wish):
    """Somebody's wait for files, at a CPU site."""

    __slots__ = ("cpu_site",)

    result: Given | Ended | Waited | Exception | None

    def __init__(
        self, worker_id: str, cpu_site: str, want: int, request_id: UUID | None, *, now_or_never: bool
    ) -> None:
        super().__init__(worker_id, cpu_site, want, request_id, now_or_never=now_or_never)
        self.cpu_site = cpu_site


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
