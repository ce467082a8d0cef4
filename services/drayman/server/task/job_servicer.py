"""JobService: jobs as their owners see them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from drayman.server.platform.calls import Call
from drayman.server.platform.errors import Refusal, invalid
from drayman.server.platform.trust import Caller
from drayman.server.task import job_messages as messages
from drayman.server.task.describing import Describing
from drayman.server.task.job_fields import FieldsError, read_object, storable
from drayman.server.task.job_kills import JobKills, is_production
from drayman.server.task.job_rendering import Rendered, RenderingError
from drayman.server.task.job_states import FINAL_JOB, JobState
from drayman.server.task.job_store import JobStore, Row
from drayman.server.task.orders import Orders
from drayman.server.task.submitting_jobs import JobSubmission
from drayman.task.v1 import job_pb2
from drayman.task.v1 import job_service_pb2 as pb

_MOST_IDS = 10_000
_CHUNK = 500
_LARGEST_JOB = 256 * 1024
#: Seconds between looks at the tail of an output.
_TAIL_INTERVAL = 0.5
_DEBUGGABLE = frozenset(
    {
        JobState.DEFINED,
        JobState.ASSIGNED,
        JobState.ACTIVATED,
        JobState.SENT,
        JobState.STARTING,
        JobState.RUNNING,
    }
)


class JobServicer:
    """Look at jobs, kill them, submit them."""

    def __init__(
        self,
        store: JobStore,
        describing: Describing,
        kills: JobKills,
        submission: JobSubmission,
        orders: Orders,
    ) -> None:
        self._store = store
        self._describing = describing
        self._kills = kills
        self._submission = submission
        self._orders = orders
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """End the streams that only watch."""
        self._draining.set()

    # --- looking -----------------------------------------------------------------------------------------------------

    async def GetJobs(self, request: pb.GetJobsRequest, call: Call) -> None:
        """Stream jobs by id."""
        _check_count(request.job_ids)
        job_ids = list(request.job_ids)
        for begin in range(0, len(job_ids), _CHUNK):
            chunk = job_ids[begin : begin + _CHUNK]
            found = await self._shaped(chunk, files=request.files, call=call)
            nothing = job_pb2.Job()
            await call.send(pb.GetJobsResponse(jobs=[found.get(job_id, nothing) for job_id in chunk]))

    async def ListJobs(self, request: pb.ListJobsRequest, call: Call) -> None:
        """Stream the jobs of a task, or of an owner."""
        if request.limit < 0:
            raise invalid("limit", f"limit {request.limit} is negative")
        if not request.task_id and not request.owner:
            raise invalid("task_id", "neither a task nor an owner is given")
        states = sorted({_stored(state) for state in request.states}) or None
        left = request.limit or None
        after = 0
        while left is None or left > 0:
            size = min(_CHUNK, left) if left is not None and not request.owner else _CHUNK
            job_ids = await self._page(request, after, states, size)
            if not job_ids:
                return
            after = job_ids[-1]
            if request.ids_only and not request.owner and not _asks_for_throttled(request):
                jobs = [job_pb2.Job(job_id=job_id) for job_id in job_ids]
            else:
                found = await self._shaped(job_ids, files=request.files and not request.ids_only, call=call)
                jobs = [found[job_id] for job_id in job_ids if job_id in found and _wanted(found[job_id], request)]
                if request.ids_only:
                    jobs = [job_pb2.Job(job_id=job.job_id) for job in jobs]
            jobs = jobs[:left]
            if left is not None:
                left -= len(jobs)
            if jobs:
                await call.send(pb.ListJobsResponse(jobs=jobs))

    async def _page(
        self, request: pb.ListJobsRequest, after: int, states: Sequence[str] | None, size: int
    ) -> list[int]:
        if request.task_id:
            return await self._store.ids_of_task(request.task_id, after, states, size)
        return await self._store.ids_of_owner(storable(request.owner), after, states, size)

    async def _shaped(self, job_ids: Sequence[int], *, files: bool, call: Call) -> dict[int, job_pb2.Job]:
        caller = call.caller_or_none
        rows = await self._store.jobs(job_ids, made=files, tails=files and caller is not None)
        shaped = {}
        for job_id, row in rows.items():
            rendered = await self._rendered(row)
            job = messages.job(row, rendered, self._store.limits, files=files)
            if caller is None or not _owns(caller, row["owner"]):
                job.output_tail = ""
            shaped[job_id] = job
        return shaped

    async def _rendered(self, row: Row) -> Rendered | None:
        try:
            return await self._describing.rendered(row)
        except RenderingError:
            return None

    # --- changing ----------------------------------------------------------------------------------------------------

    async def KillJobs(self, request: pb.KillJobsRequest, call: Call) -> pb.KillJobsResponse:
        """Kill jobs."""
        _check_count(request.job_ids)
        killed = await self._kills.kill(call.caller, list(request.job_ids), storable(request.reason), request.code)
        return pb.KillJobsResponse(killed=killed)

    async def SubmitJobs(self, request: pb.SubmitJobsRequest, call: Call) -> pb.SubmitJobsResponse:
        """Submit jobs that belong to no task."""
        jobs = [_submission(job, number) for number, job in enumerate(request.jobs)]
        done = await self._submission.submit(call.caller, jobs, messages.request_uuid(request.request_id))
        return pb.SubmitJobsResponse(
            jobs=[
                pb.SubmittedJob(
                    job_id=job.job_id,
                    definition_id=done.definition_id,
                    jobset_id=done.definition_id,
                    error=job.error,
                )
                for job in done.jobs
            ]
        )

    async def SetDebugMode(self, request: pb.SetDebugModeRequest, call: Call) -> pb.SetDebugModeResponse:
        """Switch debug mode."""
        row = await self._own(request.job_id, call.caller)
        if not await self._store.set_debug(request.job_id, on=request.on):
            row = (await self._store.whose_jobs([request.job_id])).get(request.job_id, row)
            raise _no_debug(request.job_id, row, on=request.on)
        self._orders.given([request.job_id])
        return pb.SetDebugModeResponse()

    async def WatchOutput(self, request: pb.WatchOutputRequest, call: Call) -> None:
        """Stream the tail of a job's output until the job is over."""
        await self._own(request.job_id, call.caller)
        seen: tuple[object, object] | None = None
        while not self._draining.is_set():
            row = await self._store.output_tail(request.job_id)
            if row is None:
                raise _unknown(request.job_id)
            over = row["state"] in FINAL_JOB
            if not row["debug"] and seen is None:
                raise Refusal(
                    "JOB_STATE", f"job {request.job_id} is not in debug mode", metadata={"job_id": str(request.job_id)}
                )
            news = (row["at"], row["state"])
            if news != seen:
                seen = news
                state = messages.JOB_STATE[row["state"]]
                await call.send(pb.WatchOutputResponse(tail=row["tail"] or "", state=state))
            if over or not row["debug"]:
                return
            try:
                await asyncio.wait_for(self._draining.wait(), _TAIL_INTERVAL)
            except TimeoutError:
                continue

    async def _own(self, job_id: int, caller: Caller) -> Row:
        """Find a job of the caller's. Raises Refusal."""
        row = (await self._store.whose_jobs([job_id])).get(job_id)
        if row is None:
            raise _unknown(job_id)
        if not _owns(caller, row["owner"]):
            raise Refusal(
                "NOT_OWNER",
                f"Not authorized: job {job_id} is {row['owner']}'s",
                metadata={"job_id": str(job_id), "user": caller.username},
            )
        return row


