"""A worker's wait for jobs, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from drayman.server.platform.wishes import Wish

if TYPE_CHECKING:
    from drayman.server.task.job_store import Row
    from drayman.server.task.matching import Offer
    from drayman.server.task.ready_lots import Lot


@dataclass(frozen=True, slots=True)
class Given:
    """A wish came true: rows of the statement `draw`, each with its lot."""

    jobs: list[tuple[Lot, Row]]


@dataclass(frozen=True, slots=True)
class Again:
    """The wish was told before, and has its jobs: they are found by its request."""


@dataclass(frozen=True, slots=True)
class Waited:
    """The wish's time is over, or the service is shutting down."""

    draining: bool


class JobWish(Wish):
    """A worker's wait for jobs that fit what it offers."""

    __slots__ = ("node", "offer", "questioned")

    result: Given | Again | Waited | Exception | None

    def __init__(
        self, worker_id: str, offer: Offer, node: str, want: int, request_id: UUID | None, *, now_or_never: bool
    ) -> None:
        super().__init__(worker_id, offer, want, request_id, now_or_never=now_or_never)
        self.offer = offer
        self.node = node
        self.questioned = request_id is None  # whether it was told before is known
