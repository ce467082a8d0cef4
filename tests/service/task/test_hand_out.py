"""Jobs reach workers: once each, in their order, on disk before the answer, whatever becomes of who asked."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from drayman.task.v1 import job_pb2
from service.task.workshop import Workshop, workshop


@pytest_asyncio.fixture
async def shop(database_url: str) -> AsyncIterator[Workshop]:
    async with workshop(database_url) as running:
        yield running


async def test_a_worker_gets_a_job_with_all_it_needs(shop: Workshop) -> None:
    task = await shop.task("ann", 2)
    pilot = shop.pilot("ann")
    (job,) = await pilot.take(site="CERN", node="host1")
    assert (job.job_id, job.task_id, job.attempt, job.owner) == (task.job_ids[0], task.task_id, 1, "ann")
    assert (job.program, job.parameters) == ("bash", "-c run file1.dat out.000001.txt")
    (file,) = job.inputs
    assert (file.name, file.stream, file.size, file.registry) == ("file1.dat", "IN", 1, "outputs/data/v1/file1.dat")
    out, log = job.outputs
    assert (out.name, out.type, out.dataset, out.optional) == ("out.000001.txt", "output", "user.x.out", False)
    assert (out.project, out.asset, out.version) == ("outputs", "user.x.out", f"{task.task_id}.000001")
    assert (log.type, log.optional, log.asset) == ("log", True, "user.x.log")
    assert out.warrant
    assert job.lease.seconds == 7200
    row = await shop.row(job.job_id)
    assert (row["s"], row["worker_id"], row["worker_user"], row["site"], row["node"]) == (
        "sent",
        pilot.worker_id,
        "ann",
        "CERN",
        "host1",
    )
    assert row["lease_until"] is not None
    assert await shop.ready(task.lot_id) == 1


async def test_ordinary_users_get_their_own_jobs_and_pilots_anybodys(shop: Workshop) -> None:
    await shop.task("ann")
    assert await shop.pilot("bob").take() == []
    assert len(await shop.pilot("bob", "pilot").take()) == 1
    await shop.task("ann")
    assert len(await shop.pilot("root", admin=True).take()) == 1


async def test_highest_priority_first_then_the_oldest_lot(shop: Workshop) -> None:
    low = await shop.task("ann", 1, priority=10)
    first = await shop.task("ann", 2, priority=500)
    second = await shop.task("ann", 1, priority=500)
    jobs = await shop.pilot("ann").take(max_jobs=10)
    assert [job.job_id for job in jobs] == [*first.job_ids, *second.job_ids, *low.job_ids]


async def test_what_a_job_asks_for_is_matched(shop: Workshop) -> None:
    big = await shop.task("ann", 1, cores=8, memory_mb=16_000)
    there = await shop.task("ann", 1, sites=["CERN"])
    pilot = shop.pilot("ann")
    assert await pilot.take(site="BNL", cores=4) == []
    events = [event async for event in pilot.ask(site="BNL", cores=4, timeout=0.2)]
    assert [event.WhichOneof("event") for event in events] == ["waiting", "timed_out"]
    assert sorted(events[0].waiting.hindrances) == [
        f"1 job of task {big.task_id}: it asks for 8 cores, offered are 4",
        f"1 job of task {there.task_id}: it asks for site CERN, the worker is at BNL",
    ]
    assert [job.job_id for job in await pilot.take(site="CERN", cores=4)] == there.job_ids
    assert [job.job_id for job in await pilot.take(cores=8, memory_mb=16_000)] == big.job_ids


async def test_every_job_goes_to_one_worker_whoever_many_ask_on_two_replicas(shop: Workshop) -> None:
    await shop.open_replica()
    task = await shop.task("ann", 300)
    pilots = [shop.pilot("ann", replica=number % 2) for number in range(40)]

    async def work(pilot: object) -> list[int]:
        assert hasattr(pilot, "take")
        taken: list[int] = []
        while jobs := await pilot.take(max_jobs=2):
            taken += [job.job_id for job in jobs]
        return taken

    taken = [job_id for some in await asyncio.gather(*map(work, pilots)) for job_id in some]
    assert sorted(taken) == sorted(task.job_ids)
    assert await shop.ready(task.lot_id) == 0


async def test_a_parked_wish_is_served_when_jobs_are_made_here_or_on_another_replica(shop: Workshop) -> None:
    other = await shop.open_replica()
    pilots = [shop.pilot("ann"), shop.pilot("ann", replica=1)]
    waits = [pilot.ask(timeout=None) for pilot in pilots]
    for wait in waits:
        assert (await wait.read()).HasField("waiting")
    task = await shop.task("ann", 2)  # said to the first replica only
    events = await asyncio.wait_for(asyncio.gather(*(wait.read() for wait in waits)), 10)
    assert sorted(event.jobs.jobs[0].job_id for event in events) == task.job_ids
    assert other.room.hand_out.waiting == 0


async def test_a_lost_wake_up_is_found_by_looking(shop: Workshop) -> None:
    await shop.open_replica(fallback_seconds=0.3)
    wait = shop.pilot("ann", replica=1).ask(timeout=None)
    assert (await wait.read()).HasField("waiting")
    await shop.task("ann", announce=False)
    event = await asyncio.wait_for(wait.read(), 10)
    assert len(event.jobs.jobs) == 1


async def test_as_many_are_woken_as_there_are_jobs(shop: Workshop) -> None:
    waits = [shop.pilot("ann").ask(timeout=1.5) for _ in range(20)]
    for wait in waits:
        assert (await wait.read()).HasField("waiting")
    await shop.task("ann", 3)
    ends = await asyncio.gather(*(wait.read() for wait in waits))
    assert sum(end.HasField("jobs") for end in ends) == 3
    assert sum(end.HasField("timed_out") for end in ends) == 17


async def test_what_a_caller_who_is_gone_got_goes_back(shop: Workshop) -> None:
    """The wish is withdrawn while it is drawn for, or the answer finds nobody."""
    task = await shop.task("ann", 50, announce=False)
    asks = [shop.pilot("ann").ask(timeout=None) for _ in range(50)]
    await asyncio.sleep(0)
    for ask in asks[::2]:
        ask.cancel()
    got = 0
    for ask in asks[1::2]:
        while (event := await ask.read()) is not grpc.aio.EOF:
            got += len(event.jobs.jobs)
    assert got == 25
    pilot = shop.pilot("ann")
    rest: list[int] = []
    async with asyncio.timeout(20):
        while dispatched := shop.replicas[0].dispatcher.running:
            assert dispatched
            await asyncio.sleep(0.01)
        held = await shop.pool.fetchval("SELECT count(*) FROM task.job WHERE state = 'sent'")
        rest = [job.job_id for job in await pilot.take(max_jobs=50)]
    # a caller who left during the write may have read its answer: that job stays its own until the lease ends
    assert held + len(rest) == 50
    assert held <= 30
    assert await shop.ready(task.lot_id) == 0


async def test_a_wish_told_again_gets_the_same_jobs(shop: Workshop) -> None:
    task = await shop.task("ann", 3)
    pilot, request_id = shop.pilot("ann"), str(uuid4())
    first = await pilot.take(max_jobs=2, request_id=request_id)
    again = await pilot.take(max_jobs=2, request_id=request_id)
    assert [job.job_id for job in again] == [job.job_id for job in first] == task.job_ids[:2]
    assert [job.parameters for job in again] == [job.parameters for job in first]
    assert await shop.ready(task.lot_id) == 1
    assert [job.job_id for job in await pilot.take(request_id=str(uuid4()))] == task.job_ids[2:]
    # there is nothing left, so it is not drawn for: it is found all the same
    assert len(await pilot.take(max_jobs=2, request_id=request_id)) == 2
    # somebody else's worker of the same name and request gets nothing of it
    assert await shop.pilot("bob", worker_id=pilot.worker_id).take(request_id=request_id) == []


async def test_jobs_of_a_closed_lot_are_not_handed_out(shop: Workshop) -> None:
    task = await shop.task("ann", 1)
    await shop.pool.execute("UPDATE task.lot SET is_open = false WHERE lot_id = $1", task.lot_id)
    assert await shop.pilot("ann").take() == []
    await shop.pool.execute("UPDATE task.lot SET is_open = true WHERE lot_id = $1", task.lot_id)
    shop.replicas[0].room.hand_out.lots_changed()
    assert len(await shop.pilot("ann").take()) == 1


async def test_a_lot_that_counts_wrong_is_counted_anew(shop: Workshop) -> None:
    task = await shop.task("ann", 2)
    await shop.pool.execute("UPDATE task.lot SET low = 1000000, ready = 5 WHERE lot_id = $1", task.lot_id)
    shop.replicas[0].room.hand_out.lots_changed()
    assert len(await shop.pilot("ann").take(max_jobs=5, timeout=10)) == 2
    assert await shop.ready(task.lot_id) == 0


async def test_a_job_that_cannot_be_described_fails_and_the_others_go_on(shop: Workshop) -> None:
    task = await shop.task("ann", 2)
    await shop.pool.execute("UPDATE task.input SET name = 'a;b' WHERE task_id = $1 AND input_no = 1", task.task_id)
    (job,) = await shop.pilot("ann").take(timeout=10)
    assert job.job_id == task.job_ids[1]
    (failed,) = await shop.get(task.job_ids[0])
    assert failed.state == job_pb2.JOB_STATE_FAILED
    assert '"taskBufferErrorCode": 300' in failed.fields_json


async def test_draining_answers_everybody(shop: Workshop) -> None:
    wait = shop.pilot("ann").ask(timeout=None)
    assert (await wait.read()).HasField("waiting")
    await shop.replicas[0].room.hand_out.drain()
    assert (await wait.read()).timed_out.draining
    events = [event async for event in shop.pilot("ann").ask(timeout=None)]
    assert events[-1].timed_out.draining


async def test_secrets_go_with_jobs_that_ask_for_them_only(shop: Workshop) -> None:
    shop.secrets.by_user["ann"] = {"TOKEN": "hush", "___file___:key.pem": "aGVsbG8="}
    await shop.task("ann")
    (job,) = await shop.pilot("ann").take()
    assert (dict(job.environment), shop.secrets.asked) == ({}, [])
    await shop.task("ann", parameters={"useSecrets": True})
    (job,) = await shop.pilot("bob", "pilot").take()
    assert dict(job.environment) == {"TOKEN": "hush"}
    assert dict(job.secret_files) == {"key.pem": b"hello"}
    assert shop.secrets.asked == ["ann"]


@pytest.mark.parametrize(
    "wish",
    [
        {"worker_id": "\x00"},
        {"worker_id": "w" * 1001},
        {"max_jobs": 1001},
        {"max_jobs": -1},
        {"cores": -1},
        {"memory_mb": -5},
        {"site": "a\x00"},
        {"request_id": "no uuid"},
        {"timeout": -1},
    ],
)
async def test_a_wish_that_can_never_be_right_is_refused(shop: Workshop, wish: dict[str, object]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.pilot("ann").take(**wish)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
