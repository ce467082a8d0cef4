"""Three replicas of the service on one database: one fleet, which does not notice that one of them dies or leaves."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from drayman.client import DispatchClient, File, Handle, ProjectEnded
from drayman.testing import LocalStack
from drayman.testing.service_process import ServiceProcess

PATIENCE = 60.0
USER = "replicas"


@pytest.fixture
def others(stack: LocalStack, tmp_path: Path) -> Iterator[list[tuple[ServiceProcess, str]]]:
    """Two more processes on the stack's database, and their URLs."""
    with ExitStack() as ends:
        found = []
        for number in range(2):
            arguments = ["--data-dir", str(tmp_path / str(number)), "--listen", "127.0.0.1:0"]
            process = ServiceProcess(arguments, stack.environment, tmp_path / f"{number}.log")
            ends.callback(lambda process=process: process.terminate() if process.running else None)
            found.append((process, process.await_ready(PATIENCE)))
        yield found


def url_of_all(stack: LocalStack, others: list[tuple[ServiceProcess, str]]) -> str:
    """One URL with three hosts, as a site would give to its workers."""
    return ",".join([stack.url, *(url.removeprefix("grpc://") for _, url in others)])


@pytest.fixture(scope="module")
def token(stack: LocalStack) -> str:
    stack.add_user(USER)
    return stack.token(USER)


async def work_by_calls(dispatch: DispatchClient, project_id: int, worker_id: str, seen: Counter[int]) -> None:
    while not isinstance(got := await dispatch.next_file(project_id, worker_id), ProjectEnded):
        assert isinstance(got, Handle)
        await dispatch.done(got)
        seen[got.handle_id] += 1


async def work_by_session(dispatch: DispatchClient, project_id: int, worker_id: str, seen: Counter[int]) -> None:
    async with dispatch.work(project_id, worker_id, credits=8) as session:
        async for file in session:
            async with file:
                await asyncio.sleep(0.001)
            if await file.settled():
                seen[file.handle.handle_id] += 1
    assert isinstance(session.result, ProjectEnded)


@pytest.mark.parametrize("loss", ["kill", "terminate"])
async def test_a_fleet_does_not_notice_the_loss_of_a_replica(
    stack: LocalStack, token: str, others: list[tuple[ServiceProcess, str]], loss: str
) -> None:
    url = url_of_all(stack, others)
    seen: Counter[int] = Counter()
    async with DispatchClient(url, token, timeout=60, patience=PATIENCE) as dispatch, asyncio.timeout(PATIENCE * 2):
        files = [File("ns", f"f{number:05d}") for number in range(3000)]
        project = await dispatch.create_project(files, attributes={"virtual": True}, worker_timeout=5)
        async with asyncio.TaskGroup() as group:
            for number in range(12):
                work = work_by_session if number % 2 else work_by_calls
                group.create_task(work(dispatch, project.project_id, f"w{number}", seen))
            while sum(seen.values()) < 600:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(getattr(others[0][0], loss))
        after = await dispatch.get_project(project.project_id)
        handles = [handle async for handle in dispatch.handles(project.project_id)]
    assert after.state == "done"
    assert (after.counts.done, after.counts.total) == (3000, 3000)
    assert all(handle.state == "done" for handle in handles)
    assert max(seen.values()) == 1


async def test_one_of_three_is_enough(stack: LocalStack, token: str, others: list[tuple[ServiceProcess, str]]) -> None:
    """A URL names three hosts of which two are gone."""
    async with DispatchClient(url_of_all(stack, others), token, timeout=60) as dispatch:
        for process, _ in others:
            await asyncio.to_thread(process.kill)
        project = await dispatch.create_project([File("ns", "f")], attributes={"virtual": True})
        assert isinstance(await dispatch.next_file(project.project_id, "w"), Handle)
