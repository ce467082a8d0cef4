"""What the worker of a session holds: kept alive while it is heard of, and compared with what is on disk."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.server.dispatch.leases import explain_losses
from drayman.server.dispatch.store import Row, Store

#: A handle id and the attempt that is running.
LeaseKey = tuple[int, int]

#: A lease is renewed when this part of it has passed, and the worker is asked to show itself as often.
RENEW_AFTER = 1 / 3
#: Seconds after a session was taken up again until what its broken stream left behind is looked for.
_ORPHANS_AFTER = 20.0
#: Leases that one statement renews at most.
_BATCH = 1000


@dataclass(slots=True)
class _Held:
    """A file the worker has. `renewed` is by our own clock: the database's may differ from it."""

    attempt: int
    ends: bool
    renewed: float


class Holdings:
    """Files that a session's worker has. `lose` is told which it has no more, `give_back` what it never got, `fail` what went wrong."""

    def __init__(
        self,
        store: Store,
        project_id: int,
        worker_id: str,
        session_id: UUID,
        *,
        lose: Callable[[list[pb.Lease]], None],
        give_back: Callable[[Sequence[LeaseKey], str], Awaitable[object]],
        fail: Callable[[Exception], None],
    ) -> None:
        self._store = store
        self._project_id = project_id
        self._worker_id = worker_id
        self._session_id = session_id
        self._lose = lose
        self._give_back = give_back
        self._fail = fail
        self._held: dict[int, _Held] = {}
        self._on_their_way: Callable[[], Iterable[Row]] = tuple
        self._span: float | None = None
        self._renewal_due = 0.0
        self._orphans_due: float | None = None
        self._renew_now = self._review_now = self._seek_orphans = False
        self._minding: asyncio.Task[None] | None = None

    async def take_up(
        self, worker_timeout: float | None, holding: Iterable[LeaseKey], on_their_way: Callable[[], Iterable[Row]]
    ) -> None:
        """Begin. What the worker still holds stays its own; what its session was sent and it does not have is given back."""
        self._span = worker_timeout
        self._on_their_way = on_their_way
        rows = {
            row["handle_id"]: row for row in await self._store.held(self._project_id, self._worker_id, self._session_id)
        }
        claimed = set(holding)
        kept = [row for row in rows.values() if (row["handle_id"], row["attempts"]) in claimed]
        for row in kept:
            self._held[row["handle_id"]] = _Held(row["attempts"], row["lease_until"] is not None, -math.inf)
            del rows[row["handle_id"]]
        gone = sorted(claimed - set(self.leases()))
        if gone:
            self._lose(await explain_losses(self._store, self._project_id, self._worker_id, gone))
        if rows or claimed:
            self._orphans_due = _now() + _ORPHANS_AFTER
        if rows:
            await self._give_back([(row["handle_id"], row["attempts"]) for row in rows.values()], "SESSION_RESUMED")
        await self._renew()

    def take(self, row: Row) -> LeaseKey | None:
        """A file of a draw is handed over. Returns the lease that the worker had of the same file and lost to this one."""
        before = self._held.get(row["handle_id"])
        self._held[row["handle_id"]] = _Held(row["attempts"] + 1, row["lease_until"] is not None, _now())
        return None if before is None else (row["handle_id"], before.attempt)

    def drop(self, handle_id: int, attempt: int) -> None:
        """The worker says that it has done with a file; attempt 0 = whichever it has."""
        held = self._held.get(handle_id)
        if held is not None and attempt in (0, held.attempt):
            del self._held[handle_id]

    def leases(self) -> list[LeaseKey]:
        """Return what the worker has."""
        return [(handle_id, held.attempt) for handle_id, held in self._held.items()]

    def heard(self) -> None:
        """The worker showed itself: its leases go on."""
        now = _now()
        if self._orphans_due is not None and now > self._orphans_due:
            self._orphans_due = None
            self._seek_orphans = True
            self._mind(review=True)
        if self._span is not None and self._held and now > self._renewal_due:
            self._renewal_due = now + self._span * RENEW_AFTER / 2
            self._mind(renew=True)

    def question(self) -> None:
        """Handles were taken from their workers: see whether some of these are among them."""
        if self._held:
            self._mind(review=True)

    def stop(self) -> None:
        """Look no further."""
        if self._minding is not None:
            self._minding.cancel()

    def _mind(self, *, renew: bool = False, review: bool = False) -> None:
        self._renew_now |= renew
        self._review_now |= review
        if self._minding is None:
            self._minding = asyncio.create_task(self._see_to_them(), name="leases of a session")

    async def _see_to_them(self) -> None:
        try:
            while self._renew_now or self._review_now:
                if self._renew_now:
                    self._renew_now = False
                    await self._renew()
                else:
                    self._review_now = False
                    await self._review()
        except Exception as error:
            self._fail(error)
        finally:
            self._minding = None

    async def _renew(self) -> None:
        """Renew the leases of which a part has passed; those that are lost are told."""
        began = _now()
        fresh = began - (self._span or 0.0) * RENEW_AFTER / 2
        leases = [
            (handle_id, held.attempt) for handle_id, held in self._held.items() if held.ends and held.renewed < fresh
        ]
        for begin in range(0, len(leases), _BATCH):
            part = leases[begin : begin + _BATCH]
            rows = await self._store.renew(self._project_id, self._worker_id, part)
            kept = {(row["handle_id"], row["attempts"]) for row in rows}
            for handle_id, attempt in kept:
                held = self._held.get(handle_id)
                if held is not None and held.attempt == attempt:
                    held.renewed = began
            await self._note_losses(part, kept)

    async def _review(self) -> None:
        """Compare what the worker holds with what is on disk."""
        leases = self.leases()
        rows = await self._store.held(self._project_id, self._worker_id, self._session_id)
        await self._note_losses(leases, {(row["handle_id"], row["attempts"]) for row in rows})
        if self._seek_orphans:
            self._seek_orphans = False
            await self._give_back_orphans({handle_id for handle_id, _ in leases}, rows)

    async def _give_back_orphans(self, known: set[int], rows: Sequence[Row]) -> None:
        """What a broken stream of this session drew at its end never reached the worker. What is younger may be on its way."""
        latest = datetime.now(UTC) - timedelta(seconds=_ORPHANS_AFTER / 2)
        known |= self._held.keys() | {row["handle_id"] for row in self._on_their_way()}
        orphans = [
            (row["handle_id"], row["attempts"])
            for row in rows
            if row["handle_id"] not in known and row["reserved_at"] < latest
        ]
        if orphans:
            await self._give_back(orphans, "SESSION_RESUMED")

    async def _note_losses(self, leases: Sequence[LeaseKey], kept: set[LeaseKey]) -> None:
        # what was reported meanwhile is not lost, and what came again is not the same lease
        gone = [lease for lease in leases if lease not in kept and self._has(lease)]
        for handle_id, _ in gone:
            del self._held[handle_id]
        if gone:
            self._lose(await explain_losses(self._store, self._project_id, self._worker_id, gone))

    def _has(self, lease: LeaseKey) -> bool:
        held = self._held.get(lease[0])
        return held is not None and held.attempt == lease[1]


def _now() -> float:
    return asyncio.get_running_loop().time()
