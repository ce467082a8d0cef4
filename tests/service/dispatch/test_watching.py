"""WatchProject: counts while they change, coalesced, until the project has ended; one look per interval however many watch."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import grpc
import pytest
import pytest_asyncio

from drayman.client import (
    DispatchClient,
    Handle,
    InvalidRequestError,
    NotFoundError,
    Progress,
    Project,
    Report,
    UnavailableError,
    open_channel,
)
from drayman.client.credentials import bearer
from drayman.dispatch.v1 import project_service_pb2, project_service_pb2_grpc
from drayman.server.dispatch.reserver import Reserver
from drayman.server.dispatch.store import Store
from drayman.server.dispatch.watching import Watching
from drayman.server.platform.errors import Refusal
from drayman.testing import LocalStack
from drayman.testing.service_process import ServiceProcess

MakeProject = Callable[..., Awaitable[Project]]


class Watch:
    """Everything that a watcher of a project has seen."""

    def __init__(self, dispatch: DispatchClient, project_id: int, interval: float = 0.1) -> None:
        self.seen: list[Progress] = []
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._run(dispatch, project_id, interval))

    async def _run(self, dispatch: DispatchClient, project_id: int, interval: float) -> None:
        async with aclosing(dispatch.watch_project(project_id, interval=interval)) as views:
            async for progress in views:
                self.seen.append(progress)
                self._changed.set()

    async def until(self, true: Callable[[Progress], bool], seconds: float = 20) -> Progress:
        """Wait for a message of which something is true."""
        async with asyncio.timeout(seconds):
            while True:
                for progress in self.seen:
                    if true(progress):
                        return progress
                self._changed.clear()
                await self._changed.wait()

    async def end(self, seconds: float = 20) -> Progress:
        async with asyncio.timeout(seconds):
            await self.task
        return self.seen[-1]


async def take(dispatch: DispatchClient, project: Project, count: int) -> list[Handle]:
    taken = await dispatch.reserve(project.project_id, "w", count, timeout=10)
    assert isinstance(taken, list)
    return taken


async def finish(dispatch: DispatchClient, handles: list[Handle], outcome: Any = "done") -> None:
    assert not any(await dispatch.report([Report(handle, outcome) for handle in handles]))


async def test_counts_arrive_until_the_project_is_done(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(4)
    watch = Watch(dispatch, project.project_id)
    first = await watch.until(lambda _: True)
    assert first == Progress(project, 0.0, None)
    handles = await take(dispatch, project, 3)
    await watch.until(lambda p: p.project.counts.reserved == 3)
    await finish(dispatch, handles[:2])
    moving = await watch.until(lambda p: p.project.counts.done == 2 and p.rate > 0)
    assert moving.estimated_end is not None
    assert datetime.now(UTC) - timedelta(minutes=1) < moving.estimated_end < datetime.now(UTC) + timedelta(hours=1)
    await finish(dispatch, handles[2:], "failed_final")
    await finish(dispatch, await take(dispatch, project, 1))
    last = await watch.end()
    assert (last.project.state, last.project.counts.done, last.project.counts.failed) == ("failed", 3, 1)
    assert last.estimated_end is None
    assert last.project == await dispatch.get_project(project.project_id)


async def test_who_comes_late_gets_one_message(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(1)
    await finish(dispatch, await take(dispatch, project, 1))
    watch = Watch(dispatch, project.project_id, 60)
    assert (await watch.end(5)).project.state == "done"
    assert len(watch.seen) == 1
    restarted, _ = await dispatch.restart_handles(project.project_id, states=["done"])
    again = Watch(dispatch, project.project_id, 60)
    assert (await again.until(lambda _: True)).project == restarted
    await dispatch.cancel_project(project.project_id, code="STOP", message="enough")
    last = await again.end(5)
    assert last.project.reason is not None
    assert (last.project.state, last.project.reason.code) == ("cancelled", "STOP")


async def test_changes_are_coalesced(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(600)
    watch = Watch(dispatch, project.project_id, 0.5)
    await watch.until(lambda _: True)
    begin = time.monotonic()
    for _ in range(300):
        await finish(dispatch, await take(dispatch, project, 2))
    last = await watch.end()
    took = time.monotonic() - begin
    assert last.project.counts.done == 600
    assert len(watch.seen) <= took / 0.5 + 3
    counts = [progress.project.counts.done for progress in watch.seen]
    assert counts == sorted(counts)


async def test_an_end_is_told_at_once_whatever_the_interval(dispatch: DispatchClient, make: MakeProject) -> None:
    finished, cancelled, deleted = [await make(2) for _ in range(3)]
    watches = [Watch(dispatch, project.project_id, 600) for project in (finished, cancelled, deleted)]
    for watch in watches:
        await watch.until(lambda _: True)
    await finish(dispatch, await take(dispatch, finished, 2))
    await dispatch.cancel_project(cancelled.project_id)
    await dispatch.delete_project(deleted.project_id)
    ends = [(await watch.end(5)).project.state for watch in watches]
    assert ends == ["done", "cancelled", "active"]  # a deletion ends the stream, without a word
    with pytest.raises(NotFoundError) as caught:
        await Watch(dispatch, deleted.project_id).end()
    assert caught.value.reason == "PROJECT_NOT_FOUND"


async def test_an_open_project_has_no_estimated_end(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(10, open=True)
    watch = Watch(dispatch, project.project_id)
    await watch.until(lambda _: True)
    await finish(dispatch, await take(dispatch, project, 5))
    moving = await watch.until(lambda p: p.rate > 0)
    assert (moving.project.open, moving.estimated_end) == (True, None)
    await finish(dispatch, await take(dispatch, project, 5))
    await watch.until(lambda p: p.project.counts.done == 10 and p.project.state == "active")
    await dispatch.add_files(project.project_id, [], open=False)
    assert (await watch.end()).project.state == "done"


async def test_a_negative_interval_is_refused(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(1)
    with pytest.raises(InvalidRequestError) as caught:
        await Watch(dispatch, project.project_id, -1).end()
    assert caught.value.field == "interval"


# --- several replicas ------------------------------------------------------------------------------------------------


async def test_another_replica_tells_too(
    stack: LocalStack, user: str, dispatch: DispatchClient, make: MakeProject, replica: tuple[ServiceProcess, str]
) -> None:
    project = await make(3)
    async with DispatchClient(replica[1], stack.token(user)) as elsewhere:
        slow = Watch(elsewhere, project.project_id, 600)
        quick = Watch(elsewhere, project.project_id, 0.1)
        await slow.until(lambda _: True)
        await finish(dispatch, await take(dispatch, project, 2))
        await quick.until(lambda p: p.project.counts.done == 2)
        await dispatch.cancel_project(project.project_id)
        assert (await quick.end(5)).project.state == "cancelled"
        assert (await slow.end(5)).project.state == "cancelled"


async def test_a_replica_that_shuts_down_sends_its_watchers_elsewhere(
    stack: LocalStack, user: str, dispatch: DispatchClient, make: MakeProject, replica: tuple[ServiceProcess, str]
) -> None:
    process, url = replica
    project = await make(2)
    async with open_channel(url) as channel, DispatchClient(f"{url},{stack.url[7:]}", stack.token(user)) as both:
        watches = [Watch(both, project.project_id) for _ in range(4)]  # two of them there
        for watch in watches:
            await watch.until(lambda _: True)
        stub = project_service_pb2_grpc.ProjectServiceStub(channel)
        request = project_service_pb2.WatchProjectRequest(project_id=project.project_id)
        call = stub.WatchProject(request, metadata=bearer(stack.token(user)))
        await call.read()
        begin = time.monotonic()
        ending = asyncio.create_task(asyncio.to_thread(process.terminate))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - begin < 3
        assert await ending == 0
        assert time.monotonic() - begin < 8
        await finish(dispatch, await take(dispatch, project, 2))
        for watch in watches:
            assert (await watch.end()).project.state == "done"


# --- what it costs ---------------------------------------------------------------------------------------------------


class Queries:
    """What a pool was asked."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def listen(self, connection: asyncpg.Connection) -> None:
        connection.add_query_logger(self._note)

    def _note(self, record: Any) -> None:
        if "dispatch." in record.query:  # and not what asyncpg does to reset a connection
            self.texts.append(record.query)


