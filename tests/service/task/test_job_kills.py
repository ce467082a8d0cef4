"""Killing jobs, and orders on their way to workers."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from drayman.task.v1 import job_pb2, job_service_pb2
from drayman.task.v1 import pilot_service_pb2 as pb
from service.task.workshop import Pilot, Workshop, say, workshop


@pytest_asyncio.fixture
async def shop(database_url: str) -> AsyncIterator[Workshop]:
    async with workshop(database_url) as running:
        yield running


async def kill(
    shop: Workshop, user: str, *job_ids: int, code: int = 0, admin: bool = False, replica: int = 0
) -> list[bool]:
    request = job_service_pb2.KillJobsRequest(job_ids=job_ids, reason="enough", code=code)
    reply = await shop.jobs(replica).KillJobs(request, metadata=shop.login(user, admin=admin), timeout=30)
    return list(reply.killed)


async def running(shop: Workshop) -> tuple[Any, Pilot, pb.JobDescription]:
    task = await shop.task("ann")
    pilot = shop.pilot("ann")
    (job,) = await pilot.take()
    await pilot.report(job, job_pb2.JOB_STATE_RUNNING)
    return task, pilot, job


@pytest.mark.parametrize(
    "state", ["pending", "defined", "assigned", "activated", "sent", "starting", "holding", "transferring"]
)
async def test_what_does_not_run_is_cancelled_at_once(shop: Workshop, state: str) -> None:
    task = await shop.task("ann")
    (job_id,) = task.job_ids
    pilot = shop.pilot("ann")
    if state in ("sent", "starting", "holding", "transferring"):
        await pilot.take()
        if state != "sent":
            await pilot.report(job_id, job_pb2.JobState.Value(f"JOB_STATE_{state.upper()}"))
    elif state != "activated":
        await shop.pool.execute("UPDATE task.job SET state = $2::text::task.job_state WHERE job_id = $1", job_id, state)
        await shop.pool.execute("UPDATE task.lot SET ready = 0 WHERE lot_id = $1", task.lot_id)
    assert await kill(shop, "ann", job_id, job_id, 10**12) == [True, False, False]
    (job,) = await shop.get(job_id)
    assert job.state == job_pb2.JOB_STATE_CANCELLED
    fields = json.loads(job.fields_json)
    assert (fields["taskBufferErrorCode"], fields["taskBufferErrorDiag"]) == (100, "killed by ann: enough")
    assert await shop.ready(task.lot_id) == 0
    tally = await shop.tally(task.task_id)
    assert (tally["live"], tally["jobs_cancelled"], tally["ready"]) == (0, 1, 1)
    (record,) = await shop.inputs(task.task_id)
    assert (record["s"], record["attempts"], record["failures"]) == ("ready", 1, 0)
    assert {file.status for file in job.files if file.type != "input"} == {"failed"}
    assert shop.replicas[0].kicked == [task.task_id]
    assert await kill(shop, "ann", job_id) == [False]
    if state == "starting":
        assert job.start_time == job.end_time
    if state in ("sent", "starting"):
        assert (await pilot.report(job_id, job_pb2.JOB_STATE_FAILED)).status == pb.ANSWER_STATUS_ALREADY_DONE


async def test_what_runs_gets_an_order_and_obeys(shop: Workshop) -> None:
    task, pilot, job = await running(shop)
    assert await kill(shop, "ann", job.job_id) == [True]
    assert await kill(shop, "ann", job.job_id) == [False]
    assert (await shop.get(job.job_id))[0].order == "tobekilled"
    for _ in range(2):  # with every answer until it is obeyed
        answer = await pilot.report(job, job_pb2.JOB_STATE_RUNNING)
        assert (answer.kill, answer.status) == (True, pb.ANSWER_STATUS_TAKEN)
    for _ in range(2):
        answer = await pilot.report(job, job_pb2.JOB_STATE_FAILED)
        assert (answer.status, answer.state) == (pb.ANSWER_STATUS_TAKEN, job_pb2.JOB_STATE_CANCELLED)
    (record,) = await shop.inputs(task.task_id)
    assert (record["s"], record["failures"]) == ("ready", 0)
    (shown,) = await shop.get(job.job_id)
    assert (shown.order, json.loads(shown.fields_json)["taskBufferErrorCode"]) == ("", 100)


async def test_whose_jobs_may_be_killed(shop: Workshop) -> None:
    task = await shop.task("ann", 4)
    ids = task.job_ids
    assert await kill(shop, "bob", ids[0]) == [False]
    assert await kill(shop, "root", ids[0], admin=True) == [False]  # users' jobs only by force
    assert await kill(shop, "root", ids[0], admin=True, code=91) == [True]
    assert await kill(shop, "ann", ids[1], code=2) == [True]  # for others the code means nothing
    assert [job.state for job in await shop.get(*ids[:2])] == [job_pb2.JOB_STATE_CANCELLED] * 2
    managed = await shop.task("ann", 1, label="managed")
    assert await kill(shop, "root", *managed.job_ids, admin=True) == [True]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kill(shop, "root", ids[2], admin=True, code=17)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_closed_jobs_use_up_no_attempt(shop: Workshop) -> None:
    task = await shop.task("ann", 1, label="managed")
    assert await kill(shop, "root", *task.job_ids, admin=True, code=2) == [True]
    assert (await shop.get(*task.job_ids))[0].state == job_pb2.JOB_STATE_CLOSED
    (record,) = await shop.inputs(task.task_id)
    assert (record["s"], record["attempts"]) == ("ready", 0)


async def test_by_force_what_runs_ends_at_once(shop: Workshop) -> None:
    _, pilot, job = await running(shop)
    assert await kill(shop, "root", job.job_id, admin=True, code=9) == [True]
    assert (await pilot.report(job, job_pb2.JOB_STATE_RUNNING)).status == pb.ANSWER_STATUS_ALREADY_DONE


@pytest.mark.parametrize("replica", [0, 1])
async def test_an_order_is_pushed_to_who_attends_on_any_replica(shop: Workshop, replica: int) -> None:
    await shop.open_replica()
    _, pilot, job = await running(shop)
    call = pilot.stub.Attend(metadata=pilot.metadata)
    await call.write(pb.AttendRequest(worker_id=pilot.worker_id, updates=[say(job.job_id, 0)], number=7))
    answer = await asyncio.wait_for(call.read(), 10)
    assert (answer.number, answer.answers[0].status) == (7, pb.ANSWER_STATUS_TAKEN)
    assert await kill(shop, "ann", job.job_id, replica=replica) == [True]
    order = await asyncio.wait_for(call.read(), 10)
    assert (order.number, order.answers[0].job_id, order.answers[0].kill) == (0, job.job_id, True)
    # who comes back is told again
    call.cancel()
    call = pilot.stub.Attend(metadata=pilot.metadata)
    await call.write(pb.AttendRequest(worker_id=pilot.worker_id))
    messages = [await asyncio.wait_for(call.read(), 10) for _ in range(2)]
    assert any(answer.kill for message in messages for answer in message.answers)
    await call.done_writing()
    assert await asyncio.wait_for(call.read(), 10) is grpc.aio.EOF


async def test_debug_mode(shop: Workshop) -> None:
    _, pilot, job = await running(shop)
    stub, ann = shop.jobs(), shop.login("ann")

    async def debug(on: bool, user: Any = ann, job_id: int = job.job_id) -> Any:
        return await stub.SetDebugMode(
            job_service_pb2.SetDebugModeRequest(job_id=job_id, on=on), metadata=user, timeout=10
        )

    def watch() -> Any:
        return stub.WatchOutput(job_service_pb2.WatchOutputRequest(job_id=job.job_id), metadata=ann, timeout=20)

    for call, code in (
        (lambda: debug(False), grpc.StatusCode.FAILED_PRECONDITION),
        (lambda: debug(True, shop.login("bob")), grpc.StatusCode.PERMISSION_DENIED),
        (lambda: debug(True, job_id=10**12), grpc.StatusCode.NOT_FOUND),
        (lambda: watch().read(), grpc.StatusCode.FAILED_PRECONDITION),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call()
        assert caught.value.code() is code
    assert (await pilot.report(job, 0, output_tail="unheard")).debug is False
    await debug(True)
    with pytest.raises(grpc.aio.AioRpcError):
        await debug(True)
    call = watch()
    first = await call.read()
    assert (first.tail, first.state) == ("", job_pb2.JOB_STATE_RUNNING)
    assert (await pilot.report(job, 0, output_tail="line 1\n")).debug is True
    assert (await call.read()).tail == "line 1\n"
    assert (await shop.get(job.job_id, user="ann"))[0].output_tail == "line 1\n"
    assert (await shop.get(job.job_id))[0].output_tail == ""
    await pilot.report(job, job_pb2.JOB_STATE_FAILED, output_tail="the end\n")
    last = await call.read()
    if last.state != job_pb2.JOB_STATE_FAILED:  # a look in between
        last = await call.read()
    assert last.state == job_pb2.JOB_STATE_FAILED
    assert await call.read() is grpc.aio.EOF
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await debug(False)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
