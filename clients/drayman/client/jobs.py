"""The asyncio client of jobs, as their owners see them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import grpc.aio

from drayman.client.calls import Client
from drayman.client.files import moment_of
from drayman.client.job_values import (
    Job,
    JobSubmission,
    SubmittedJob,
    job_of,
    job_state_name,
    job_state_value,
    submission_message,
)
from drayman.task.v1 import farm_service_pb2, farm_service_pb2_grpc, job_service_pb2_grpc
from drayman.task.v1 import job_service_pb2 as pb

#: Ids that go into one request.
_BATCH = 5_000


@dataclass(frozen=True, slots=True)
class FarmOffer:
    """What some workers offer: their site, platform and software, and when one of them asked for jobs last."""

    site: str
    platform: str
    software: tuple[str, ...]
    seen_time: datetime


@dataclass(frozen=True, slots=True)
class DelegatedCredential:
    """A record of a credential that its owner delegated: its name, the host it came from, where it is kept, and its end in UTC."""

    name: str
    origin: str
    repository: str
    expire_time: datetime


class JobsClient(Client):
    """Looks at jobs, submits and kills them. Methods raise DraymanError."""

    def _bind(self, channel: grpc.aio.Channel) -> None:
        self._jobs = job_service_pb2_grpc.JobServiceStub(channel)
        self._farm = farm_service_pb2_grpc.FarmServiceStub(channel)

    async def get(self, job_ids: Sequence[int], *, files: bool = False) -> list[Job | None]:
        """Return jobs in the order of their ids; None where there is none."""
        found: list[Job | None] = []
        for begin in range(0, len(job_ids), _BATCH):
            request = pb.GetJobsRequest(job_ids=job_ids[begin : begin + _BATCH], files=files)
            async with self._stream(self._jobs.GetJobs, request) as replies:
                async for reply in replies:
                    found += [job_of(job) for job in reply.jobs]
        return found

    async def jobs(
        self,
        task_id: int = 0,
        *,
        owner: str = "",
        states: Sequence[str] = (),
        files: bool = False,
        limit: int = 0,
    ) -> AsyncIterator[Job]:
        """Read the jobs of a task, or of an owner, by id; `limit` 0 = all."""
        request = pb.ListJobsRequest(
            task_id=task_id, owner=owner, states=[job_state_value(state) for state in states], files=files, limit=limit
        )
        async with self._stream(self._jobs.ListJobs, request) as replies:
            async for reply in replies:
                for message in reply.jobs:
                    if (job := job_of(message)) is not None:
                        yield job

    async def ids(self, task_id: int) -> list[int]:
        """Return the ids of all jobs of a task."""
        request = pb.ListJobsRequest(task_id=task_id, ids_only=True)
        async with self._stream(self._jobs.ListJobs, request) as replies:
            return [job.job_id async for reply in replies for job in reply.jobs]

    async def kill(self, job_ids: Sequence[int], *, reason: str = "", code: int = 0) -> list[bool]:
        """Kill jobs; for each whether it was cancelled now or an order was newly recorded. `code` is for administrators."""
        killed: list[bool] = []
        for begin in range(0, len(job_ids), _BATCH):
            request = pb.KillJobsRequest(job_ids=job_ids[begin : begin + _BATCH], reason=reason, code=code)
            killed += (await self._call(self._jobs.KillJobs, request)).killed
        return killed

    async def submit(self, jobs: Sequence[JobSubmission], *, request_id: str | None = None) -> list[SubmittedJob]:
        """Submit jobs that belong to no task, at most 5,000. With a `request_id` (a UUID) the same again gets the same answer."""
        request = pb.SubmitJobsRequest(
            jobs=[submission_message(job) for job in jobs], request_id=request_id or str(uuid4())
        )
        reply = await self._call(self._jobs.SubmitJobs, request)
        return [SubmittedJob(job.job_id, job.definition_id, job.jobset_id, job.error) for job in reply.jobs]

    async def debug(self, job_id: int, on: bool) -> None:
        """Switch debug mode: the worker then sends the tail of the job's output."""
        await self._call(self._jobs.SetDebugMode, pb.SetDebugModeRequest(job_id=job_id, on=on))

    async def output(self, job_id: int) -> AsyncGenerator[tuple[str, str], None]:
        """Yield the tail of a job's output and its state, now and whenever they changed, until it is over."""
        async with self._stream(self._jobs.WatchOutput, pb.WatchOutputRequest(job_id=job_id)) as replies:
            async for reply in replies:
                yield reply.tail, job_state_name(reply.state)

    async def offers(self, software: str = "") -> list[FarmOffer]:
        """Return what workers offered within the last hour; only those that have some software, if it is named."""
        request = farm_service_pb2.ListOffersRequest(software=software)
        reply = await self._call(self._farm.ListOffers, request)
        return [
            FarmOffer(offer.site, offer.platform, tuple(offer.software), moment_of(offer.seen_time))
            for offer in reply.offers
        ]

    async def register_credential(
        self, name: str, origin: str, repository: str, expire_time: datetime | None = None
    ) -> None:
        """Record a delegated credential, never its content; None = it ends in 12 hours."""
        request = farm_service_pb2.RegisterCredentialRequest(name=name, origin=origin, repository=repository)
        if expire_time is not None:
            request.expire_time.FromDatetime(expire_time)
        await self._call(self._farm.RegisterCredential, request)

    async def credential(self) -> DelegatedCredential | None:
        """Return one's record that lasts longest; None if all have ended."""
        reply = await self._call(self._farm.GetCredential, farm_service_pb2.GetCredentialRequest())
        if not reply.name:
            return None
        return DelegatedCredential(reply.name, reply.origin, reply.repository, moment_of(reply.expire_time))