@pytest_asyncio.fixture
async def here(stack: LocalStack) -> AsyncIterator[tuple[Watching, Reserver, Queries]]:
    """The watching part of a replica, in this process."""
    queries = Queries()
    async with asyncpg.create_pool(stack.dsn, min_size=1, max_size=4, init=queries.listen) as pool:
        store = Store(pool, pool)
        reserver = Reserver(store, lambda _word: None, 10)
        watching = Watching(store, reserver)
        yield watching, reserver, queries
        await watching.stop()


async def test_hundreds_of_watchers_cost_one_look_per_interval(
    dispatch: DispatchClient, make: MakeProject, here: tuple[Watching, Reserver, Queries]
) -> None:
    watching, _, queries = here
    project = await make(400)
    begun = asyncio.Semaphore(0)
    messages = 0

    async def watch() -> int:
        nonlocal messages
        states = []
        async for view in watching.watch(project.project_id, 0.5):
            if not states:
                begun.release()
            states.append(view.project.counts.done)
            messages += 1
        return states[-1]

    watchers = [asyncio.create_task(watch()) for _ in range(200)]
    async with asyncio.timeout(20):
        for _ in watchers:
            await begun.acquire()
    asked, begin = len(queries.texts), time.monotonic()
    assert asked <= 3  # whoever comes while a look is under way shares the next one
    for _ in range(100):
        await finish(dispatch, await take(dispatch, project, 3))
    took = time.monotonic() - begin
    assert len(queries.texts) - asked <= took / 0.5 + 2
    assert messages <= 200 * (took / 0.5 + 3)
    for _ in range(25):
        await finish(dispatch, await take(dispatch, project, 4))
    async with asyncio.timeout(20):
        assert set(await asyncio.gather(*watchers)) == {400}
    assert watching._watchers == {}


