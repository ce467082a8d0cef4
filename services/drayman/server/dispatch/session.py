"""A worker's session: files ahead of need one way, results the other.

One coroutine sends; everything else only notes what is to be sent. What gathers while a message is on its way goes with the next, so a
busy session has few, large messages. Files are drawn against credits alone: a slow worker never makes the server buffer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID

from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.server.dispatch import messages
from drayman.server.dispatch.leases import explain_losses
from drayman.server.dispatch.lifecycle import Outcome
from drayman.server.dispatch.offering import Offering
from drayman.server.dispatch.reports import MOST_REPORTS, outcome_of, refusal
from drayman.server.dispatch.reserver import Ended, Given, ProjectQueue, Reserver, Waited, Wish
from drayman.server.dispatch.settler import Settled, Settler
from drayman.server.dispatch.store import Row, Said, Store
from drayman.server.platform.errors import Refusal, invalid

_MOST_CREDITS = 1000
_ALWAYS = datetime.max.replace(tzinfo=UTC)
#: A lease is renewed when this part of it has passed, and the worker is asked to show itself as often.
_RENEW_AFTER = 1 / 3
#: Seconds after a session was taken up again until what its broken stream left behind is looked for.
_ORPHANS_AFTER = 20.0
#: Seconds that a stream whose session goes on elsewhere may take to end.
_GOODBYE = 5.0

Send = Callable[[pb.WorkResponse], Awaitable[None]]


@dataclass(slots=True)
class _Held:
    """A file the worker has."""

    attempt: int
    lease_until: datetime | None


class _SessionWish(Wish):
    """A wish that tells its session, instead of somebody who waits."""

    __slots__ = ("_session",)

    def __init__(self, session: Session, worker_id: str, cpu_site: str, want: int, session_id: UUID) -> None:
        super().__init__(worker_id, cpu_site, want, session_id, now_or_never=False)
        self._session = session

    def signal(self) -> None:
        """Tell the session."""
        self._session.wish_changed(self)


class Session:
    """The state of one session on one stream. `run` does everything; the other methods are for those who have news for it."""

    def __init__(
        self,
        store: Store,
        reserver: Reserver,
        settler: Settler,
        offering: Offering,
        queue: ProjectQueue,
        start: pb.StartWork,
        session_id: UUID,
    ) -> None:
        self._store = store
        self._reserver = reserver
        self._settler = settler
        self._offering = offering
        self._queue = queue
        self._project_id = queue.project_id
        self._worker_id = start.worker_id
        self._cpu_site = start.cpu_site
        self.session_id = session_id
        self._credits = 0
        self._held: dict[int, _Held] = {}
        self._wish: _SessionWish | None = None
        self._closing = False
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._drawn: list[Row] = []
        self._next = pb.WorkResponse()
        self._unsettled: set[asyncio.Future[list[Settled]]] = set()
        self._failure: BaseException | None = None
        self._span: timedelta | None = None
        self._minding: asyncio.Task[None] | None = None
        self._renewal_due = 0.0
        self._orphans_due: float | None = None
        self._renew_now = self._review_now = False

    # --- the whole of it ---------------------------------------------------------------------------------------------

    async def run(self, requests: AsyncIterator[pb.WorkRequest], first: pb.WorkRequest, send: Send) -> None:
        """Run the session until the worker closes its side. Raises Refusal, and what the database raises."""
        async with self:
            await self._take_up(first.start)
            await send(self._flush())
            first.ClearField("start")
            self._hear(first)
            intake = asyncio.create_task(self._listen(requests), name="session")
            try:
                await self._talk(send)
            finally:
                intake.cancel()
                with suppress(asyncio.CancelledError):
                    await intake

    async def __aenter__(self) -> Self:
        """Take the place of an earlier stream of the same session, which may not know yet that it is broken."""
        for other in list(self._queue.listeners):
            if isinstance(other, Session) and other.session_id == self.session_id:
                await other.supersede()
        self._queue.listeners.add(self)
        return self

    async def supersede(self) -> None:
        """The session goes on on another stream: end this one."""
        self._fail(Refusal("UNAVAILABLE", "the session was taken up on another stream"))
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await self._over.wait()

    async def __aexit__(self, *_error: object) -> None:
        self._queue.listeners.discard(self)
        if self._wish is not None:
            self._queue.withdraw(self._wish)
        if self._drawn:
            self._release([(row["handle_id"], row["attempts"] + 1) for row in self._drawn], "CALLER_GONE")
        if self._minding is not None:
            self._minding.cancel()
        self._over.set()

    async def _take_up(self, start: pb.StartWork) -> None:
        """Answer the start: what the worker still holds stays its own; what it was sent and does not have is given back."""
        standing = await self._queue.standing()
        started = pb.WorkStarted(project_attributes_json=standing.attributes)
        if standing.worker_timeout is not None:
            self._span = timedelta(seconds=standing.worker_timeout)
            started.renew_interval.FromTimedelta(self._span * _RENEW_AFTER)
        self._next.started.CopyFrom(started)
        rows = {
            row["handle_id"]: row for row in await self._store.held(self._project_id, self._worker_id, self.session_id)
        }
        for lease in start.holding:
            row = rows.get(lease.handle_id)
            if row is not None and row["attempts"] == lease.attempt:
                self._held[lease.handle_id] = _Held(lease.attempt, row["lease_until"])
                del rows[lease.handle_id]
        gone = [(lease.handle_id, lease.attempt) for lease in start.holding if lease.handle_id not in self._held]
        if gone:
            await self._tell_losses(gone)
        if rows or start.holding:
            self._orphans_due = asyncio.get_running_loop().time() + _ORPHANS_AFTER
        if rows:
            await self._release([(handle_id, row["attempts"]) for handle_id, row in rows.items()], "SESSION_RESUMED")
        await self._renew(_ALWAYS)
        if self._reserver.draining:
            self.drain()

    async def _talk(self, send: Send) -> None:
        while not self._closing:
            await self._news.wait()
            self._news.clear()
            if self._failure is not None:
                raise self._failure
            message = self._flush()
            if message.HasField("progress"):
                await self._describe(message.progress)
            if self._drawn:
                standing = await self._queue.standing()
                rows = self._drawn  # given back if this fails
                message.files.extend(await self._offering.handles(standing, self._worker_id, self._cpu_site, rows))
                # From here on the files count as handed over: a worker that leaves during the write may have read them.
                self._drawn = self._drawn[len(rows) :]
                for row in rows:
                    self._held[row["handle_id"]] = _Held(row["attempts"] + 1, row["lease_until"])
            if message.ByteSize():
                await send(message)
        await self._close()
        message = self._flush()
        if message.ByteSize():
            await send(message)

    async def _describe(self, progress: pb.Progress) -> None:
        progress.counts.CopyFrom(messages.counts(await self._queue.standing()))
        progress.hindrances.CopyFrom(messages.hindrances(await self._reserver.hindrances(self._queue, self._cpu_site)))

    async def _close(self) -> None:
        """The worker works on nothing any more: let its last reports reach the disk, and give back the rest."""
        if self._wish is not None:
            self._queue.withdraw(self._wish)
        while self._unsettled:
            await asyncio.wait(self._unsettled)
        if self._failure is not None:
            raise self._failure
        if self._held:
            await self._release(((handle_id, held.attempt) for handle_id, held in self._held.items()), "SESSION_CLOSED")
            self._held.clear()

    def _flush(self) -> pb.WorkResponse:
        message, self._next = self._next, pb.WorkResponse()
        return message

    # --- what the worker says ----------------------------------------------------------------------------------------

    async def _listen(self, requests: AsyncIterator[pb.WorkRequest]) -> None:
        try:
            async for request in requests:
                self._hear(request)
            self._closing = True
        except Exception as error:
            self._fail(error)
        self._news.set()

    def _fail(self, error: BaseException) -> None:
        """End the stream with an error; the worker takes the session up again where that makes sense."""
        self._failure = self._failure or error
        self._news.set()

    def _hear(self, request: pb.WorkRequest) -> None:
        self._check(request)
        if request.reports:
            self._take_reports(request.reports)
        if request.credits:
            self._credits += request.credits
            self._ask()
        now = asyncio.get_running_loop().time()
        if self._orphans_due is not None and now > self._orphans_due:
            self._orphans_due = None
            self._mind_leases(review=True)
        if self._span is not None and self._held and now > self._renewal_due:
            self._renewal_due = now + self._span.total_seconds() * _RENEW_AFTER / 2
            self._mind_leases(renew=True)

    def _check(self, request: pb.WorkRequest) -> None:
        if request.HasField("start"):
            raise invalid("start", "`start` belongs into the first message only")
        if request.credits < 0 or self._credits + request.credits > _MOST_CREDITS:
            total = self._credits + request.credits
            raise invalid(
                "credits", f"{request.credits} credits make {total} open ones: expected at most {_MOST_CREDITS}"
            )
        if len(request.reports) > MOST_REPORTS:
            raise invalid("reports", f"{len(request.reports)} reports in one message: at most {MOST_REPORTS}")

    def _take_reports(self, reports: Sequence[pb.FileReport]) -> None:
        said: list[Said] = []
        for number, report in enumerate(reports):
            if not report.handle_id:
                raise invalid(f"reports[{number}].handle_id", "a session's reports name the handle id")
            outcome = outcome_of(report, f"reports[{number}]")
            said.append(
                (
                    report.handle_id,
                    report.attempt,
                    0,
                    self._worker_id,
                    outcome,
                    self.session_id,
                    report.code,
                    report.message,
                )
            )
            self._held.pop(report.handle_id, None)
        settled = self._settler.submit(self._project_id, said)
        self._unsettled.add(settled)
        settled.add_done_callback(lambda done: self._settled(done, said))

    def _settled(self, done: asyncio.Future[list[Settled]], said: Sequence[Said]) -> None:
        """Acknowledge what is on disk. Batches of a project reach the disk in their order, and so do acknowledgements."""
        self._unsettled.discard(done)
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            self._fail(error)
        else:
            self._next.acknowledged += len(said)
            for one, report in zip(done.result(), said, strict=True):
                if one.refusal:
                    refused = refusal(one.refusal, self._project_id, self._worker_id, str(report[0]))
                    self._next.refused.add(
                        handle_id=report[0], attempt=report[1], refusal=refused.reason, refusal_message=refused.message
                    )
            self._news.set()

    # --- files -------------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Wish for as many files as there are credits."""
        if self._wish is not None:
            self._wish.want = self._credits
        elif self._credits and not self._closing and not self._next.draining:
            self._wish = _SessionWish(self, self._worker_id, self._cpu_site, self._credits, self.session_id)
            self._reserver.wish(self._queue, self._wish)

    def wish_changed(self, wish: Wish) -> None:
        """The wish was granted, or is parked."""
        result = wish.result
        if result is None:
            self._next.progress.SetInParent()
            self._news.set()
            return
        self._wish = None
        if isinstance(result, Given):
            self._drawn += result.rows
            self._credits -= len(result.rows)
            self._news.set()
            self._ask()
        elif isinstance(result, Ended):
            self.project_ended(result)
        elif isinstance(result, Waited):
            self.drain()
        else:
            self._fail(result)

    def _release(self, leases: Iterable[tuple[int, int]], code: str) -> asyncio.Future[list[Settled]]:
        """Give files back at no attempt; reports that were faster win."""
        said: list[Said] = [
            (handle_id, attempt, 0, self._worker_id, Outcome.RELEASED, self.session_id, code, "")
            for handle_id, attempt in leases
        ]
        return self._settler.submit(self._project_id, said)

    # --- leases ------------------------------------------------------------------------------------------------------

    def question_leases(self) -> None:
        """Handles were taken from their workers: see whether one's own are among them."""
        if self._held:
            self._mind_leases(review=True)

    def _mind_leases(self, *, renew: bool = False, review: bool = False) -> None:
        self._renew_now |= renew
        self._review_now |= review
        if self._minding is None:
            self._minding = asyncio.create_task(self._see_to_leases(), name="leases of a session")

    async def _see_to_leases(self) -> None:
        try:
            while self._renew_now or self._review_now:
                if self._renew_now:
                    self._renew_now = False
                    await self._renew(datetime.now(UTC) + (self._span or timedelta()) * (1 - _RENEW_AFTER / 2))
                else:
                    self._review_now = False
                    await self._review()
        except Exception as error:
            self._fail(error)
        finally:
            self._minding = None

    async def _renew(self, before: datetime) -> None:
        """Renew the leases that end before a moment; those that are lost are told."""
        leases = [
            (handle_id, held.attempt)
            for handle_id, held in self._held.items()
            if held.lease_until is not None and held.lease_until < before
        ]
        for begin in range(0, len(leases), MOST_REPORTS):
            part = leases[begin : begin + MOST_REPORTS]
            kept = await self._store.renew(self._project_id, self._worker_id, part)
            for row in kept:
                held = self._held.get(row["handle_id"])
                if held is not None:
                    held.lease_until = row["lease_until"]
            await self._note_losses(part, {row["handle_id"] for row in kept})

    async def _review(self) -> None:
        """Compare what the worker holds with what is on disk."""
        leases = [(handle_id, held.attempt) for handle_id, held in self._held.items()]
        rows = await self._store.held(self._project_id, self._worker_id, self.session_id)
        await self._note_losses(leases, {row["handle_id"] for row in rows})
        # What a broken stream of this session drew at its end never reached the worker. What is younger may be on its way.
        latest = datetime.now(UTC) - timedelta(seconds=_ORPHANS_AFTER / 2)
        known = self._held.keys() | {row["handle_id"] for row in self._drawn}
        orphans = [row for row in rows if row["handle_id"] not in known and row["reserved_at"] < latest]
        if orphans and not self._unsettled:
            await self._release([(row["handle_id"], row["attempts"]) for row in orphans], "SESSION_RESUMED")

    async def _note_losses(self, leases: Sequence[tuple[int, int]], kept: set[int]) -> None:
        # what was reported meanwhile is not lost
        gone = [lease for lease in leases if lease[0] not in kept and lease[0] in self._held]
        for handle_id, _ in gone:
            del self._held[handle_id]
        if gone:
            await self._tell_losses(gone)

    async def _tell_losses(self, leases: Sequence[tuple[int, int]]) -> None:
        self._next.lost.extend(await explain_losses(self._store, self._project_id, self._worker_id, leases))
        self._news.set()

    # --- the end -----------------------------------------------------------------------------------------------------

    def project_ended(self, ended: Ended) -> None:
        """Nothing will be handed out any more."""
        self._next.ended.CopyFrom(messages.project_ended(ended.standing))
        self._news.set()

    def drain(self) -> None:
        """The service is shutting down."""
        self._next.draining = True
        self._news.set()
