"""Orders for workers: pushed to those that attend their jobs by a stream, on whichever replica they do.

An order is in its job's row and goes with every answer until it is obeyed; what is pushed only makes it known sooner.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import structlog

from drayman.server.platform.lifecycle import Part
from drayman.server.task import job_messages as messages
from drayman.server.task.job_states import FINAL_JOB
from drayman.server.task.job_store import JobStore, Row
from drayman.task.v1 import pilot_service_pb2 as pb

log = structlog.get_logger(__name__)

#: Messages that may wait for a worker that does not read, before it is not listened to either.
_BACKLOG = 100


class Attendance:
    """A worker's stream: what is to be sent on it."""

    def __init__(self, user: str, worker_id: str) -> None:
        self.worker = (user, worker_id)
        self._waiting: deque[pb.AttendResponse] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False

    def put(self, message: pb.AttendResponse) -> None:
        """Send a message, soon."""
        self._waiting.append(message)
        self._news.set()

    def close(self) -> None:
        """End the stream once everything was sent."""
        self._closed = True
        self._news.set()

    async def room(self) -> None:
        """Wait until the worker has read what it was sent."""
        while len(self._waiting) > _BACKLOG:
            self._room.clear()
            await self._room.wait()

    async def next(self) -> pb.AttendResponse | None:
        """Return what is to be sent next; None = the stream ends."""
        while not self._waiting:
            if self._closed:
                return None
            self._news.clear()
            await self._news.wait()
        self._room.set()
        return self._waiting.popleft()


class Orders(Part):
    """Who attends which jobs here, and what they have to be told."""

    def __init__(self, store: JobStore, announce: Callable[[str], None]) -> None:
        self._store = store
        self._announce = announce
        self._attending: dict[tuple[str, str], set[Attendance]] = {}
        self._given: set[int] = set()
        self._question_all = False
        self._task: asyncio.Task[None] | None = None
        self._draining = False

    def given(self, job_ids: Sequence[int]) -> None:
        """Jobs were killed, or their debug mode was switched, by this process's doing."""
        for job_id in job_ids:
            self._announce(f"o{job_id}")
        self._look_up(job_ids)

    def hear(self, word: str) -> None:
        """Another replica announced something."""
        if word[:1] == "o" and word[1:].isdigit():
            self._look_up([int(word[1:])])

    def missed(self) -> None:
        """Announcements may have been lost."""
        self._question_all = True
        self._look_up([])

    def attend(self, attendance: Attendance) -> None:
        """A worker attends its jobs; orders that it has not obeyed yet are told at once."""
        if self._draining:
            attendance.close()
            return
        self._attending.setdefault(attendance.worker, set()).add(attendance)
        self.missed()

    def leave(self, attendance: Attendance) -> None:
        """A worker's stream ended."""
        attendances = self._attending.get(attendance.worker)
        if attendances is not None:
            attendances.discard(attendance)
            if not attendances:
                del self._attending[attendance.worker]

    async def drain(self) -> None:
        """End all streams: their workers go on elsewhere."""
        self._draining = True
        for attendances in self._attending.values():
            for attendance in attendances:
                attendance.close()

    async def stop(self) -> None:
        """Look nothing up any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _look_up(self, job_ids: Iterable[int]) -> None:
        if not self._attending:
            self._question_all = False
            return
        self._given.update(job_ids)
        if self._task is None and (self._given or self._question_all):
            self._task = asyncio.create_task(self._run(), name="orders")

    async def _run(self) -> None:
        try:
            while self._given or self._question_all:
                job_ids, self._given = list(self._given), set()
                if self._question_all:
                    self._question_all = False
                    self._push(await self._store.orders_of_workers(list(self._attending)))
                if job_ids:
                    self._push(await self._store.orders(job_ids))
        except Exception as error:
            log.warning(
                "orders not looked up", error=str(error) or type(error).__name__
            )  # they go with the next answers
        finally:
            self._task = None  # in the same breath as the last look, or an order that comes between is not pushed

    def _push(self, rows: Iterable[Row]) -> None:
        told: dict[tuple[str, str], list[pb.JobAnswer]] = {}
        for row in rows:
            worker = (row["worker_user"], row["worker_id"])
            if worker in self._attending:
                told.setdefault(worker, []).append(order_message(row))
        for worker, answers in told.items():
            for attendance in self._attending.get(worker, ()):
                attendance.put(pb.AttendResponse(answers=answers))


def order_message(row: Row) -> pb.JobAnswer:
    """Shape an order: stop what was killed, send the tail of what is in debug mode."""
    over = row["state"] in FINAL_JOB
    return pb.JobAnswer(
        job_id=row["job_id"],
        status=pb.ANSWER_STATUS_ALREADY_DONE if over else pb.ANSWER_STATUS_TAKEN,
        kill=over or row["kill"],
        debug=row["debug"],
        state=messages.JOB_STATE[row["state"]],
    )