async def test_word_without_end_brings_looks_forward_once_a_second(
    make: MakeProject, here: tuple[Watching, Reserver, Queries]
) -> None:
    watching, reserver, queries = here
    project = await make(1)
    views = watching.watch(project.project_id, 600)
    await anext(views)
    more = asyncio.create_task(anext(views))
    begin = time.monotonic()
    while time.monotonic() < begin + 2.2:
        reserver.hear(f"p{project.project_id}")
        await asyncio.sleep(0.002)
    assert 3 <= len(queries.texts) <= 5
    assert not more.done()  # nothing is new
    more.cancel()
    with suppress(asyncio.CancelledError):
        await more
    await views.aclose()
    assert watching._watchers == {}  # nobody watches: nothing runs


async def test_a_drained_watch_ends_and_begins_no_more(
    make: MakeProject, here: tuple[Watching, Reserver, Queries]
) -> None:
    watching, _, _ = here
    project = await make(1)
    views = [watching.watch(project.project_id, 600) for _ in range(3)]
    for view in views:
        await anext(view)
    waiting = [asyncio.create_task(anext(view)) for view in views]
    await asyncio.sleep(0)
    await watching.drain()
    for ended in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(ended, Refusal)
        assert ended.reason == "UNAVAILABLE"
    with pytest.raises(Refusal):
        await anext(watching.watch(project.project_id, 1))


async def test_who_comes_while_nothing_is_being_found_is_told_too(here: tuple[Watching, Reserver, Queries]) -> None:
    watching, _, _ = here
    watches = []
    for _ in range(20):
        watches.append(asyncio.create_task(anext(watching.watch(2**62, 1))))
        await asyncio.sleep(0)  # the first one's look is under way
    async with asyncio.timeout(10):
        ends = await asyncio.gather(*watches, return_exceptions=True)
    assert [getattr(end, "reason", end) for end in ends] == ["PROJECT_NOT_FOUND"] * 20
    assert watching._watchers == {}


async def test_a_watch_outlives_the_service(own_stack: LocalStack) -> None:
    own_stack.add_user("ann")
    async with DispatchClient(own_stack.url, own_stack.token("ann"), patience=60) as dispatch:
        project = await dispatch.create_project([], attributes={"virtual": True})
        watch = Watch(dispatch, project.project_id)
        await watch.until(lambda _: True)
        await asyncio.to_thread(own_stack.kill)
        with pytest.raises(UnavailableError):
            async with DispatchClient(own_stack.url, "x", patience=0) as hasty:
                await Watch(hasty, project.project_id).end()
        await asyncio.to_thread(own_stack.restart)
        await dispatch.cancel_project(project.project_id)
        assert (await watch.end()).project.state == "cancelled"
        assert len(watch.seen) == 2  # what was known is not told again
