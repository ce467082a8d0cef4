"""Live projects: files added while they are worked on, lists that stay open, and attempts that are used up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import pytest

from drayman.client import (
    DispatchClient,
    DraymanError,
    File,
    ForbiddenError,
    Handle,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
    Project,
    ProjectEnded,
    Replica,
    Report,
    Rse,
    TimedOut,
    open_channel,
)
from drayman.client.credentials import bearer
from drayman.dispatch.v1 import project_pb2, project_service_pb2_grpc
from drayman.dispatch.v1 import project_service_pb2 as pb
from drayman.testing import LocalStack

MakeProject = Callable[..., Awaitable[Project]]


def names(first: int, last: int, prefix: str = "g") -> list[File]:
    return [File("ns", f"{prefix}{number:06d}") for number in range(first, last + 1)]


async def handles_of(dispatch: DispatchClient, project_id: int) -> list[Handle]:
    return [handle async for handle in dispatch.handles(project_id)]


async def take(dispatch: DispatchClient, project: Project, worker: str = "w") -> Handle:
    taken = await dispatch.next_file(project.project_id, worker, timeout=10)
    assert isinstance(taken, Handle)
    return taken


async def waiting(dispatch: DispatchClient, project: Project, worker: str) -> asyncio.Task[Any]:
    """Start to wait for a file; returns when it is known that there is none yet."""
    parked = asyncio.Event()
    task = asyncio.create_task(
        dispatch.next_file(project.project_id, worker, timeout=30, on_wait=lambda _counts: parked.set())
    )
    either = [task, asyncio.create_task(parked.wait())]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    assert not task.done(), task.result()
    return task


# --- adding ----------------------------------------------------------------------------------------------------------


async def test_workers_that_wait_get_added_files_at_once(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(1)
    held = await take(dispatch, project)
    waits = [await waiting(dispatch, project, f"w{number}") for number in range(5)]
    files = [File("ns", f"a{number}", {"n": number}) for number in range(5)]
    grown, added, skipped = await dispatch.add_files(project.project_id, files)
    assert (added, skipped, grown.counts.total) == (5, 0, 6)
    async with asyncio.timeout(2):
        given = await asyncio.gather(*waits)
    assert sorted((handle.name, handle.attributes["n"]) for handle in given) == [(f"a{n}", n) for n in range(5)]
    assert {handle.handle_id for handle in given} == {2, 3, 4, 5, 6}
    for handle in [held, *given]:
        await dispatch.done(handle)
    assert (await dispatch.get_project(project.project_id)).state == "done"


@pytest.mark.parametrize("state", ["done", "failed", "abandoned"])
async def test_what_was_over_goes_on(dispatch: DispatchClient, make: MakeProject, state: str) -> None:
    project = await make(1, idle_timeout=0.2 if state == "abandoned" else None)
    if state != "abandoned":
        await dispatch.report([Report(await take(dispatch, project), "done" if state == "done" else "failed_final")])
    async with asyncio.timeout(10):
        while (await dispatch.get_project(project.project_id)).state != state:
            await asyncio.sleep(0.05)
    unchanged, added, _ = await dispatch.add_files(project.project_id, [])
    assert (unchanged.state, added) == (state, 0)
    grown, added, _ = await dispatch.add_files(project.project_id, names(1, 2))
    assert (grown.state, grown.ended, added) == ("active", None, 2)
    taken = await take(dispatch, project)
    assert taken.name == ("g000001" if state != "abandoned" else "f000000")


async def test_a_cancelled_project_takes_no_files(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(1)
    await dispatch.cancel_project(project.project_id)
    with pytest.raises(PreconditionError) as caught:
        await dispatch.add_files(project.project_id, names(1, 1))
    assert caught.value.reason == "PROJECT_INACTIVE"
    await dispatch.activate_project(project.project_id)
    assert (await dispatch.add_files(project.project_id, names(1, 1)))[1] == 1
    with pytest.raises(NotFoundError):
        await dispatch.add_files(2**62, names(1, 1))


async def test_only_the_owner_and_administrators_add(
    stack: LocalStack, dispatch: DispatchClient, admin: DispatchClient, make: MakeProject
) -> None:
    other = f"other-{uuid4().hex[:8]}"
    stack.add_user(other)
    project = await make(1, users=[other])
    async with DispatchClient(stack.url, stack.token(other)) as stranger:
        with pytest.raises(ForbiddenError):
            await stranger.add_files(project.project_id, names(1, 1))
    assert (await admin.add_files(project.project_id, names(1, 1)))[1] == 1


async def test_a_file_is_in_a_project_once(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(3)
    existing = File("ns", "f000001")
    for files, did in (
        ([*names(1, 3), *names(2, 2)], "ns:g000002"),
        ([*names(1, 3), existing], "ns:f000001"),
        ([File("a, b", "c)=(d"), File("a, b", "c)=(d")], "a, b:c)=(d"),
    ):
        with pytest.raises(InvalidRequestError) as caught:
            await dispatch.add_files(project.project_id, files)
        assert (caught.value.reason, caught.value.metadata["did"]) == ("DUPLICATE_FILE", did)
    with pytest.raises(InvalidRequestError):
        await dispatch.add_files(project.project_id, [*names(1, 1), *names(1, 1)], skip_existing=True)
    assert (await dispatch.get_project(project.project_id)).counts.total == 3

    grown, added, skipped = await dispatch.add_files(
        project.project_id, [*names(1, 2), existing, *names(3, 3)], skip_existing=True
    )
    assert (added, skipped, grown.counts.initial) == (3, 1, 6)
    listed = await handles_of(dispatch, project.project_id)
    assert [handle.name for handle in listed[3:]] == ["g000001", "g000002", "g000003"]
    again = await dispatch.add_files(project.project_id, names(1, 3), skip_existing=True)
    assert again[1:] == (0, 3)


async def test_overlapping_additions_at_the_same_time(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(1)
    lists = [names(1, 3000), names(1500, 4500)[::-1], names(1000, 2000), names(4000, 4600)[::-1]]
    results = await asyncio.gather(
        *(dispatch.add_files(project.project_id, files, skip_existing=True) for files in lists)
    )
    assert sum(added for _, added, _ in results) == 4600
    assert all(added + skipped == len(files) for (_, added, skipped), files in zip(results, lists, strict=True))
    handles = await handles_of(dispatch, project.project_id)
    assert len({handle.did for handle in handles}) == len({handle.handle_id for handle in handles}) == 4601
    assert (await dispatch.get_project(project.project_id)).counts.initial == 4601

    # all or nothing: of those who insist on being the first one wins
    insisting = await asyncio.gather(
        *(dispatch.add_files(project.project_id, names(1, 500, "h")[:: -1 if n % 2 else 1]) for n in range(4)),
        return_exceptions=True,
    )
    refused = [result for result in insisting if isinstance(result, DraymanError)]
    assert [error.reason for error in refused] == ["DUPLICATE_FILE"] * 3
    assert (await dispatch.get_project(project.project_id)).counts.initial == 5101
    await drain(dispatch, project, workers=4)
    assert (await dispatch.get_project(project.project_id)).counts.done == 5101


async def drain(dispatch: DispatchClient, project: Project, workers: int = 8) -> list[int]:
    """Work until the project ends; returns the handle ids."""
    worked: list[int] = []

    async def work(name: str) -> None:
        while not isinstance(taken := await dispatch.reserve(project.project_id, name, 500, timeout=20), ProjectEnded):
            assert isinstance(taken, list)
            assert not any(await dispatch.report([Report(handle, "done") for handle in taken]))
            worked.extend(handle.handle_id for handle in taken)

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(f"w{number}") for number in range(workers)))
    return worked


async def test_fifty_thousand_files_are_added_while_the_project_is_drained(
    dispatch: DispatchClient, make: MakeProject
) -> None:
    project = await make(2000, open=True)
    workers = asyncio.create_task(drain(dispatch, project))
    for part in range(5):
        await dispatch.add_files(project.project_id, names(10_000 * part + 1, 10_000 * (part + 1)), open=part < 4)
    worked = await workers
    assert len(worked) == len(set(worked)) == 52_000
    ended = await dispatch.get_project(project.project_id)
    assert (ended.state, ended.counts.done, ended.counts.initial, ended.open) == ("done", 52_000, 0, False)


async def test_added_files_are_where_their_replicas_are(dispatch: DispatchClient, admin: DispatchClient) -> None:
    rse = f"RSE_{uuid4().hex[:8]}"
    namespace = uuid4().hex
    await admin.create_rse(Rse(rse))
    await admin.update_replicas([Replica(namespace, name, rse, (f"root://{name}",)) for name in ("0", "1", "3")])
    project = await dispatch.create_project([File(namespace, "0")])
    first = await take(dispatch, project)
    wait = await waiting(dispatch, project, "patient")
    await dispatch.add_files(project.project_id, [File(namespace, "1"), File(namespace, "2")])
    async with asyncio.timeout(5):
        second = await wait
    assert (second.name, second.replicas[0].urls) == ("1", ("root://1",))
    # 2 has no replica, until it gets one
    wait = await waiting(dispatch, project, "patient")
    await admin.update_replicas([Replica(namespace, "2", rse)])
    async with asyncio.timeout(5):
        third = await wait
    assert third.name == "2"

    # while replicas come and go, nothing is lost
    files = [File(namespace, f"m{number}") for number in range(2000)]
    await asyncio.gather(
        admin.update_replicas([Replica(namespace, file.name, rse) for file in files[:1500]]),
        dispatch.add_files(project.project_id, files[:1000]),
        dispatch.add_files(project.project_id, files[1000:]),
        admin.update_replicas([Replica(namespace, file.name, rse) for file in files[1500:]]),
    )
    for handle in (first, second, third):
        await dispatch.done(handle)
    worked = await drain(dispatch, project, workers=2)
    assert len(worked) == 2000


async def test_deleting_while_adding(dispatch: DispatchClient, make: MakeProject) -> None:
    for number in range(6):
        project = await make(50)
        growth = asyncio.create_task(dispatch.add_files(project.project_id, names(1, 3000)))
        await asyncio.sleep(0.015 * number)
        await dispatch.delete_project(project.project_id)
        with suppress(NotFoundError):
            await growth
        with pytest.raises(NotFoundError):
            await dispatch.get_project(project.project_id)


async def test_a_copy_of_a_grown_project_is_whole(
    stack: LocalStack, dispatch: DispatchClient, make: MakeProject
) -> None:
    project = await make(2)
    connection = await asyncpg.connect(stack.dsn)
    # an addition that is refused at its very end has used up handle ids
    await connection.execute("UPDATE dispatch.tally SET last_handle = 500 WHERE project_id = $1", project.project_id)
    await connection.close()
    await dispatch.add_files(project.project_id, names(1, 73))
    handles = await handles_of(dispatch, project.project_id)
    assert (len(handles), handles[-1].handle_id) == (75, 573)
    original = [handle.did for handle in handles]
    for attributes in (None, {"x": 1}):
        copy = await dispatch.copy_project(project.project_id, file_attributes=attributes)
        assert (copy.counts.total, copy.counts.initial) == (75, 75)
        grown, added, _ = await dispatch.add_files(copy.project_id, names(2000, 2001))
        assert (grown.counts.total, added) == (77, 2)
        copied = [handle.did for handle in await handles_of(dispatch, copy.project_id)]
        assert copied == [*original, "ns:g002000", "ns:g002001"]
        await drain(dispatch, copy, workers=1)
        assert (await dispatch.get_project(copy.project_id)).state == "done"


async def test_a_project_that_is_cancelled_meanwhile_gets_nothing(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(2)
    sent, cancelled = asyncio.Event(), asyncio.Event()

    async def interrupted() -> AsyncIterator[File]:
        for file in names(1, 2500):
            yield file
        sent.set()
        await cancelled.wait()

    growth = asyncio.create_task(dispatch.add_files(project.project_id, interrupted()))
    await sent.wait()
    await dispatch.cancel_project(project.project_id)
    cancelled.set()
    with pytest.raises(PreconditionError):
        await growth
    assert (await dispatch.activate_project(project.project_id)).counts.total == 2
    assert (await dispatch.add_files(project.project_id, names(1, 2500)))[1] == 2500


# --- sent again, cut off ---------------------------------------------------------------------------------------------


def parts(project_id: int, files: list[File], **begin: Any) -> list[pb.AddFilesRequest]:
    messages = [project_pb2.File(did=project_pb2.Did(namespace=file.namespace, name=file.name)) for file in files]
    return [
        pb.AddFilesRequest(begin=pb.BeginAddFiles(project_id=project_id, **begin)),
        pb.AddFilesRequest(files=pb.FileBatch(files=messages)),
        pb.AddFilesRequest(end=pb.EndOfFiles(file_count=len(files))),
    ]


@pytest.mark.parametrize("skip", [False, True])
async def test_an_addition_that_is_sent_again_adds_once(
    stack: LocalStack, user: str, make: MakeProject, skip: bool
) -> None:
    project = await make(1)
    metadata = bearer(stack.token(user))
    request = parts(project.project_id, names(1, 300), request_id=str(uuid4()), skip_existing=skip)
    async with open_channel(stack.url) as channel:
        add = project_service_pb2_grpc.ProjectServiceStub(channel).AddFiles
        replies = await asyncio.gather(*(add(iter(request), metadata=metadata, timeout=20) for _ in range(6)))
        replies.append(await add(iter(request), metadata=metadata, timeout=20))
        assert [(reply.added, reply.skipped, reply.project.counts.total) for reply in replies] == [(300, 0, 301)] * 7

        # the second one arrives half before, half after the first one was answered
        request = parts(project.project_id, names(1, 300, "h"), request_id=str(uuid4()), skip_existing=skip)
        answered = asyncio.Event()

        async def halting() -> AsyncIterator[pb.AddFilesRequest]:
            yield request[0]
            await answered.wait()
            for part in request[1:]:
                yield part

        late = add(halting(), metadata=metadata, timeout=20)
        early = await add(iter(request), metadata=metadata, timeout=20)
        answered.set()
        assert await late == early


async def test_a_broken_stream_leaves_nothing(stack: LocalStack, user: str, make: MakeProject) -> None:
    project = await make(1)
    whole = parts(project.project_id, names(1, 10))
    wrong = {
        "nothing": [],
        "no begin": whole[1:],
        "begin twice": [whole[0], *whole],
        "no end": whole[:2],
        "wrong count": [*whole[:2], pb.AddFilesRequest(end=pb.EndOfFiles(file_count=11))],
        "after the end": [*whole, whole[1]],
        "empty part": [whole[0], pb.AddFilesRequest()],
        "NUL": parts(project.project_id, [*names(1, 10), File("ns", "a\0b")]),
        "no UUID": parts(project.project_id, names(1, 10), request_id="x"),
    }
    async with open_channel(stack.url) as channel:
        stub = project_service_pb2_grpc.ProjectServiceStub(channel)
        metadata = bearer(stack.token(user))
        for name, messages in wrong.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.AddFiles(iter(messages), metadata=metadata, timeout=20)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, name
        reading = asyncio.Event()

        async def stalled() -> AsyncIterator[pb.AddFilesRequest]:
            for part in whole[:2]:
                yield part
            reading.set()
            await asyncio.Event().wait()

        call = stub.AddFiles(stalled(), metadata=metadata)
        await reading.wait()
        call.cancel()
        # those names are free: the transaction is gone
        reply = await stub.AddFiles(iter(whole), metadata=metadata, timeout=20)
        assert (reply.added, reply.project.counts.total) == (10, 11)


# --- open lists ------------------------------------------------------------------------------------------------------


async def test_an_open_project_waits_for_more(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(1, open=True)
    assert project.open
    await dispatch.done(await take(dispatch, project))
    assert (await dispatch.get_project(project.project_id)).state == "active"
    wait = await waiting(dispatch, project, "patient")
    await dispatch.add_files(project.project_id, names(1, 1))
    handle = await wait
    assert handle.name == "g000001"
    ended = await waiting(dispatch, project, "late")
    await dispatch.done(handle)
    assert isinstance(await dispatch.next_file(project.project_id, "other", timeout=0), TimedOut)
    closed, added, _ = await dispatch.add_files(project.project_id, [], open=False)
    assert (closed.state, closed.open, added) == ("done", False, 0)
    async with asyncio.timeout(2):
        assert await ended == ProjectEnded("done")


async def test_lists_are_opened_and_closed(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(1)
    await dispatch.report([Report(await take(dispatch, project), "failed_final")])
    assert (await dispatch.get_project(project.project_id)).state == "failed"
    opened, _, _ = await dispatch.add_files(project.project_id, [], open=True)
    assert (opened.state, opened.open, opened.ended) == ("active", True, None)
    wait = await waiting(dispatch, project, "patient")
    closed, _, _ = await dispatch.add_files(project.project_id, [], open=False)
    assert (closed.state, closed.open) == ("failed", False)
    assert await wait == ProjectEnded("failed")
    # nothing to begin with: an open one waits, and closing an empty list ends nothing
    empty = await dispatch.create_project([], attributes={"virtual": True}, open=True)
    wait = await waiting(dispatch, empty, "patient")
    assert (await dispatch.add_files(empty.project_id, names(1, 1), open=False))[0].state == "active"
    await dispatch.done(await wait)
    assert (await dispatch.get_project(empty.project_id)).state == "done"


# --- attempts that are used up ---------------------------------------------------------------------------------------


async def test_attempts_are_used_up_by_failures(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(1, max_attempts=3)
    assert project.max_attempts == 3
    for attempt in (1, 2, 3):
        handle = await take(dispatch, project)
        assert handle.attempts == attempt
        await dispatch.release(handle)  # does not count
        handle = await take(dispatch, project)
        assert handle.attempts == attempt
        await dispatch.failed(handle, retry=True, code="exit 1", message="no luck")
    project = await dispatch.get_project(project.project_id)
    assert (project.state, project.counts.failed) == ("failed", 1)
    (failed,) = await handles_of(dispatch, project.project_id)
    assert (failed.state, failed.attempts) == ("failed", 3)
    assert failed.reason is not None
    assert failed.reason.code == "MAX_ATTEMPTS"
    assert "exit 1" in failed.reason.message
    assert "no luck" in failed.reason.message
    assert failed.reason.worker_id == "w"

    # a restart gives one more attempt, whose success counts as any other
    await dispatch.restart_handles(project.project_id, states=["failed"])
    await dispatch.failed(await take(dispatch, project), retry=True)
    (failed,) = await handles_of(dispatch, project.project_id)
    assert (failed.state, failed.attempts) == ("failed", 4)
    await dispatch.restart_handles(project.project_id, states=["failed"])
    await dispatch.done(await take(dispatch, project))
    (done,) = await handles_of(dispatch, project.project_id)
    assert (done.state, done.reason) == ("done", None)
    assert (await dispatch.get_project(project.project_id)).state == "done"


async def test_attempts_are_used_up_by_time_outs(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(1, max_attempts=2, worker_timeout=0.2)
    for _ in range(2):
        await take(dispatch, project)
    async with asyncio.timeout(10):
        while (await dispatch.get_project(project.project_id)).state != "failed":
            await asyncio.sleep(0.05)
    (failed,) = await handles_of(dispatch, project.project_id)
    assert failed.reason is not None
    assert (failed.reason.code, failed.attempts, failed.attributes) == ("MAX_ATTEMPTS", 2, {"timeouts": 2})
    assert "WORKER_TIMEOUT" in failed.reason.message


async def test_without_a_cap_a_file_is_tried_for_ever(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(1)
    assert (project.max_attempts, project.max_running, project.open) == (None, None, False)
    for _ in range(20):
        await dispatch.failed(await take(dispatch, project))
    assert (await dispatch.get_project(project.project_id)).state == "active"
    with pytest.raises(InvalidRequestError) as caught:
        await make(1, max_attempts=-1)
    assert caught.value.field == "spec.max_attempts"


@pytest.mark.parametrize(
    ("value", "retried"),
    [
        (True, True),
        (False, False),
        ("True", True),
        ("true", True),
        ("TRUE", True),
        ("False", False),
        ("false", False),
        ("FALSE", False),
        (None, True),  # not given
    ],
)
async def test_retry_on_timeout_is_a_boolean_or_text_in_any_case(
    dispatch: DispatchClient, make: MakeProject, value: bool | str | None, retried: bool
) -> None:
    attributes = {} if value is None else {"retry_on_timeout": value}
    project = await make(1, worker_timeout=0.1, attributes=attributes)
    await take(dispatch, project)
    async with asyncio.timeout(10):
        while (await dispatch.get_project(project.project_id)).counts.reserved:
            await asyncio.sleep(0.05)
    (handle,) = await handles_of(dispatch, project.project_id)
    assert handle.state == ("initial" if retried else "failed")
    assert handle.reason is not None
    assert handle.reason.code == "WORKER_TIMEOUT"


# --- a limit on what runs --------------------------------------------------------------------------------------------


async def test_no_more_run_than_may(dispatch: DispatchClient, make: MakeProject) -> None:
    project = await make(3, max_running=2)
    first, second = await take(dispatch, project), await take(dispatch, project)
    wait = await waiting(dispatch, project, "patient")
    await dispatch.add_files(project.project_id, names(1, 2000))
    await dispatch.done(first)
    async with asyncio.timeout(5):
        third = await wait
    assert (await dispatch.get_project(project.project_id)).counts.reserved == 2
    await dispatch.done(second)
    await dispatch.done(third)
    running = most = 0

    async def work(name: str) -> None:
        nonlocal running, most
        while isinstance(handle := await dispatch.next_file(project.project_id, name, timeout=20), Handle):
            running += 1
            most = max(most, running)
            running -= 1  # before it is reported: whoever is told of it may get the next one first
            await dispatch.done(handle)

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(f"w{number}") for number in range(8)))
    assert most <= 2
    assert (await dispatch.get_project(project.project_id)).state == "done"


@pytest.mark.parametrize("max_running", [None, 3])
async def test_steering_a_project_while_it_is_drained(
    dispatch: DispatchClient, make: MakeProject, max_running: int | None
) -> None:
    """Everybody takes the same locks in the same order: nobody is shot by the database's deadlock detector."""
    project = await make(300, max_running=max_running, open=True)

    async def work(name: str) -> None:
        while True:
            taken = await dispatch.next_file(project.project_id, name, timeout=5)
            if isinstance(taken, Handle):
                await dispatch.report([Report(taken, "done")])  # refused if it was restarted meanwhile
            elif (await dispatch.get_project(project.project_id)).state == "done":
                return

    async def steer() -> None:
        for number in range(12):
            await dispatch.cancel_project(project.project_id)
            await dispatch.activate_project(project.project_id)
            await dispatch.add_files(project.project_id, names(10 * number, 10 * number + 9))
            await dispatch.restart_handles(project.project_id, files=[File("ns", f"f{number:06d}")])
        await dispatch.add_files(project.project_id, [], open=False)

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(steer())
        for number in range(8):
            tasks.create_task(work(f"w{number}"))
    counts = (await dispatch.get_project(project.project_id)).counts
    assert (counts.done, counts.total) == (420, 420)
