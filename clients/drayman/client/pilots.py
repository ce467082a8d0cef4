"""The asyncio client of workers that run jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import grpc.aio

from drayman.client.calls import Client
from drayman.client.errors import DeadlineError, OverloadedError, UnavailableError, from_rpc_error
from drayman.client.files import duration
from drayman.client.job_values import JobAnswer, JobDescription, JobUpdate, answer_of, description_of, update_message
from drayman.client.patience import Patience
from drayman.task.v1 import pilot_service_pb2 as pb
from drayman.task.v1 import pilot_service_pb2_grpc


class PilotClient(Client):
    """Takes jobs, and says how they are doing. Methods raise DraymanError."""

    def _bind(self, channel: grpc.aio.Channel) -> None:
        self._pilots = pilot_service_pb2_grpc.PilotServiceStub(channel)

    async def next_jobs(
        self,
        *,
        worker_id: str,
        site: str = "",
        node: str = "",
        cores: int = 1,
        memory_mb: int = 0,
        disk_mb: int = 0,
        walltime_seconds: int = 0,
        platform: str = "",
        label: str = "",
        task_id: int = 0,
        max_jobs: int = 1,
        timeout: float | None = None,
        software: Sequence[str] = (),
        request_id: str | None = None,
    ) -> list[JobDescription]:
        """Wait for jobs that fit what is offered, and take them; empty when `timeout` seconds passed. None = wait for ever, 0 = do not.

        Limits of 0 mean none. It survives the loss of the service for as long as the client is patient: the same wish is sent again, and
        gets the jobs that it was given already.
        """
        loop = asyncio.get_running_loop()
        end = None if timeout is None else loop.time() + timeout
        patience = Patience(self._patience, end)
        request = pb.NextJobRequest(
            worker_id=worker_id,
            site=site,
            node=node,
            cores=cores,
            memory_mb=memory_mb,
            disk_mb=disk_mb,
            walltime_seconds=walltime_seconds,
            platform=platform,
            label=label,
            task_id=task_id,
            max_jobs=max_jobs,
            software=software,
            request_id=request_id or str(uuid4()),
        )
        while True:
            if end is not None:
                request.timeout.CopyFrom(duration(max(0.0, end - loop.time())))
            try:
                jobs = await self._wish(request)
            except (UnavailableError, OverloadedError, DeadlineError) as error:
                await patience.pause(error)
                continue
            if jobs is not None:
                return jobs
            patience.renew()

    async def _wish(self, request: pb.NextJobRequest) -> list[JobDescription] | None:
        """Make one call; None = ask again at once."""
        async with self._stream(self._pilots.NextJob, request) as replies:
            async for reply in replies:
                match reply.WhichOneof("event"):
                    case "jobs":
                        return [description_of(job) for job in reply.jobs.jobs]
                    case "timed_out":
                        return None if reply.timed_out.draining else []
        return None

    async def update(self, worker_id: str, updates: Sequence[JobUpdate]) -> list[JobAnswer]:
        """Say how jobs are doing; the answers are in the order of the updates. It survives the loss of the service for a while."""
        request = pb.UpdateJobsRequest(worker_id=worker_id, updates=[update_message(update) for update in updates])
        patience = Patience(self._patience)
        while True:
            try:
                reply = await self._call(self._pilots.UpdateJobs, request)
            except (UnavailableError, OverloadedError) as error:
                await patience.pause(error)
            else:
                return [answer_of(answer) for answer in reply.answers]

    @asynccontextmanager
    async def attend(self, worker_id: str) -> AsyncIterator[Attendance]:
        """Open a stream for updates and orders. When it breaks, its iterator raises UnavailableError: open another one."""
        call = self._pilots.Attend(metadata=await self.credentials.fresh())
        try:
            async with Attendance(call, worker_id) as attendance:
                yield attendance
        finally:
            call.cancel()


class Attendance:
    """A stream of updates one way, answers and orders the other.

    `update` sends updates and returns their answers; iterating yields orders as they are given: answers whose `kill` or `debug` changed.
    """

    def __init__(self, call: Any, worker_id: str) -> None:
        self._call = call
        self._worker_id = worker_id
        self._number = 0
        self._answers: dict[int, asyncio.Future[list[JobAnswer]]] = {}
        self._orders: asyncio.Queue[JobAnswer | None] = asyncio.Queue()
        self._problem: Exception | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._write([])
        self._reader = asyncio.create_task(self._read(), name="attendance")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    async def update(self, updates: Sequence[JobUpdate]) -> list[JobAnswer]:
        """Send updates (or none: a sign of life of the connection); returns the answers in their order. Raises DraymanError."""
        if self._problem is not None:
            raise self._problem
        answered: asyncio.Future[list[JobAnswer]] = asyncio.get_running_loop().create_future()
        number = self._number + 1
        self._answers[number] = answered
        try:
            await self._write(updates)
            return await answered
        finally:
            self._answers.pop(number, None)

    async def __aiter__(self) -> AsyncIterator[JobAnswer]:
        while (order := await self._orders.get()) is not None:
            yield order
        if self._problem is not None:
            raise self._problem

    async def _write(self, updates: Sequence[JobUpdate]) -> None:
        self._number += 1
        message = pb.AttendRequest(
            worker_id=self._worker_id, updates=[update_message(update) for update in updates], number=self._number
        )
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        except asyncio.InvalidStateError:
            raise self._problem or UnavailableError("the stream has ended", code=grpc.StatusCode.UNAVAILABLE) from None

    async def _read(self) -> None:
        try:
            while (reply := await self._call.read()) is not grpc.aio.EOF:
                answers = [answer_of(answer) for answer in reply.answers]
                if not reply.number:
                    for order in answers:
                        self._orders.put_nowait(order)
                elif (answered := self._answers.pop(reply.number, None)) is not None and not answered.done():
                    answered.set_result(answers)
            self._end(UnavailableError("the stream has ended", code=grpc.StatusCode.UNAVAILABLE))
        except grpc.aio.AioRpcError as error:
            self._end(from_rpc_error(error))
        finally:
            self._end(UnavailableError("the stream was closed", code=grpc.StatusCode.UNAVAILABLE))

    def _end(self, problem: Exception) -> None:
        if self._problem is None:
            self._problem = problem
        for answered in self._answers.values():
            if not answered.done():
                answered.set_exception(problem)
                answered.exception()  # its waiter may have gone
        self._answers.clear()
        self._orders.put_nowait(None)
