"""Two replicas of the service on one database: what happens at one is known at the other, at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from drayman.client import JobsClient, PilotClient, TaskClient
from drayman.client.job_values import JobUpdate
from drayman.testing import LocalStack
from drayman.testing.service_process import ServiceProcess

START_SECONDS = 60.0
#: Seconds within which what happens at one replica wakes who waits at the other. They look by themselves every `fallback_seconds`.
AT_ONCE = 0.5
PATIENCE = 30.0
USER = "task-replicas"


class Side:
    """One replica, as one user sees it."""

    def __init__(self, url: str, token: str) -> None:
        self.tasks = TaskClient(url, token, timeout=PATIENCE)
        self.jobs = JobsClient(url, token, timeout=PATIENCE)
        self.pilots = PilotClient(url, token, timeout=PATIENCE, patience=PATIENCE)


@pytest.fixture(scope="module")
def other(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServiceProcess, str]]:
    """A second process on the stack's database, and its URL."""
    folder = tmp_path_factory.mktemp("replica")
    environment = stack.environment | {"DRAYMAN_FALLBACK_SECONDS": "60"}
    process = ServiceProcess(["--data-dir", str(folder), "--listen", "127.0.0.1:0"], environment, folder / "log")
    yield process, process.await_ready(START_SECONDS)
    process.terminate()


@pytest.fixture(scope="module")
def token(stack: LocalStack) -> str:
    stack.add_user(USER)
    return stack.token(USER)


@pytest_asyncio.fixture
async def sides(stack: LocalStack, other: tuple[ServiceProcess, str], token: str) -> AsyncIterator[tuple[Side, Side]]:
    async with AsyncExitStack() as ends:
        found = []
        for url in (stack.url, other[1]):
            side = Side(url, token)
            for client in (side.tasks, side.jobs, side.pilots):
                await ends.enter_async_context(client)
            found.append(side)
        yield found[0], found[1]


def parameters(inputs: int, **more: Any) -> dict[str, Any]:
    return {
        "taskName": f"replicas.{uuid4()}",
        "userName": "",
        "vo": "wlcg",
        "prodSourceLabel": "user",
        "taskType": "anal",
        "taskPriority": 1000,
        "processingType": "test",
        "architecture": "",
        "transUses": "",
        "transHome": "",
        "transPath": "bash",
        "noInput": True,
        "nEvents": inputs,
        "nEventsPerJob": 1,
        "jobParameters": [{"type": "constant", "value": "-c true"}],
    } | more


async def submit(side: Side, inputs: int = 1, **more: Any) -> int:
    answer = await side.tasks.submit(parameters(inputs, **more))
    assert answer.code == 0, answer
    return answer.task_id


