"""Jobs that belong to no task, from the submission to the end."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from drayman.task.v1 import job_pb2, job_service_pb2
from drayman.task.v1 import pilot_service_pb2 as pb
from service.task.workshop import Workshop, workshop


@pytest_asyncio.fixture
async def shop(database_url: str) -> AsyncIterator[Workshop]:
    async with workshop(database_url) as running:
        yield running


def spec(*files: job_pb2.JobFile, **fields: Any) -> job_service_pb2.JobSubmission:
    fields = {"transformation": "bash", "jobParameters": "-c true", "prodSourceLabel": "user"} | fields
    return job_service_pb2.JobSubmission(fields_json=json.dumps(fields), files=files)


async def submit(shop: Workshop, user: str, *jobs: Any, request_id: str = "", roles: tuple[str, ...] = ()) -> Any:
    request = job_service_pb2.SubmitJobsRequest(jobs=jobs, request_id=request_id)
    return (await shop.jobs().SubmitJobs(request, metadata=shop.login(user, *roles), timeout=30)).jobs


async def test_a_job_is_submitted_run_and_read(shop: Workshop) -> None:
    file = job_pb2.JobFile(name="a.dat", type="input", dataset="outputs/d/v1", size=5)
    (done,) = await submit(
        shop,
        "ann",
        spec(file, jobName="mine", PandaID=77, coreCount=2, AtlasRelease="R1", computingSite="CERN", nEvents="NULL"),
    )
    assert (done.error, done.definition_id == done.jobset_id, done.definition_id > 0) == ("", True, True)
    pilot = shop.pilot("ann")
    assert await pilot.take(site="CERN") == []
    (job,) = await pilot.take(site="CERN", cores=2)
    assert (job.job_id, job.task_id, job.program, job.parameters) == (done.job_id, 0, "bash", "-c true")
    assert (job.name, job.label, job.software, job.cores) == ("mine", "user", "R1", 2)
    assert [(f.name, f.registry, f.size) for f in job.inputs] == [("a.dat", "outputs/d/v1/a.dat", 5)]
    answer = await pilot.report(job, job_pb2.JOB_STATE_FINISHED, fields={"maxRSS": 3}, metadata_json="{}")
    assert answer.status == pb.ANSWER_STATUS_TAKEN
    (shown,) = await shop.get(done.job_id)
    assert (shown.state, shown.name, shown.owner, shown.definition_id) == (
        job_pb2.JOB_STATE_FINISHED,
        "mine",
        "ann",
        done.definition_id,
    )
    fields = json.loads(shown.fields_json)
    assert (fields["AtlasRelease"], fields["maxRSS"], "PandaID" in fields, "nEvents" in fields) == (
        "R1",
        3,
        False,
        False,
    )
    assert [f.name for f in shown.files] == ["a.dat"]
    # what was read can be submitted again
    again = job_service_pb2.JobSubmission(fields_json=shown.fields_json, files=shown.files)
    assert (await submit(shop, "ann", again))[0].job_id > done.job_id


async def test_the_same_submission_is_one(shop: Workshop) -> None:
    request_id = str(uuid4())
    both = await asyncio.gather(*(submit(shop, "ann", spec(), spec(), request_id=request_id) for _ in range(4)))
    assert len({tuple(job.job_id for job in jobs) for jobs in both}) == 1
    assert await shop.pool.fetchval("SELECT count(*) FROM task.job") == 2
    assert (await submit(shop, "bob", spec(), request_id=request_id))[0].job_id not in {j.job_id for j in both[0]}


async def test_jobs_that_ask_for_the_same_share_a_lot_and_none_is_lost(shop: Workshop) -> None:
    pilot = shop.pilot("ann")

    async def take() -> int:
        got = 0
        async with asyncio.timeout(30):
            while got < 200:
                got += len(await pilot.take(max_jobs=7, timeout=0.2))
        return got

    taking = asyncio.create_task(take())
    await asyncio.gather(*(submit(shop, "ann", *[spec()] * 10) for _ in range(20)))
    assert await taking == 200
    (lot_id,) = [row["lot_id"] for row in await shop.pool.fetch("SELECT lot_id FROM task.lot")]
    assert await shop.ready(lot_id) == 0
    await submit(shop, "ann", spec(minRamCount=4000), spec(assignedPriority=5))
    assert await shop.pool.fetchval("SELECT count(*) FROM task.lot") == 3


async def test_what_cannot_be_stored_says_why_and_the_others_go_on(shop: Workshop) -> None:
    jobs = await submit(
        shop,
        "ann",
        spec(transformation="NULL"),
        spec(coreCount="many"),
        spec(job_pb2.JobFile(name="a", type="odd")),
        spec(job_pb2.JobFile(type="input")),
        spec(job_pb2.JobFile(name="../a", type="output")),
        spec(minRamCount=-1),
        spec(),
    )
    assert [bool(job.job_id) for job in jobs] == [False] * 6 + [True]
    assert all(job.error for job in jobs[:6])
    assert not jobs[6].error


async def test_labels(shop: Workshop) -> None:
    for label, code in (("managed", grpc.StatusCode.PERMISSION_DENIED), ("odd", grpc.StatusCode.INVALID_ARGUMENT)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await submit(shop, "ann", spec(), spec(prodSourceLabel=label))
        assert caught.value.code() is code
    assert await shop.pool.fetchval("SELECT count(*) FROM task.job") == 0
    (job,) = await submit(shop, "ann", spec(prodSourceLabel="managed", assignedPriority=5000), roles=("production",))
    assert (await shop.get(job.job_id))[0].priority == 5000
    (job,) = await submit(shop, "ann", spec(assignedPriority=5000, prodSourceLabel="NULL"))
    shown = (await shop.get(job.job_id))[0]
    assert (shown.priority, shown.label) == (1000, "user")


async def test_too_many_and_no_json(shop: Workshop) -> None:
    for jobs in ([spec()] * 5001, [job_service_pb2.JobSubmission(fields_json="[")]):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await submit(shop, "ann", *jobs)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(await submit(shop, "ann")) == 0