def _owns(caller: Caller, owner: str) -> bool:
    return caller.username == owner or is_production(caller)


def _unknown(job_id: int) -> Refusal:
    return Refusal("JOB_NOT_FOUND", f"job {job_id} not found", metadata={"job_id": str(job_id)})


def _no_debug(job_id: int, row: Row, *, on: bool) -> Refusal:
    state = JobState(row["state"])
    if state not in _DEBUGGABLE:
        text = f"job {job_id} is {state}: debug mode is for jobs that are {', '.join(sorted(_DEBUGGABLE))}"
    else:
        text = f"job {job_id} has debug mode {'on' if on else 'off'} already"
    return Refusal("JOB_STATE", text, metadata={"job_id": str(job_id), "state": state.value})


def _check_count(job_ids: Sequence[int]) -> None:
    if len(job_ids) > _MOST_IDS:
        raise invalid("job_ids", f"{len(job_ids)} ids: at most {_MOST_IDS:,}")


def _stored(state: int) -> str:
    """Return what the tables call a state."""
    name = messages.JOB_STATE_NAME.get(state)
    if name is None:
        raise invalid("states", f"state {state}: there is none such")
    return JobState.ACTIVATED.value if name == JobState.THROTTLED else name


def _asks_for_throttled(request: pb.ListJobsRequest) -> bool:
    asked = set(request.states)
    return (job_pb2.JOB_STATE_THROTTLED in asked) != (job_pb2.JOB_STATE_ACTIVATED in asked)


def _wanted(job: job_pb2.Job, request: pb.ListJobsRequest) -> bool:
    return (not request.states or job.state in request.states) and (not request.owner or job.owner == request.owner)


def _submission(job: pb.JobSubmission, number: int) -> dict[str, Any]:
    """Read a submission: its fields, and its files under `Files`. Raises Refusal."""
    try:
        fields = read_object(job.fields_json or "{}", _LARGEST_JOB)
        fields["Files"] = [_file(file) for file in job.files]
    except FieldsError as error:
        raise invalid(f"jobs[{number}].fields_json", str(error)) from None
    return fields


def _file(file: job_pb2.JobFile) -> dict[str, Any]:
    said = read_object(file.fields_json or "{}", _LARGEST_JOB)
    named = {
        "lfn": storable(file.name),
        "type": storable(file.type),
        "dataset": storable(file.dataset),
        "stream": storable(file.stream),
        "fsize": file.size,
        "checksum": storable(file.checksum),
        "scope": storable(file.scope),
        "registry": storable(file.registry),
        "urls": [storable(url) for url in file.urls],
        "GUID": storable(file.guid),
    }
    return said | {name: value for name, value in named.items() if value}