async def test_a_parked_pilot_of_the_other_replica_wakes_up(sides: tuple[Side, Side]) -> None:
    """The pilot is parked at one replica; the task comes to the other one, whose engine or this one's makes the job."""
    here, there = sides
    site = uuid4().hex
    waits = []
    for _ in range(5):
        parked = asyncio.create_task(there.pilots.next_jobs(worker_id=uuid4().hex, site=site, timeout=PATIENCE))
        task_id = await submit(here, site=site)
        async for task in here.tasks.watch(task_id, interval=0.05):
            if task.counts.jobs:
                break
        made = time.monotonic()
        (job,) = await parked
        waits.append(time.monotonic() - made)
        assert job.task_id == task_id
        (answer,) = await here.pilots.update("nobody", [JobUpdate(job.job_id, job.attempt, "running")])
        assert answer.status == "wrong_worker"
    assert sorted(waits)[len(waits) // 2] <= AT_ONCE, waits


async def test_taken_here_and_reported_there(sides: tuple[Side, Side]) -> None:
    here, there = sides
    task_id = await submit(here, 12)
    ends = [asyncio.create_task(_last(side, task_id)) for side in sides]
    done: list[int] = []

    async def work(take: Side, report: Side, worker: str) -> None:
        while jobs := await take.pilots.next_jobs(worker_id=worker, task_id=task_id, max_jobs=2, timeout=1):
            for state in ("running", "finished"):
                answers = await report.pilots.update(
                    worker, [JobUpdate(job.job_id, job.attempt, state) for job in jobs]
                )
                assert {answer.status for answer in answers} == {"taken"}
            done.extend(job.job_id for job in jobs)

    await asyncio.gather(work(here, there, "w1"), work(there, here, "w2"), work(here, here, "w3"))
    assert len(done) == len(set(done)) == 12
    async with asyncio.timeout(PATIENCE):
        assert [(task.state, task.counts.inputs_finished) for task in await asyncio.gather(*ends)] == [("done", 12)] * 2


async def _last(side: Side, task_id: int) -> Any:
    async for task in side.tasks.watch(task_id, interval=0.05):
        last = task
    return last


@pytest.mark.parametrize("how", ["job", "task"])
async def test_an_order_from_one_reaches_a_pilot_that_attends_the_other(sides: tuple[Side, Side], how: str) -> None:
    here, there = sides
    task_id = await submit(here)
    worker = uuid4().hex
    (job,) = await there.pilots.next_jobs(worker_id=worker, task_id=task_id, timeout=PATIENCE)
    async with there.pilots.attend(worker) as attendance:
        (answer,) = await attendance.update([JobUpdate(job.job_id, job.attempt, "running")])
        assert (answer.status, answer.kill) == ("taken", False)
        if how == "job":
            assert await here.jobs.kill([job.job_id]) == [True]
        else:
            assert (await here.tasks.command(task_id, "kill")).code == 0
        given = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            order = await anext(aiter(attendance))
        assert (order.job_id, order.kill) == (job.job_id, True)
        assert time.monotonic() - given <= AT_ONCE
        (answer,) = await attendance.update([JobUpdate(job.job_id, job.attempt, "failed")])
        assert answer.status == "taken"
    if how == "task":
        assert (await _last(here, task_id)).state == "aborted"
    assert (await here.jobs.get([job.job_id]))[0].over  # type: ignore[union-attr] # it is there


async def test_a_pause_at_one_holds_at_the_other(sides: tuple[Side, Side]) -> None:
    """As soon as the command is answered, nobody gets a job of it anywhere."""
    here, there = sides
    task_id = await submit(here, 5)
    (first,) = await there.pilots.next_jobs(worker_id="w", task_id=task_id, timeout=PATIENCE)
    assert (await here.tasks.command(task_id, "pause")).code == 0
    for side in sides:
        assert await side.pilots.next_jobs(worker_id="w", task_id=task_id, timeout=0) == []
    parked = asyncio.create_task(there.pilots.next_jobs(worker_id="w", task_id=task_id, timeout=PATIENCE))
    await asyncio.wait([parked], timeout=0.2)
    assert not parked.done()
    assert (await here.tasks.command(task_id, "resume")).code == 0
    resumed = time.monotonic()
    (second,) = await parked
    assert time.monotonic() - resumed <= AT_ONCE
    assert second.job_id != first.job_id
    assert (await there.tasks.command(task_id, "kill")).code == 0


async def test_the_other_replica_goes_on_when_one_dies(
    stack: LocalStack, token: str, sides: tuple[Side, Side], tmp_path: Path
) -> None:
    """Pilots with the URLs of both lose nothing; the task comes to its end."""
    process = ServiceProcess(
        ["--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0"], stack.environment, tmp_path / "log"
    )
    mortal = await asyncio.to_thread(process.await_ready, START_SECONDS)
    here = sides[0]
    task_id = await submit(here, 40)
    seen: list[int] = []
    try:
        async with PilotClient(f"{mortal},{stack.url.removeprefix('grpc://')}", token, patience=PATIENCE) as pilots:

            async def work(worker: str) -> None:
                while jobs := await pilots.next_jobs(worker_id=worker, task_id=task_id, timeout=2):
                    job = jobs[0]
                    (answer,) = await pilots.update(worker, [JobUpdate(job.job_id, job.attempt, "finished")])
                    assert answer.status in ("taken", "already_done")
                    seen.append(job.job_id)
                    if len(seen) == 10:
                        await asyncio.to_thread(process.kill)

            async with asyncio.timeout(PATIENCE * 2):
                await asyncio.gather(*(work(f"w{number}") for number in range(4)))
    finally:
        if process.running:
            process.kill()
    assert len(seen) == len(set(seen)) == 40
    async with asyncio.timeout(90):
        last = await _last(here, task_id)
    assert (last.state, last.counts.jobs_finished, last.counts.jobs) == ("done", 40, 40)
