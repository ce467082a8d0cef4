"""A worker's session: files ahead of need one way, results the other.

One coroutine sends; everything else only notes what is to be sent. What gathers while a message is on its way goes with the next, so a
busy session has few, large messages. Files are drawn against credits alone, and a credit is open until its file has been sent; who
reports faster than it reads is not listened to for a while: a slow worker never makes the server buffer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from drayman.dispatch.v1 import handle_service_pb2 as pb
from drayman.server.dispatch import messages
from drayman.server.dispatch.holdings import RENEW_AFTER, Holdings, LeaseKey
from drayman.server.dispatch.lifecycle import AFTER, HandleState, Outcome
from drayman.server.dispatch.offering import Offering
from drayman.server.dispatch.project_queue import ProjectQueue
from drayman.server.dispatch.reports import MOST_REPORTS, outcome_of, refusal
from drayman.server.dispatch.reserver import Reserver
from drayman.server.dispatch.settler import Settled, Settler
from drayman.server.dispatch.store import Row, Said, Store
from drayman.server.dispatch.wishes import Ended, Given, Waited, Wish
from drayman.server.platform.errors import Refusal, invalid

_MOST_CREDITS = 1000
#: Files in one message at most, and about as many bytes: whoever has gRPC's default limit of 4 MiB can read it.
_MOST_FILES = 500
_LARGEST_MESSAGE = 1024 * 1024
#: Reports, and bytes of them, that may be under way to the disk or refused and unread before the session listens on.
_BACKLOG = 1000
_BACKLOG_BYTES = 4 * 1024 * 1024
#: Seconds that a stream whose session goes on elsewhere may take to end.
_GOODBYE = 5.0

Send = Callable[[pb.WorkResponse], Awaitable[None]]


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
        self._reserver = reserver
        self._settler = settler
        self._offering = offering
        self._queue = queue
        self._project_id = queue.project_id
        self._worker_id = start.worker_id
        self._cpu_site = start.cpu_site
        self._session_id = session_id
        self._holdings = Holdings(
            store,
            queue.project_id,
            start.worker_id,
            session_id,
            lose=self._tell_losses,
            give_back=self._give_back,
            fail=self._fail,
        )
        self._credits = 0
        self._wish: _SessionWish | None = None
        self._drawn: list[Row] = []
        self._closing = False
        self._ended = False
        self._draining = False
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._next = pb.WorkResponse()
        self._unsettled: set[asyncio.Future[list[Settled]]] = set()
        self._unsettled_reports = self._unsettled_bytes = 0
        self._less_backlog = asyncio.Event()
        self._failure: Exception | None = None
        self._talking: asyncio.Task[None] | None = None

    # --- the whole of it ---------------------------------------------------------------------------------------------

    async def run(self, requests: AsyncIterator[pb.WorkRequest], first: pb.WorkRequest, send: Send) -> None:
        """Run the session until the worker closes its side. Raises Refusal, and what the database raises."""
        earlier = [other for other in self._queue.listeners if isinstance(other, Session) and other.is_same(self)]
        self._queue.listeners.add(self)
        try:
            for other in earlier:
                await other.supersede()
            await self._take_up(first.start)
            await _sent(send, self._flush())
            first.ClearField("start")
            self._hear(first)
            await self._converse(requests, send)
        finally:
            self._leave()

    def is_same(self, other: Session) -> bool:
        """Whether it is another stream of the same session."""
        return (self._session_id, self._worker_id) == (other._session_id, other._worker_id)

    async def supersede(self) -> None:
        """The session goes on on another stream: end this one, which may not know yet that it is broken."""
        self._fail(Refusal("UNAVAILABLE", "the session was taken up on another stream"))
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await self._over.wait()

    async def _take_up(self, start: pb.StartWork) -> None:
        standing = await self._queue.standing()
        started = pb.WorkStarted(project_attributes_json=standing.attributes)
        if standing.worker_timeout is not None:
            started.renew_interval.FromTimedelta(timedelta(seconds=standing.worker_timeout) * RENEW_AFTER)
        self._next.started.CopyFrom(started)
        holding = [(lease.handle_id, lease.attempt) for lease in start.holding]
        await self._holdings.take_up(standing.worker_timeout, holding, lambda: self._drawn)
        if self._reserver.draining:
            self.drain()

    async def _converse(self, requests: AsyncIterator[pb.WorkRequest], send: Send) -> None:
        """Listen and talk until either ends. A failure ends both, also where a write waits for a worker that does not read."""
        listening = asyncio.create_task(self._listen(requests), name="session, listening")
        self._talking = asyncio.create_task(self._talk(send), name="session, talking")
        try:
            if self._failure is None:
                await self._talking
        except asyncio.CancelledError:
            ours = asyncio.current_task()
            if self._failure is None or (ours is not None and ours.cancelling()):
                raise
        finally:
            for task in (listening, self._talking):
                task.cancel()
            await asyncio.gather(listening, self._talking, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    async def _talk(self, send: Send) -> None:
        while not self._closing:
            await self._news.wait()
            self._news.clear()
            message = self._flush()
            if message.HasField("progress"):
                await self._describe(message.progress)
            if self._drawn:
                await self._add_files(message)
            if message.ByteSize():
                await _sent(send, message)
        await self._close(send)

    async def _describe(self, progress: pb.Progress) -> None:
        progress.counts.CopyFrom(messages.counts(await self._queue.standing()))
        progress.hindrances.CopyFrom(messages.hindrances(await self._reserver.hindrances(self._queue, self._cpu_site)))

    async def _add_files(self, message: pb.WorkResponse) -> None:
        """Add as many of the drawn files as a message may hold. Those that are left are given back if this fails."""
        standing = await self._queue.standing()
        rows = _portion(self._drawn)
        handles = await self._offering.handles(standing, self._worker_id, self._cpu_site, rows)
        # From here on the files count as handed over: a worker that leaves during the write may have read them.
        del self._drawn[: len(rows)]
        self._credits -= len(rows)
        message.files.extend(handles)
        for row in rows:
            before = self._holdings.take(row)
            if before is not None:  # put back and drawn again before anybody said so
                message.lost.add(handle_id=before[0], attempt=before[1], reason="STALE_ATTEMPT")
        if self._drawn:
            self._news.set()

    async def _close(self, send: Send) -> None:
        """The worker works on nothing any more: let its last reports reach the disk, and give back the rest."""
        if self._wish is not None:
            self._queue.withdraw(self._wish, Waited(draining=False))
        while self._wish is not None:  # it is being drawn for
            self._news.clear()
            await self._news.wait()
        while self._unsettled:
            await asyncio.wait(self._unsettled)
        # A stream that broke looks like one that was closed, but nothing can be written to it.
        await _sent(send, self._flush())
        rest = [*self._holdings.leases(), *_leases_of(self._drawn)]
        if rest:
            await self._give_back(rest, "SESSION_CLOSED")
        self._drawn.clear()

    def _leave(self) -> None:
        self._queue.listeners.discard(self)
        self._holdings.stop()
        if self._wish is not None:
            self._queue.withdraw(self._wish)
        if self._drawn:
            self._give_back(_leases_of(self._drawn), "CALLER_GONE")
        self._over.set()

    def _flush(self) -> pb.WorkResponse:
        message, self._next = self._next, pb.WorkResponse()
        self._less_backlog.set()
        return message

    def _fail(self, error: Exception) -> None:
        """End the stream with an error; the worker takes the session up again where that makes sense."""
        if self._failure is None:
            self._failure = error
            if self._talking is not None:
                self._talking.cancel()

    # --- what the worker says ----------------------------------------------------------------------------------------

    async def _listen(self, requests: AsyncIterator[pb.WorkRequest]) -> None:
        try:
            async for request in requests:
                self._hear(request)
                while self._backlogged:
                    self._less_backlog.clear()
                    await self._less_backlog.wait()
            self._closing = True
            self._news.set()
        except Exception as error:
            self._fail(error)

    @property
    def _backlogged(self) -> bool:
        waiting = self._unsettled_reports + len(self._next.refused)
        return waiting > _BACKLOG or self._unsettled_bytes > _BACKLOG_BYTES

    def _hear(self, request: pb.WorkRequest) -> None:
        self._check(request)
        if request.reports:
            self._take_reports(request.reports, request.ByteSize())
        if request.credits:
            self._credits += request.credits
            self._ask()
        self._holdings.heard()

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

    def _take_reports(self, reports: Sequence[pb.FileReport], size: int) -> None:
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
                    self._session_id,
                    report.code,
                    report.message,
                )
            )
        for report in reports:
            self._holdings.drop(report.handle_id, report.attempt)
        settled = self._settler.submit(self._project_id, said)
        self._unsettled.add(settled)
        self._unsettled_reports += len(said)
        self._unsettled_bytes += size
        settled.add_done_callback(lambda done: self._settled(done, said, size))

    def _settled(self, done: asyncio.Future[list[Settled]], said: Sequence[Said], size: int) -> None:
        """Acknowledge what is on disk. Batches of a project reach the disk in their order, and so do acknowledgements."""
        self._unsettled.discard(done)
        self._unsettled_reports -= len(said)
        self._unsettled_bytes -= size
        self._less_backlog.set()
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            self._fail(error if isinstance(error, Exception) else RuntimeError(str(error)))
            return
        self._next.acknowledged += len(said)
        if self._wish is not None and self._wish.parked:
            self._next.progress.SetInParent()  # it waits on, and the project stands differently now
        for one, report in zip(done.result(), said, strict=True):
            reason = _why_not(one, report)
            if reason:
                refused = refusal(reason, self._project_id, self._worker_id, str(report[0]))
                self._next.refused.add(
                    handle_id=report[0], attempt=report[1], refusal=refused.reason, refusal_message=refused.message
                )
        self._news.set()

    # --- files -------------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Wish for as many files as there are credits without one."""
        want = self._credits - len(self._drawn)
        if self._wish is not None:
            self._wish.want = want
        elif want and not self._closing and not self._ended:
            self._wish = _SessionWish(self, self._worker_id, self._cpu_site, want, self._session_id)
            self._reserver.wish(self._queue, self._wish)

    def wish_changed(self, wish: Wish) -> None:
        """The wish was granted, or is parked."""
        result = wish.result
        if result is None:
            self._next.progress.SetInParent()
            self._news.set()
            return
        self._wish = None
        self._news.set()
        if isinstance(result, Given):
            self._drawn += result.rows
            self._next.ClearField("progress")
            self._ask()
        elif isinstance(result, Ended):
            self.project_ended(result)
        elif isinstance(result, Waited):
            if result.draining:
                self.drain()
        else:
            self._fail(result)

    def _give_back(self, leases: Sequence[LeaseKey], code: str) -> asyncio.Future[list[Settled]]:
        """Give files back at no attempt; reports that were faster win."""
        said: list[Said] = [
            (handle_id, attempt, 0, self._worker_id, Outcome.RELEASED, self._session_id, code, "")
            for handle_id, attempt in leases
        ]
        return self._settler.submit(self._project_id, said)

    # --- news --------------------------------------------------------------------------------------------------------

    def _tell_losses(self, lost: Iterable[pb.Lease]) -> None:
        self._next.lost.extend(lost)
        self._news.set()

    def project_gone(self, refusal: Refusal) -> None:
        """There is no such project any more."""
        self._fail(refusal)

    def question_leases(self) -> None:
        """Handles were taken from their workers: see whether one's own are among them."""
        self._holdings.question()

    def project_ended(self, ended: Ended) -> None:
        """Nothing will be handed out any more; said once."""
        if not self._ended:
            self._ended = True
            self._next.ended.CopyFrom(messages.project_ended(ended.standing))
            self._news.set()

    def drain(self) -> None:
        """The service is shutting down; said once."""
        if not self._draining:
            self._draining = True
            self._next.draining = True
            self._news.set()


