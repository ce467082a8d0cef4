"""SIGKILL under load: what was acknowledged is there, nothing is stuck, nothing is delivered twice in one attempt."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import asyncpg
import pytest

from drayman.client import DispatchClient, DraymanError, File, NotFoundError
from drayman.testing import LocalStack
from system.fleet import Diary, run_fleet

FILES = 800
WORKERS = 24

Crash = Callable[[LocalStack], None]


def kill_the_service(stack: LocalStack) -> None:
    stack.kill()
    stack.restart()


def kill_the_database(stack: LocalStack) -> None:
    stack.kill_database()
    stack.start_database()


def kill_both(stack: LocalStack) -> None:
    stack.kill()
    stack.kill_database()
    stack.start_database()
    stack.restart()


def restart_in_order(stack: LocalStack) -> None:
    assert stack.stop_services() == 0
    stack.restart()


def files(number: int = FILES) -> list[File]:
    return [File("n", f"{n:06d}") for n in range(1, number + 1)]


@pytest.mark.parametrize("crash", [kill_the_service, kill_the_database, kill_both, restart_in_order])
async def test_a_crash_loses_nothing_and_repeats_nothing(own_stack: LocalStack, crash: Crash) -> None:
    stack = own_stack
    stack.add_user("ann")
    token = stack.token("ann")
    async with DispatchClient(stack.url, token) as dispatch:
        # who restarts in order loses nothing, however long it takes; after a crash some leases have to run out
        patience = 60 if crash is restart_in_order else 5
        project = await dispatch.create_project(files(), attributes={"virtual": True}, worker_timeout=patience)
    diary = Diary()
    async with asyncio.timeout(240):
        fleet = asyncio.create_task(run_fleet(stack.url, token, project.project_id, WORKERS, diary, pace=0.02))
        for share in (0.15, 0.4, 0.65):
            reached = asyncio.create_task(diary.reaches(int(FILES * share)))
            await asyncio.wait([fleet, reached], return_when=asyncio.FIRST_COMPLETED)
            assert not fleet.done(), fleet.exception() or "the work was over before the crash"
            await asyncio.to_thread(crash, stack)
        await fleet

    async with DispatchClient(stack.url, token) as dispatch:
        ended = await dispatch.get_project(project.project_id)
        handles = {handle.handle_id: handle async for handle in dispatch.handles(project.project_id)}
    for handle_id, outcome in diary.acknowledged.items():
        assert handles[handle_id].state == outcome, handle_id
    assert [key for key, times in diary.delivered.items() if times > 1] == []
    assert (ended.state, ended.counts.total) == ("failed", FILES)
    assert (ended.counts.initial, ended.counts.reserved) == (0, 0)
    states = [handle.state for handle in handles.values()]
    assert (states.count("done"), states.count("failed")) == (ended.counts.done, ended.counts.failed)
    assert ended.counts.failed == FILES // 10
    assert set(diary.ended) == {"failed"}
    assert len(diary.ended) == WORKERS
    # a report is refused only where its lease ran out while the service was away, and somebody else got the file
    assert [(number, attempt) for number, attempt in diary.refused if handles[number].attempts <= attempt] == []
    if crash is restart_in_order:
        assert diary.refused == []


async def test_a_creation_that_is_cut_off_leaves_nothing(own_stack: LocalStack) -> None:
    stack = own_stack
    stack.add_user("ann")
    arrived = asyncio.Event()
    dead = asyncio.Event()

    async def endless() -> AsyncIterator[File]:
        for file in files(50_000):
            yield file
        arrived.set()
        await dead.wait()
        yield File("n", "one more")

    async with DispatchClient(stack.url, stack.token("ann")) as dispatch:
        creation = asyncio.create_task(dispatch.create_project(endless(), attributes={"virtual": True}))
        async with asyncio.timeout(30):
            await arrived.wait()
            await asyncio.to_thread(kill_the_service, stack)
            dead.set()
            with pytest.raises(DraymanError):
                await creation
            assert [project async for project in dispatch.projects()] == []
    assert await count(stack, "dispatch.file") == 0


async def test_a_client_that_dies_during_a_creation_leaves_nothing(own_stack: LocalStack) -> None:
    stack = own_stack
    stack.add_user("ann")
    arrived = asyncio.Event()

    async def stalled() -> AsyncIterator[File]:
        for file in files(5_000):
            yield file
        arrived.set()
        await asyncio.Event().wait()

    async with DispatchClient(stack.url, stack.token("ann")) as dispatch:
        creation = asyncio.create_task(dispatch.create_project(stalled()))
        async with asyncio.timeout(30):
            await arrived.wait()
            creation.cancel()
            with suppress(asyncio.CancelledError):
                await creation
            small = await dispatch.create_project(files(1))
            assert [project.project_id async for project in dispatch.projects()] == [small.project_id]
            while await count(stack, "dispatch.file") > 1:
                await asyncio.sleep(0.05)


async def test_a_deletion_that_is_cut_off_is_finished(own_stack: LocalStack) -> None:
    stack = own_stack
    stack.add_user("ann")
    async with DispatchClient(stack.url, stack.token("ann")) as dispatch:
        project = await dispatch.create_project(files(200_000), attributes={"virtual": True})
        await dispatch.delete_project(project.project_id)
        await asyncio.to_thread(kill_the_service, stack)
        with pytest.raises(NotFoundError):
            await dispatch.get_project(project.project_id)
        async with asyncio.timeout(60):
            while await count(stack, "dispatch.file") or await count(stack, "dispatch.handle"):
                await asyncio.sleep(0.1)


async def count(stack: LocalStack, table: str) -> int:
    connection = await asyncpg.connect(stack.dsn)
    try:
        number: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
    finally:
        await connection.close()
    return number
