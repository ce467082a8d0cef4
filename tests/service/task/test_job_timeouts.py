"""What time does to jobs: each time-out with its code and its text."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from drayman.task.v1 import job_pb2
from drayman.task.v1 import pilot_service_pb2 as pb
from service.task.workshop import Workshop, workshop

_LIMITS = {
    "task_sent_timeout": 0.4,
    "task_heartbeat_timeout": 0.6,
    "task_holding_timeout": 0.3,
    "task_transferring_timeout": 0.3,
}


@pytest_asyncio.fixture
async def shop(database_url: str) -> AsyncIterator[Workshop]:
    async with workshop(database_url, **_LIMITS) as running:
        yield running


async def ended(shop: Workshop, job_id: int) -> job_pb2.Job:
    async with asyncio.timeout(15):
        while True:
            (job,) = await shop.get(job_id)
            if job.HasField("end_time"):
                return job
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("state", "code", "text"),
    [
        ("sent", 102, "its worker did not begin within 0.4 s"),
        ("starting", 100, "lost heartbeat : "),
        ("running", 100, "lost heartbeat : "),
        ("holding", 103, "its outputs were not recorded within 0.3 s"),
        ("transferring", 104, "its outputs did not arrive within 0.3 s"),
    ],
)
async def test_a_job_that_is_silent_for_too_long_fails(shop: Workshop, state: str, code: int, text: str) -> None:
    task = await shop.task("ann")
    pilot = shop.pilot("ann")
    (job,) = await pilot.take()
    if state != "sent":
        await pilot.report(job, job_pb2.JobState.Value(f"JOB_STATE_{state.upper()}"))
    shown = await ended(shop, job.job_id)
    assert shown.state == job_pb2.JOB_STATE_FAILED
    fields = json.loads(shown.fields_json)
    assert fields["jobDispatcherErrorCode"] == code
    assert fields["jobDispatcherErrorDiag"].startswith(text)
    (record,) = await shop.inputs(task.task_id)
    assert (record["s"], record["failures"]) == ("ready", 1)
    assert shop.replicas[0].kicked == [task.task_id]
    assert (await pilot.report(job, job_pb2.JOB_STATE_RUNNING)).status == pb.ANSWER_STATUS_ALREADY_DONE


async def test_heartbeats_keep_a_job(shop: Workshop) -> None:
    await shop.task("ann")
    pilot = shop.pilot("ann")
    (job,) = await pilot.take()
    await pilot.report(job, job_pb2.JOB_STATE_RUNNING)
    for _ in range(8):
        await asyncio.sleep(0.15)
        assert (await pilot.report(job, 0)).status == pb.ANSWER_STATUS_TAKEN


async def test_a_lease_ends_whoever_gave_it(shop: Workshop) -> None:
    await shop.open_replica(**_LIMITS)
    await shop.task("ann")
    (job,) = await shop.pilot("ann").take()
    await shop.replicas[0].room.parts[5].stop()
    assert json.loads((await ended(shop, job.job_id)).fields_json)["jobDispatcherErrorCode"] == 102


async def test_what_nobody_fetches_is_closed_and_what_runs_for_ever_is_told_to_stop(database_url: str) -> None:
    async with workshop(database_url, task_activated_days=2.0, task_running_days=3.0) as shop:
        task = await shop.task("ann", 3)
        pilot = shop.pilot("ann")
        (job,) = await pilot.take()
        await pilot.report(job, job_pb2.JOB_STATE_RUNNING)
        await shop.pool.execute(
            "UPDATE task.job SET started_at = now() - interval '4 days' WHERE job_id = $1", job.job_id
        )
        await shop.pool.execute(
            "UPDATE task.job SET state_at = now() - interval '4 days' WHERE job_id = $1", task.job_ids[1]
        )
        await shop.open_replica(task_activated_days=2.0, task_running_days=3.0)  # looks when it starts
        assert (await ended(shop, task.job_ids[1])).state == job_pb2.JOB_STATE_CLOSED
        async with asyncio.timeout(10):
            while not (await pilot.report(job, 0)).kill:
                await asyncio.sleep(0.05)
        shown = await shop.get(*task.job_ids)
        assert [json.loads(j.fields_json).get("taskBufferErrorCode") for j in shown] == [100, 102, None]
        assert shown[2].state == job_pb2.JOB_STATE_ACTIVATED
        assert await shop.ready(task.lot_id) == 1