async def _sent(send: Send, message: pb.WorkResponse) -> None:
    """Send a message. Raises Refusal if there is nobody any more."""
    try:
        await send(message)
    except Exception as error:
        raise Refusal("UNAVAILABLE", "the worker's stream is broken") from error


def _portion(drawn: Sequence[Row]) -> list[Row]:
    """Take as many files as one message may hold, one at least."""
    size = 0
    for number, row in enumerate(drawn[:_MOST_FILES]):
        size += len(row["attributes"]) + len(row["name"])
        if number and size > _LARGEST_MESSAGE:
            return list(drawn[:number])
    return list(drawn[:_MOST_FILES])


def _leases_of(drawn: Iterable[Row]) -> list[LeaseKey]:
    return [(row["handle_id"], row["attempts"] + 1) for row in drawn]


def _why_not(settled: Settled, said: Said) -> str | None:
    """Reason why a report is refused. One that repeats what was accepted has to say the same."""
    row, outcome, attempt = settled.row, said[4], said[1]
    if settled.refusal or row is None:
        return settled.refusal
    states = {AFTER[outcome], HandleState.FAILED} if outcome is Outcome.RETRY else {AFTER[outcome]}
    is_so = row["state"] in states and attempt in (0, row["attempts"] + (outcome is Outcome.RELEASED))
    return None if is_so else "NOT_RESERVED"
