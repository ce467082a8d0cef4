"""PilotService: the worker's side of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Self

from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal
from drayman.server.task.describing import Describing
from drayman.server.task.farm import Farm
from drayman.server.task.hand_out import HandOut
from drayman.server.task.job_messages import JOB_STATE
from drayman.server.task.job_rendering import RenderingError
from drayman.server.task.job_reports import Answer, JobReports, Verdict
from drayman.server.task.job_store import JobStore, Row
from drayman.server.task.orders import Attendance, Orders
from drayman.server.task.pilot_requests import updates_of, wish_of, worker_id_of
from drayman.server.task.plan import Requirements
from drayman.server.task.ready_lots import Lot
from drayman.server.task.wishes import Again, Given, JobWish, Waited
from drayman.task.v1 import job_pb2
from drayman.task.v1 import pilot_service_pb2 as pb

_STATUS = {
    Verdict.TAKEN: pb.ANSWER_STATUS_TAKEN,
    Verdict.BAD_ATTEMPT: pb.ANSWER_STATUS_BAD_ATTEMPT,
    Verdict.ALREADY_DONE: pb.ANSWER_STATUS_ALREADY_DONE,
    Verdict.WRONG_WORKER: pb.ANSWER_STATUS_WRONG_WORKER,
    Verdict.UNKNOWN: pb.ANSWER_STATUS_UNKNOWN,
    Verdict.STATE_KEPT: pb.ANSWER_STATUS_STATE_KEPT,
}


class PilotServicer:
    """Take jobs, say how they are doing."""

    def __init__(
        self,
        store: JobStore,
        hand_out: HandOut,
        reports: JobReports,
        describing: Describing,
        orders: Orders,
        farm: Farm,
    ) -> None:
        self._store = store
        self._hand_out = hand_out
        self._reports = reports
        self._describing = describing
        self._orders = orders
        self._farm = farm

    # --- taking ------------------------------------------------------------------------------------------------------

    async def NextJob(self, request: pb.NextJobRequest, call: Call) -> None:
        """Wait for jobs; the stream ends with what came of it."""
        wish, timeout = wish_of(request, call.caller)
        self._farm.offered(request.site, request.platform, tuple(sorted(set(request.software))))
        async with _Wait(self._hand_out, wish, timeout) as wait:
            while True:
                result = await wait.result()
                if result is None:
                    waiting = pb.Waiting(hindrances=self._hand_out.hindrances(wish.offer))
                    await call.send(pb.NextJobResponse(waiting=waiting))
                    continue
                if isinstance(result, Waited):
                    await call.send(pb.NextJobResponse(timed_out=pb.NoJob(draining=result.draining)))
                    return
                jobs = result.jobs if isinstance(result, Given) else await self._again(wish)
                descriptions = await self._describe(wish, jobs)
                if descriptions:
                    # From here on the jobs count as handed over: a caller who leaves during the write may have read them.
                    wait.handed_over()
                    await call.send(pb.NextJobResponse(jobs=pb.JobBatch(jobs=descriptions)))
                    return
                wait.wish_again()

    async def _describe(self, wish: JobWish, jobs: list[tuple[Lot, Row]]) -> list[pb.JobDescription]:
        """Describe jobs. One that cannot be described to anybody has failed, and the others go on."""
        descriptions = []
        for lot, row in jobs:
            try:
                descriptions.append(await self._describing.describe(lot, row))
            except RenderingError as error:
                await self._reports.refuse_to_run(row, wish.worker_id, wish.offer.user, str(error))
        return descriptions

    async def _again(self, wish: JobWish) -> list[tuple[Lot, Row]]:
        """Return what the wish got when it was told before."""
        assert wish.request_id is not None
        job_ids = await self._store.deliver_again(wish.worker_id, wish.request_id, wish.offer.user)
        rows = await self._store.jobs(job_ids)
        return [(_lot_of(rows[job_id]), rows[job_id]) for job_id in sorted(rows)]

    # --- reporting ---------------------------------------------------------------------------------------------------

    async def UpdateJobs(self, request: pb.UpdateJobsRequest, call: Call) -> pb.UpdateJobsResponse:
        """Take updates."""
        worker_id = worker_id_of(request.worker_id)
        answers = await self._reports.update(worker_id, call.caller.username, updates_of(request))
        return pb.UpdateJobsResponse(answers=[_answer(answer) for answer in answers])

    async def Attend(self, requests: AsyncIterator[pb.AttendRequest], call: Call) -> None:
        """Take updates and push orders on one stream."""
        first = await anext(requests, None)
        if first is None:
            return
        attendance = Attendance(call.caller.username, worker_id_of(first.worker_id))
        listening = asyncio.create_task(self._listen(attendance, first, requests), name="attendance, listening")
        self._orders.attend(attendance)
        try:
            while (message := await attendance.next()) is not None:
                try:
                    await call.send(message)
                except Exception as error:
                    raise Refusal("UNAVAILABLE", "the worker's stream is broken") from error
            if listening.done():
                await listening  # with what it raised
        finally:
            self._orders.leave(attendance)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(
        self, attendance: Attendance, first: pb.AttendRequest, requests: AsyncIterator[pb.AttendRequest]
    ) -> None:
        user, worker_id = attendance.worker
        try:
            request: pb.AttendRequest | None = first
            while request is not None:
                updates = updates_of(request)
                answers = await self._reports.update(worker_id, user, updates) if updates else []
                attendance.put(
                    pb.AttendResponse(number=request.number, answers=[_answer(answer) for answer in answers])
                )
                await attendance.room()
                request = await anext(requests, None)
        finally:
            attendance.close()


class _Wait:
    """A wish and its caller: whichever way the caller leaves, nothing stays behind."""

    def __init__(self, hand_out: HandOut, wish: JobWish, timeout: float | None) -> None:
        self._hand_out = hand_out
        self._wish = wish
        self._timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self._handed_over = False
        self._told_parked = False

    async def __aenter__(self) -> Self:
        self._hand_out.wish(self._wish)
        if self._timeout:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout, self._hand_out.withdraw, self._wish, Waited(draining=False))
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        result = self._wish.result
        if result is None:
            self._hand_out.withdraw(self._wish)
        elif isinstance(result, Given) and not self._handed_over:
            self._hand_out.return_to_lot(self._wish, result.jobs)

    def handed_over(self) -> None:
        """The caller has, or may have, what was given."""
        self._handed_over = True

    def wish_again(self) -> None:
        """Nothing that was given can be run: wish for others."""
        self._wish.result = None
        self._wish.parked = False
        self._hand_out.wish(self._wish)

    async def result(self) -> Given | Again | Waited | None:
        """Wait for the result. None, once: there is none yet."""
        wish = self._wish
        while wish.result is None:
            await wish.change()
            if wish.result is None and not self._told_parked:
                self._told_parked = True
                return None
        if isinstance(wish.result, Exception):
            raise wish.result
        return wish.result


def _lot_of(row: Row) -> Lot:
    asked = Requirements(
        cores=row["cores"], memory_mb=row["memory_mb"], walltime_seconds=row["walltime"], label=row["label"]
    )
    return Lot(row["lot_id"], row["task_id"], row["owner"], row["label"], row["priority"], 0, asked)


def _answer(answer: Answer) -> pb.JobAnswer:
    return pb.JobAnswer(
        job_id=answer.job_id,
        status=_STATUS[answer.verdict],
        kill=answer.kill,
        debug=answer.debug,
        state=JOB_STATE[answer.state] if answer.state else job_pb2.JOB_STATE_UNSPECIFIED,
    )
